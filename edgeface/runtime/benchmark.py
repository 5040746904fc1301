"""Timing detectors side by side: what is compared runs interleaved in one process, and every sample counts."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.board_health import read_health
from edgeface.errors import OptionError
from edgeface.faces import Faces
from edgeface.runtime import catalog
from edgeface.runtime.clock import Timing
from edgeface.runtime.detector import MAX_SIZE_PX, Detector
from edgeface.runtime.loading import load

if TYPE_CHECKING:
    from edgeface.board_health import Health

HOST = "host"
WARM_UP_ROUNDS = 5
SEED = 0

Image = NDArray[np.uint8]
Timed = Callable[[Image], tuple[Faces, Timing]]


class Quantiles(msgspec.Struct, frozen=True):
    """What a list of times in ms comes to. pN is the smallest of them that N % of them do not exceed (nearest rank), so
    that each figure but the mean is a time that was measured; of fewer than 100 samples p99 is the slowest."""

    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    mean: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Quantiles:
        """Of at least one time in ms; rounded to 0.1 microseconds."""
        ordered = sorted(samples_ms)
        count = len(ordered)

        def rank(percent: int) -> float:
            return round(ordered[max(0, -(-percent * count // 100) - 1)], 4)

        return cls(rank(0), rank(50), rank(90), rank(95), rank(99), rank(100), round(sum(ordered) / count, 4))


class Measured(msgspec.Struct, frozen=True):
    """The times of one bundle. ``given`` is how it was asked for; ``samples`` the runs behind each list of quantiles;
    ``faces`` the faces in one look at every picture."""

    given: str
    name: str
    model: str
    engine: str
    precision: str
    size_bytes: int
    samples: int
    faces: int
    preprocess_ms: Quantiles
    network_ms: Quantiles
    decode_ms: Quantiles
    total_ms: Quantiles


class Condition(msgspec.Struct, frozen=True):
    """A look at the machine beside a measurement: its hottest sensor in degrees Celsius, None where it shows none; by
    the processors that share one, "0,1", the clock in MHz; and what makes it slower than it could be, in words."""

    hottest_c: float | None
    mhz: dict[str, int]
    throttling: list[str]

    @classmethod
    def of(cls, health: Health) -> Condition:
        """What ``edgeface.board_health`` saw. What slowed it once, and does not now, is left out."""
        return cls(
            health.hottest_c,
            {",".join(map(str, clock.cpus)): clock.mhz for clock in health.clocks},
            [throttle.what for throttle in health.throttling if throttle.now],
        )


class Report(msgspec.Struct, frozen=True):
    """What was measured, on what. ``place`` is "host", this machine's processor, or "board"; ``size_px`` the longest
    side of the input or its (width, height); ``load_1min`` the system's load average before the first run;
    ``conditions`` those before and after all runs."""

    place: str
    cpu: str
    processors: int
    load_1min: float
    threads: int
    size_px: int | tuple[int, int]
    pictures: str
    picture_count: int
    warm_up_rounds: int
    rounds: int
    seed: int
    bundles: list[Measured]
    conditions: list[Condition]

    def to_json(self) -> bytes:
        """Indented, for people to read as well."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


@dataclass(frozen=True)
class Pictures:
    """What the detectors look at, uint8 (H, W, 3) BGR each, at least one; ``source`` says in words what they are."""

    source: str
    images: Sequence[Image]


@dataclass(frozen=True)
class Subject:
    """A loaded bundle or checkpoint: how it was asked for, and its files' size."""

    given: str
    size_bytes: int
    detector: Detector


@dataclass
class Samples:
    """Every measured run of one detector in order, and the faces it found in each picture, by the picture's index."""

    timings: list[Timing] = field(default_factory=list)
    faces: dict[int, int] = field(default_factory=dict)


