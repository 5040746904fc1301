"""The networks, in torch: one folder or file a system, blocks they share, and the families that say all of a model."""

from __future__ import annotations

from edgeface.models import mos_export as _mos_export  # noqa: F401  (registers mos_s and its like)
from edgeface.models import patch_export as _patch_export  # noqa: F401  (registers mtcnn and tcnn)
from edgeface.models import s3fd_export as _s3fd_export  # noqa: F401  (registers s3fd and s3fd_light)
from edgeface.models.family import families

__all__ = ["families"]
