"""Holding the latency when the machine gets slower: a smaller input costs fewer pixels and misses small faces."""

from __future__ import annotations

import logging
import statistics
from collections import deque

from edgeface.errors import OptionError
from edgeface.stream.controls import Controls
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status

# Of the sides: each step costs about two thirds of the one above it.
_STEP = 0.8
_MULTIPLE_PX = 32
_SMALLEST_PX = 128
_LOOKS = 10             # results behind a decision, all at one size
_PATIENCE = 15.0        # seconds that all must be well before it is tried larger; doubled when that was too much
_LONGEST_PATIENCE = 240.0

_log = logging.getLogger("edgeface.stream")


class Adapter:
    """A sink that lowers ``controls.size_px`` while the median from capture to result is over ``target_ms``, and raises
    it again, up to what it was, once there is room. Raises OptionError for a target that cannot work.
    """

    def __init__(self, controls: Controls, target_ms: float) -> None:
        if target_ms <= 0:
            raise OptionError(f"a latency of {target_ms:g} ms cannot be held: choose more than 0")
        self._controls = controls
        self._target_ms = target_ms
        self._wanted_px = controls.settings.size_px
        self._set_px = self._wanted_px
        self._latencies_ms: deque[float] = deque(maxlen=_LOOKS)
        self._holds_since_s: float | None = None
        self._roomy_since_s: float | None = None
        self._patience_s = _PATIENCE
        self._is_trying = False     # it was raised, and is not known to hold yet

    def put(self, shot: Shot, result: Result) -> None:
        size_px = self._controls.settings.size_px
        if size_px != self._set_px:     # somebody has chosen another one: that is the new wish
            self._wanted_px = self._set_px = size_px
            self._patience_s, self._is_trying = _PATIENCE, False
            self._restart()
        self._latencies_ms.append(result.latency_ms)
        if len(self._latencies_ms) < _LOOKS:
            return
        now_s = shot.taken_monotonic_ns / 1e9
        median_ms = statistics.median(self._latencies_ms)
        if median_ms > self._target_ms:
            if self._is_trying:
                self._patience_s = min(2 * self._patience_s, _LONGEST_PATIENCE)
                self._is_trying = False
            self._set(self._smaller(size_px), f"capture to result takes {median_ms:.0f} ms")
            return
        if self._holds_since_s is None:
            self._holds_since_s = now_s
        elif now_s - self._holds_since_s >= _PATIENCE:
            self._is_trying = False
        larger_px = min(self._wanted_px, self._larger(size_px))
        # The cost goes with the number of pixels.
        if larger_px <= size_px or median_ms * (larger_px / size_px) ** 2 >= self._target_ms:
            self._roomy_since_s = None
            return
        self._roomy_since_s = now_s if self._roomy_since_s is None else self._roomy_since_s
        if now_s - self._roomy_since_s >= self._patience_s:
            self._set(larger_px, f"there is room again at {median_ms:.0f} ms")
            self._is_trying = True

    def status(self, status: Status) -> None:
        """Nothing depends on it."""

    def close(self) -> None:
        """Nothing is held."""

    def _set(self, size_px: int, why: str) -> None:
        self._restart()
        if size_px == self._set_px:
            return
        _log.info("input size %d -> %d pixels: %s", self._set_px, size_px, why)
        self._controls.set(size_px=size_px)
        self._set_px = size_px

    def _restart(self) -> None:
        self._latencies_ms.clear()
        self._holds_since_s = self._roomy_since_s = None

    def _smaller(self, size_px: int) -> int:
        smallest_px = max(_SMALLEST_PX, self._controls.smallest_px)
        return min(size_px, max(smallest_px, int(size_px * _STEP) // _MULTIPLE_PX * _MULTIPLE_PX))

    @staticmethod
    def _larger(size_px: int) -> int:
        return -(-int(size_px / _STEP) // _MULTIPLE_PX) * _MULTIPLE_PX
