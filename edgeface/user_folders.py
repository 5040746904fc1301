"""Where a user's own files for edgeface are, by the XDG base directory specification."""

from __future__ import annotations

import os
from pathlib import Path


def devices_directory() -> Path:
    """Where a user's own descriptions of boards are, one TOML a board; it may not be there."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification: a path that is not absolute is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "edgeface" / "devices"
