"""The ways to run the board half somewhere: here, emulated, or on a board by ssh."""

from __future__ import annotations

from ..progress import Progress, silent
from . import emulated as _emulated  # noqa: F401  (registers emulated)
from . import local as _local  # noqa: F401  (registers local)
from . import ssh as _ssh  # noqa: F401  (registers ssh)
from .registry import Command, Link, link, open_link, open_links

__all__ = ["Command", "Link", "Progress", "link", "open_link", "open_links", "silent"]
