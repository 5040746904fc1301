"""The machine that a stream runs on: how warm it is, and whether it runs slower than it could."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

from edgeface.board_health import Health, read_health

_FRESH_S = 1.0


@dataclass(frozen=True)
class Warmth:
    """One look. ``throttled`` says in words what slows the machine down now; empty: nothing does."""

    health: Health
    throttled: str

    def record(self) -> dict[str, Any]:
        """As a JSON object: ``temperatures`` of every zone in degrees Celsius, and ``throttled``."""
        temperatures = [{"name": zone.kind, "celsius": zone.celsius} for zone in self.health.zones]
        return {"temperatures": temperatures, "throttled": self.throttled or None}


class Thermometer:
    """Looks at most once a second, whoever asks; any thread may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_s = float("-inf")
        self._warmth = Warmth(Health([], [], []), "")

    def look(self) -> Warmth:
        """How warm it is, not older than a second."""
        with self._lock:
            now_s = monotonic()
            if now_s - self._looked_s >= _FRESH_S:
                health = read_health()
                throttled = "; ".join(throttle.what for throttle in health.throttling if throttle.now)
                self._warmth, self._looked_s = Warmth(health, throttled), now_s
            return self._warmth
