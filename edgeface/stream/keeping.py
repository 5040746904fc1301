"""For how long, and in how much room, what a camera writes is kept."""

from __future__ import annotations

from edgeface.errors import OptionError


def require_kept(what: str, days: float, megabytes: float) -> None:
    """Raises OptionError for limits by which none of ``what`` would be kept: ``days`` after it was written, and all
    together in ``megabytes`` (10^6 bytes)."""
    if not days > 0 or not megabytes >= 1:
        raise OptionError(
            f"{what} of {days:g} days in {megabytes:g} MB cannot be kept: choose more than 0 days, 1 MB"
        )
