"""Where the time of one picture goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.engines import RawMap, Run

Got = TypeVar("Got")


@dataclass(frozen=True)
class Timing:
    """Wall time of one picture in ms. ``preprocess_ms`` is all that makes inputs for nets, crops of faces included;
    ``network_ms`` is all time inside the engine, whichever net; ``decode_ms`` is what is neither."""

    preprocess_ms: float
    network_ms: float
    decode_ms: float
    total_ms: float


class Clock:
    """Runs from when it is made; whoever prepares inputs or enters an engine adds the time of that."""

    def __init__(self) -> None:
        self.preprocess_ns = 0
        self.network_ns = 0
        self._started = perf_counter_ns()

    def prepared(self, make: Callable[[], Got]) -> Got:
        """What ``make`` gives, its time added as that of an input."""
        start = perf_counter_ns()
        got = make()
        self.preprocess_ns += perf_counter_ns() - start
        return got

    def inside(self, enter: Callable[[], Got]) -> Got:
        """What ``enter`` gives, its time added as that of an engine."""
        start = perf_counter_ns()
        got = enter()
        self.network_ns += perf_counter_ns() - start
        return got

    def timing(self) -> Timing:
        """The time until now."""
        total_ns = perf_counter_ns() - self._started
        rest_ns = total_ns - self.preprocess_ns - self.network_ns
        return Timing(self.preprocess_ns / 1e6, self.network_ns / 1e6, rest_ns / 1e6, total_ns / 1e6)


class TimedRun:
    """A Run whose time inside the engine is added to ``clock``: the engine is entered again for every output."""

    def __init__(self, clock: Clock, start: Callable[[], Run]) -> None:
        self._clock = clock
        self._run = clock.inside(start)

    def output(self, name: str) -> NDArray[np.float32]:
        return self._clock.inside(lambda: self._run.output(name))

    def raw(self, name: str) -> RawMap:
        return self._clock.inside(lambda: self._run.raw(name))
