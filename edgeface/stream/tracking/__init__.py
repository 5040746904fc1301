"""Numbers that stay with faces: motion, association and the tracker."""

from __future__ import annotations

from edgeface.stream.tracking.tracker import Tracked, Tracker, TrackerOptions

__all__ = ["Tracked", "Tracker", "TrackerOptions"]
