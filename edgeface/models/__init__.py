"""The networks, in torch: one file a network, blocks they share, and the registry that builds them by name."""

from __future__ import annotations

from edgeface.models import mos as _mos  # noqa: F401  (registers mos_s)
from edgeface.models import mos_export as _mos_export  # noqa: F401  (registers its exporter)
from edgeface.models import patch_export as _patch_export  # noqa: F401  (registers theirs)
from edgeface.models import patch_nets as _patch_nets  # noqa: F401  (registers mtcnn and tcnn)
from edgeface.models import s3fd as _s3fd  # noqa: F401  (registers s3fd and s3fd_light)
from edgeface.models import s3fd_export as _s3fd_export  # noqa: F401  (registers their exporter)
from edgeface.models.registry import model

__all__ = ["model"]
