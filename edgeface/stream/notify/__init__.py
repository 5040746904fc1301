"""Events for robots and houses: faces that enter and leave, and who is told of it.

``visits.Visits`` makes events of results; the sink ``notifier.Notifier`` gives them to every ``Outlet``: a webhook, a
command, a broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

SCHEMA = 1


@runtime_checkable
class Outlet(Protocol):
    """Takes events, in order, all from one thread; each call takes microseconds, and what may wait is queued."""

    def happened(self, record: Mapping[str, Any]) -> None:
        """Pass on one event, an object for JSON. What can pass, such as a receiver that is down, is logged and
        counted and does not raise."""

    def present(self, faces: Mapping[str, int]) -> None:
        """Pass on how many faces are in each zone now, by the zone's name; called where that has changed."""

    def close(self) -> None:
        """Finish within a second and let go of everything; safe to call twice."""
