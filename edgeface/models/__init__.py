"""The networks, in torch: a file or more a system, blocks and trunks that they share, and models by name in zoo/."""

from __future__ import annotations

from edgeface.models import zoo as _zoo  # noqa: F401  (registers the models)
from edgeface.models.family import families

__all__ = ["families"]
