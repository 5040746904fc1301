"""Where a user's own files for edgeface are, by the XDG base directory specification."""

from __future__ import annotations

import os
from pathlib import Path


def devices_directory() -> Path:
    """Where a user's own descriptions of boards are, one TOML a board; it may not be there."""
    return _base("XDG_CONFIG_HOME", ".config") / "edgeface" / "devices"


def bundles_directory() -> Path:
    """Where bundles lie that 'edgeface deploy' brought to this machine, a folder a bundle; it may not be there."""
    return _base("XDG_DATA_HOME", ".local/share") / "edgeface" / "bundles"


def _base(variable: str, default: str) -> Path:
    base = os.environ.get(variable, "")
    # The specification: a path that is not absolute is to be ignored.
    return Path(base) if base.startswith("/") else Path.home() / default
