"""Sources and detectors that misbehave on purpose; the sources are registered here, where a capture process finds them.

A source's address says how: ``counting:10`` gives ten frames and ends.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import DamagedFrameError, InputError, SourceError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.runtime.clock import Timing
from edgeface.stream.sources import Grab, SourceSpec, live_frame, source
from edgeface.stream.sources.pictures import Damage

PERIOD_S = 0.02
START_NS = time.monotonic_ns()


def numbered(number: int, width_px: int = 64, height_px: int = 48) -> NDArray[np.uint8]:
    """A picture of one value throughout."""
    return np.full((height_px, width_px, 3), number % 256, np.uint8)


class Fake:
    """Frames of an iterator, one a period, or as soon as they are asked for."""

    def __init__(self, frames: Iterator[Frame], period_s: float = PERIOD_S) -> None:
        self.fps: float | None = 1 / PERIOD_S
        self._frames = frames
        self._period_s = period_s

    def read(self) -> Grab | None:
        time.sleep(self._period_s)
        frame = next(self._frames, None)
        return None if frame is None else Grab(frame, time.monotonic_ns())

    def close(self) -> None:
        pass


@source("counting")
def open_counting(spec: SourceSpec) -> Fake:
    """Frames 0, 1, 2 ...: as many as the address says, or for ever."""
    numbers = range(int(spec.address)) if spec.address else itertools.count()
    return Fake((Frame(numbered(n)) for n in numbers), 0.0 if spec.every_frame else PERIOD_S)


@source("unsteady")
def open_unsteady(spec: SourceSpec) -> Fake:
    """As many frames as the address says, each stamped 10 ms before the one before."""

    class Unsteady(Fake):
        def read(self) -> Grab | None:
            grab = super().read()
            if grab is None:
                return None
            self.late_ns += 10_000_000
            return Grab(grab.frame, START_NS - self.late_ns)

        late_ns = 0

    return Unsteady((Frame(numbered(n)) for n in range(int(spec.address))), 0.0)


@source("hanging")
def open_hanging(spec: SourceSpec) -> Fake:
    """As many frames as the address says, then a call that does not come back; a stop in a C call, as a driver's."""

    def frames() -> Iterator[Frame]:
        for n in range(int(spec.address)):
            yield Frame(numbered(n))
        while True:
            time.sleep(1000)

    return Fake(frames())


@source("hanging-open")
def open_never(spec: SourceSpec) -> Fake:
    time.sleep(1000)
    raise AssertionError


@source("dying")
def open_dying(spec: SourceSpec) -> Fake:
    """A frame, then a process that is gone, with a last word that names a password."""

    def frames() -> Iterator[Frame]:
        yield Frame(numbered(0))
        time.sleep(0.2)
        os.write(2, b"driver: assertion failed for rtsp://me:secret@camera/1\n")
        os._exit(7)

    return Fake(frames())


@source("flaky")
def open_flaky(spec: SourceSpec) -> Fake:
    """A source that cannot be opened until the file of the address is there, and fails when it is gone."""
    there = Path(spec.address)
    if not there.exists():
        raise SourceError("flaky: not there: plug it in")

    def frames() -> Iterator[Frame]:
        for n in itertools.count():
            if not there.exists():
                raise SourceError("flaky: unplugged")
            yield Frame(numbered(n))

    return Fake(frames())


@source("changing")
def open_changing(spec: SourceSpec) -> Fake:
    """Frames that grow far beyond the first, shrink, and change their format."""
    frames = (
        Frame(numbered(1, 32, 16)),
        Frame(numbered(2, 640, 480)),
        Frame(np.full((1080, 1920, 2), 3, np.uint8), "yuyv"),
        Frame(np.full((72, 64), 4, np.uint8), "nv12"),
        Frame(numbered(5, 16, 16)),
    )
    return Fake(iter(frames), 0.0)


@source("empty")
def open_empty(spec: SourceSpec) -> Fake:
    """A frame of no pixels among good ones."""
    shapes = ((16, 16, 3), (0, 16, 3))
    return Fake(live_frame(np.zeros(shape, np.uint8), "bgr", "empty") for shape in shapes)


@source("often-damaged")
def open_often_damaged(spec: SourceSpec) -> Fake:
    """A frame, as many damaged ones as the address says, ten a second, and then frames for ever."""

    class OftenDamaged(Fake):
        def __init__(self) -> None:
            super().__init__(Frame(numbered(n)) for n in itertools.count())
            self.damage = Damage()
            self.reads = 0

        def read(self) -> Grab | None:
            self.reads += 1
            if self.reads == 2:
                for _ in range(int(spec.address)):
                    time.sleep(0.1)
                    self.damage.count(DamagedFrameError("often-damaged: a picture came damaged"))
            return super().read()

    return OftenDamaged()


@source("damaged")
def open_damaged(spec: SourceSpec) -> Fake:
    raise InputError("clip.mp4: damaged: copy it again")


class Detector:
    """Finds one face in every frame, at the value of its first pixel; fails on those values that it is told to."""

    def __init__(self, failing: frozenset[int] | None = frozenset()) -> None:
        self.size_px: int | tuple[int, int] = 64
        self.score = 0.5
        self.looked: list[int] = []
        self._failing = failing

    def timed(self, image: Frame) -> tuple[Faces, Timing]:
        value = int(image.pixels.flat[0])
        self.looked.append(value)
        if self._failing is None or value in self._failing:
            raise RuntimeError("no faces today")
        box = np.array([[value, 10, value + 20, 30]], np.float32)
        return Faces(box, np.array([0.95], np.float32)), Timing(1.0, 2.0, 0.5, 3.5)
