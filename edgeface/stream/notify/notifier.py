"""The sink that tells every outlet what happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeface.stream.notify import Outlet
from edgeface.stream.notify.visits import Visits
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status


class Notifier:
    """Gives what ``visits`` makes of results to ``outlets``, and closes them."""

    def __init__(self, visits: Visits, outlets: Sequence[Outlet]) -> None:
        self._visits = visits
        self._outlets = outlets
        self._present: dict[str, int] | None = None
        self._is_closed = False

    def put(self, shot: Shot, result: Result) -> None:
        self._tell(self._visits.add(shot, result))

    def status(self, status: Status) -> None:
        """Events are of faces."""

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._tell(self._visits.end())
        self._close(self._outlets)

    def _tell(self, records: Sequence[dict[str, Any]]) -> None:
        present = self._visits.present()
        for outlet in self._outlets:
            for record in records:
                outlet.happened(record)
            if present != self._present:
                outlet.present(present)
        self._present = present

    def _close(self, outlets: Sequence[Outlet]) -> None:
        """Close the first and, whatever it raises, the others."""
        if outlets:
            try:
                outlets[0].close()
            finally:
                self._close(outlets[1:])
