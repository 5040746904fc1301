"""Where a user's own files for edgeface are, by the XDG base directory specification.

None of these need be there, or may be looked into: a service may have no home, and a container a user without a name.
Ask by ``regular_files.is_there``, which answers no then, where ``Path.exists`` raises PermissionError.
"""

from __future__ import annotations

import os
from pathlib import Path

# What Debian calls the home of users that have none.
_NO_HOME = Path("/nonexistent")


def devices_directory() -> Path:
    """Where a user's own descriptions of boards are, one TOML a board."""
    return config_directory() / "edgeface" / "devices"


def bundles_directory() -> Path:
    """Where bundles lie that 'edgeface deploy' brought to this machine, a folder a bundle."""
    return _base("XDG_DATA_HOME", ".local/share") / "edgeface" / "bundles"


def cache_directory() -> Path:
    """Where edgeface keeps what it can make again, a folder a kind: ``$XDG_CACHE_HOME/edgeface``, by default below
    ``~/.cache``."""
    return _base("XDG_CACHE_HOME", ".cache") / "edgeface"


def config_directory() -> Path:
    """``$XDG_CONFIG_HOME``, by default ``~/.config``."""
    return _base("XDG_CONFIG_HOME", ".config")


def _base(variable: str, default: str) -> Path:
    base = os.environ.get(variable, "")
    # The specification: a path that is not absolute is to be ignored.
    return Path(base) if base.startswith("/") else _home() / default


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:        # neither HOME nor a user of that number
        return _NO_HOME