def open_subject(
    name_or_path: str,
    *,
    threads: int,
    size_px: int | tuple[int, int],
    engine: str | None = None,
    refine: str | None = None,
    min_face: float | None = None,
    thresholds: Sequence[float] | None = None,
    candidates: int | None = None,
) -> Subject:
    """Load a name, a bundle's directory or a checkpoint for an input of ``size_px``: longest side, or (width, height).
    ``engine`` is what a model's name alone leaves open; ``refine`` to ``candidates`` are those of ``edgeface.load``.

    Raises what ``edgeface.load`` raises.
    """
    sides = size_px if isinstance(size_px, tuple) else (size_px,)
    if max(sides) > MAX_SIZE_PX:
        raise OptionError(f"size {size_px} cannot work: choose at most {MAX_SIZE_PX} pixels")
    path = catalog.find(name_or_path, engine)
    detector = load(
        path, engine=engine, threads=threads, size=min(sides), refine=refine, min_face=min_face, thresholds=thresholds,
        candidates=candidates,
    )
    detector.size_px = size_px
    files = detector.bundle.files
    return Subject(name_or_path, sum(f.size_bytes for f in files) if files else path.stat().st_size, detector)


def benchmark(
    subjects: Sequence[Subject], pictures: Pictures, *, threads: int, size_px: int | tuple[int, int], rounds: int
) -> Report:
    """Time ``subjects`` in ``rounds`` (1 or more) interleaved rounds after a warm-up; ``threads`` and ``size_px`` are
    those that they were opened with. Raises InputError and EngineError as a Detector does."""
    load_1min = round(os.getloadavg()[0], 2)
    before = Condition.of(read_health())
    with opencv_threads(threads):
        samples = interleave(
            [subject.detector.timed for subject in subjects], pictures.images, rounds, WARM_UP_ROUNDS, SEED
        )
    conditions = [before, Condition.of(read_health())]
    return Report(
        place=HOST,
        cpu=cpu_model(),
        processors=len(os.sched_getaffinity(0)),
        load_1min=load_1min,
        threads=threads,
        size_px=size_px,
        pictures=pictures.source,
        picture_count=len(pictures.images),
        warm_up_rounds=WARM_UP_ROUNDS,
        rounds=rounds,
        seed=SEED,
        bundles=[_measured(subject, taken) for subject, taken in zip(subjects, samples, strict=True)],
        conditions=conditions,
    )


def interleave(
    timed: Sequence[Timed], pictures: Sequence[Image], rounds: int, warm_up_rounds: int, seed: int
) -> list[Samples]:
    """The samples of each of ``timed``, ``rounds`` a list, none left out.

    In a round each runs once on the round's picture, in an order shuffled anew by ``seed``: what slows the machine for
    a while slows all alike, and none runs always after the same other. Pictures take turns. The warm-up rounds come
    first, are the same and are not kept.
    """
    rng = random.Random(seed)
    samples = [Samples() for _ in timed]
    order = list(range(len(timed)))
    for number in range(-warm_up_rounds, rounds):
        index = number % len(pictures)
        rng.shuffle(order)
        for i in order:
            faces, timing = timed[i](pictures[index])
            if number >= 0:
                samples[i].timings.append(timing)
                samples[i].faces.setdefault(index, len(faces))
    return samples


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux gives it; the architecture ("aarch64") where it gives none."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.machine()


def synthetic_scene(width_px: int = 640, height_px: int = 480) -> Image:
    """A drawn picture without faces, uint8 (H, W, 3), always the same: a gradient, discs and noise."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    scene = np.stack([x * (160 / width_px), y * (160 / height_px), 200 - y * (120 / height_px)], axis=-1)
    for _ in range(24):
        centre_x, centre_y, radius = rng.uniform(0, width_px), rng.uniform(0, height_px), rng.uniform(8, 80)
        scene[(x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    scene += rng.normal(0, 8, scene.shape)
    return scene.clip(0, 255).astype(np.uint8)


@contextmanager
def opencv_threads(threads: int) -> Iterator[None]:
    """OpenCV would resize on all processors, whatever number of ``threads`` the figures are said to be for."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _measured(subject: Subject, samples: Samples) -> Measured:
    bundle, timings = subject.detector.bundle, samples.timings
    return Measured(
        given=subject.given,
        name=bundle.name,
        model=bundle.model,
        engine=bundle.engine,
        precision=bundle.form,
        size_bytes=subject.size_bytes,
        samples=len(timings),
        faces=sum(samples.faces.values()),
        preprocess_ms=Quantiles.of([t.preprocess_ms for t in timings]),
        network_ms=Quantiles.of([t.network_ms for t in timings]),
        decode_ms=Quantiles.of([t.decode_ms for t in timings]),
        total_ms=Quantiles.of([t.total_ms for t in timings]),
    )
