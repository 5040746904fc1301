"""The loop: the newest shot, the faces in it, their tracks, and every sink."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import OptionError
from edgeface.faces import Faces
from edgeface.stream.controls import Controls
from edgeface.stream.results import Result, TrackedFaces
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import Sink
from edgeface.stream.supervision import Supervisor
from edgeface.stream.tracking import TrackerOptions

if TYPE_CHECKING:
    from edgeface.frames import Frame
    from edgeface.runtime.clock import Timing
    from edgeface.stream.tracking import Tracked, Tracker

# Frames in a row that the detector fails on until that ends the run.
MOST_FAILURES = 10
# How often the loop looks up from waiting for a frame.
_WAIT_S = 0.1
_LATENCIES = 10_000

_log = logging.getLogger("edgeface.stream")


class Detects(Protocol):
    """The part of Detector in use; ``size_px`` and ``score`` are set between frames."""

    size_px: int | tuple[int, int]
    score: float

    def timed(self, image: Frame) -> tuple[Faces, Timing]: ...


@dataclass(frozen=True)
class Limits:
    """When to end a run by itself: after so many results, or seconds; None: never."""

    frames: int | None = None
    seconds: float | None = None


@dataclass
class Totals:
    """What a run came to: results, those with faces, frames dropped and failed, seconds from the first result to the
    last, and the latencies of the last 10,000 results in ms."""

    frames: int = 0
    with_faces: int = 0
    dropped: int = 0
    failed: int = 0
    seconds: float = 0.0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))


class Loop:
    """Detects in every ``detect_every``-th shot and lets ``tracker`` fill in for the others.

    With a tracker the detector runs at the tracker's ``low_score``, and the score of ``controls`` is the least that
    starts a track; without one it is the detector's. ``controls`` may be changed while it runs. Raises OptionError when
    shots are to be left out and nothing fills in for them.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        detector: Detects,
        *,
        tracker: Tracker | None = None,
        detect_every: int = 1,
        controls: Controls | None = None,
    ) -> None:
        if detect_every < 1:
            raise OptionError(f"detecting in every {detect_every}-th frame cannot work: choose 1 or more")
        if detect_every > 1 and tracker is None:
            raise OptionError("frames are left out only where tracking fills in for them: detect in every frame")
        self._supervisor = supervisor
        self._detector = detector
        self._tracker = tracker
        self._detect_every = detect_every
        self._controls = controls
        self._since_detection = 0
        self._failures = 0
        self._last_error: Exception | None = None
        self._time_s = 0.0
        self.failed = 0

    def results(
        self, stop: threading.Event, on_status: Callable[[Status], None], limits: Limits | None = None
    ) -> Iterator[tuple[Shot, Result]]:
        """Shots and what was found in them, until ``stop`` is set, the source ends or a limit is reached.

        ``on_status`` is called with every change of the source's state, between results. A frame that the detector
        fails on is logged and counted. After MOST_FAILURES in a row, or when the source ends and not one succeeded,
        the detector's error is raised; so is what ends the source for good.
        """
        limits = limits or Limits()
        frames = 0
        deadline_s = None if limits.seconds is None else monotonic() + limits.seconds
        while not stop.is_set() and (limits.frames is None or frames < limits.frames):
            if deadline_s is not None and monotonic() >= deadline_s:
                return
            shot = self._supervisor.newest(_WAIT_S)
            for status in self._supervisor.changes():
                on_status(status)
            if shot is None:
                if self._supervisor.is_over:
                    break
                continue
            result = self._result(shot)
            if result is not None:
                frames += 1
                yield shot, result
        if not frames and self._last_error is not None and self._supervisor.is_over:
            raise self._last_error

    def _result(self, shot: Shot) -> Result | None:
        stages_ms: dict[str, float] = {}
        self._apply_controls()
        is_look = self._since_detection == 0
        self._since_detection = (self._since_detection + 1) % self._detect_every
        found: Faces | None = None
        if is_look:
            found = self._detect(shot, stages_ms)
            if found is None:
                # The next frame is looked at instead.
                self._since_detection = 0
                return None
        ended: tuple[int, ...] = ()
        others: NDArray[np.floating] = np.zeros((0, 4))
        if self._tracker is None:
            assert found is not None    # without a tracker every frame is looked at
            faces = TrackedFaces.of(found)
        else:
            tracked = self._track(self._tracker, found, shot, stages_ms)
            faces, ended = TrackedFaces.of(tracked.faces, tracked.ids, tracked.seen), tracked.ended
            others = self._tracker.boxes()
            if found is not None:
                others = np.concatenate([others, found.boxes])
        latency_ms = (time.monotonic_ns() - shot.taken_monotonic_ns) / 1e6
        return Result(faces, is_look, ended, stages_ms, latency_ms, shot.status.dropped, self.failed, others)

    def _detect(self, shot: Shot, stages_ms: dict[str, float]) -> Faces | None:
        try:
            faces, timing = self._detector.timed(shot.frame)
        except Exception as error:
            self.failed += 1
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise
            if str(error) != str(self._last_error):
                _log.warning("frame %d: the detector failed: %s: %s", shot.number, type(error).__name__, error)
            self._last_error = error
            return None
        self._failures = 0
        stages_ms.update(preprocess=timing.preprocess_ms, network=timing.network_ms, decode=timing.decode_ms)
        return faces

    def _track(self, tracker: Tracker, found: Faces | None, shot: Shot, stages_ms: dict[str, float]) -> Tracked:
        start_ns = perf_counter_ns()
        # Not every driver's stamps rise.
        self._time_s = max(self._time_s, shot.taken_monotonic_ns / 1e9)
        tracked = tracker.predict(self._time_s) if found is None else tracker.update(found, self._time_s)
        stages_ms["track"] = (perf_counter_ns() - start_ns) / 1e6
        return tracked

    def _apply_controls(self) -> None:
        if self._controls is None:
            return
        settings = self._controls.settings
        if self._detector.size_px != settings.size_px:
            self._detector.size_px = settings.size_px
        if self._tracker is None:
            self._detector.score = settings.score
            return
        options = self._tracker.options
        if options.start_score != settings.score:
            self._tracker.options = options = tracking_options(settings.score, options)
        self._detector.score = options.low_score


def tracking_options(score: float, options: TrackerOptions | None = None) -> TrackerOptions:
    """The options of a tracker, by default TrackerOptions(), with ``score`` as the least that starts a track: the
    model's own, where the user wants no other."""
    return replace(options or TrackerOptions(), start_score=score, low_score=min(TrackerOptions().low_score, score))


def run(loop: Loop, sinks: Sequence[Sink], stop: threading.Event, limits: Limits | None = None) -> Totals:
    """Give every result and every change of state to every sink, then close the sinks, after an error too.

    Raises what ``Loop.results`` and the sinks raise: the first error.
    """
    totals = Totals()
    started_s = 0.0

    def tell(status: Status) -> None:
        for sink in sinks:
            sink.status(status)

    try:
        for shot, result in loop.results(stop, tell, limits):
            for sink in sinks:
                sink.put(shot, result)
            started_s = started_s or monotonic()
            totals.frames += 1
            totals.with_faces += bool(len(result.faces))
            totals.dropped = result.dropped
            totals.seconds = monotonic() - started_s
            totals.latencies_ms.append(result.latency_ms)
    finally:
        totals.failed = loop.failed
        _close_all(sinks)
    return totals


def _close_all(sinks: Sequence[Sink]) -> None:
    """Close the first and, whatever it raises, the others."""
    if sinks:
        try:
            sinks[0].close()
        finally:
            _close_all(sinks[1:])
