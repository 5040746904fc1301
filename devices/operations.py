"""What a worker can be asked to do, one function an operation; each gives a result for JSON, and arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from edgeface import weights
from edgeface.board_health import SOURCES, read_health
from edgeface.bundle import read_bundle
from edgeface.errors import DeviceError, OptionError, UnknownModelError, UnknownNameError
from edgeface.frames import FORMATS, Format, Frame
from edgeface.registry import Registry
from edgeface.runtime import catalog
from edgeface.runtime.benchmark import SEED, interleave, opencv_threads
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import Session
from edgeface.runtime.kernels import selftest
from edgeface.runtime.loading import load as load_detector
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.preference import preference_here
from edgeface.runtime.threads import default_threads

from .machine import machine
from .protocol import Arrays

SHUTDOWN = "shutdown"


@dataclass
class Loaded:
    """A bundle in memory; ``sessions`` are opened when a net is first run by itself."""

    directory: Path
    threads: int
    detector: Detector
    sessions: list[list[Session]] | None = None


@dataclass(frozen=True)
class Receiving:
    """A bundle on its way to ``directory``: its files come to ``incoming``, within ``work``, which ``place`` moves."""

    directory: Path
    work: Path
    place: AbstractContextManager[Path]

    @property
    def incoming(self) -> Path:
        """The folder of its files."""
        return self.work / "incoming"


class State:
    """What a worker holds between two requests: its loaded bundles by number, which never comes back.

    ``receiving``: bundles on their way, by the directory that each will have. ``at_end`` is closed when the worker
    ends, however its input does.
    """

    def __init__(self) -> None:
        self.at_end = ExitStack()
        self.receiving: dict[str, Receiving] = {}
        self._loaded: dict[int, Loaded] = {}
        self._last = 0

    def add(self, loaded: Loaded) -> int:
        """The number that it has from now on."""
        self._last += 1
        self._loaded[self._last] = loaded
        return self._last

    def get(self, number: int) -> Loaded:
        """Raises DeviceError for a number that nothing has."""
        if number not in self._loaded:
            raise DeviceError(f"no bundle {number} is loaded: load it first")
        return self._loaded[number]

    def drop(self, number: int) -> None:
        """Forget it; raises as ``get``."""
        self.get(number)
        del self._loaded[number]


Operation = Callable[[State, dict[str, Any], Arrays], tuple[Any, Arrays]]
Wanted = TypeVar("Wanted", bound="OperationOptions")

operation: Registry[Operation] = Registry("operation", UnknownNameError)


class OperationOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the options of one operation."""


def read(options: dict[str, Any], kind: type[Wanted]) -> Wanted:
    """A request's options, checked; raises OptionError."""
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise OptionError(f"the worker's options are wrong: {error}") from None


class Load(OperationOptions, frozen=True):
    """``bundle``: a shipped name, or a directory on the board, ~ for the home folder. The rest as ``edgeface.load``;
    ``size_px`` is the longest side, or the (width, height) of a frame."""

    bundle: str
    threads: int | None = None
    size_px: int | tuple[int, int] | None = None
    score: float | None = None
    nms_iou: float | None = None


@operation("load")
def load(state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """Check a bundle's hashes and open it; its number and its manifest."""
    wanted = read(options, Load)
    name = str(Path(wanted.bundle).expanduser()) if wanted.bundle.startswith("~") else wanted.bundle
    size = wanted.size_px
    path = catalog.find(name)
    threads = default_threads() if wanted.threads is None else wanted.threads
    detector = load_detector(
        path, threads=threads, size=min(size) if isinstance(size, tuple) else size, score=wanted.score,
        nms=wanted.nms_iou,
    )
    if size is not None:
        detector.size_px = size
    number = state.add(Loaded(path, threads, detector))
    return {"number": number, "threads": threads, "bundle": msgspec.to_builtins(detector.bundle)}, {}


class One(OperationOptions, frozen=True):
    """One loaded bundle."""

    number: int


@operation("unload")
def unload(state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """Forget a bundle."""
    state.drop(read(options, One).number)
    return None, {}


class Picture(OperationOptions, frozen=True):
    """A loaded bundle and what the array ``pixels`` is: see ``edgeface.frames``."""

    number: int
    format: str = "bgr"


def _frame(pixels_format: str, arrays: Arrays, name: str = "pixels") -> Frame:
    known: dict[str, Format] = {each: each for each in FORMATS}
    if pixels_format not in known or name not in arrays:
        raise OptionError(f"no picture {name!r} in one of {', '.join(FORMATS)} came with the request")
    return Frame(arrays[name], known[pixels_format])


@operation("detect")
def detect(state: State, options: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    """The faces in ``pixels``, as ``Faces.arrays``."""
    wanted = read(options, Picture)
    return None, state.get(wanted.number).detector(_frame(wanted.format, arrays)).arrays()


@operation("raw")
def raw(state: State, options: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    """Every output that ``Detector.raw`` gives for ``pixels``, float32 (C, H, W)."""
    wanted = read(options, Picture)
    return None, state.get(wanted.number).detector.raw(_frame(wanted.format, arrays))


class Infer(OperationOptions, frozen=True):
    """Net ``net`` of stage ``stage`` of a loaded bundle; all of its outputs where none are named."""

    number: int
    stage: int = 0
    net: int = 0
    outputs: list[str] | None = None


@operation("infer")
def infer(state: State, options: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    """What one net makes of ``x``, an array as its session takes it: float32 (C, H, W) each."""
    wanted = read(options, Infer)
    loaded = state.get(wanted.number)
    if loaded.sessions is None:
        loaded.sessions = open_sessions(loaded.directory, read_bundle(loaded.directory), loaded.threads)
    sessions = loaded.sessions
    if not (0 <= wanted.stage < len(sessions) and 0 <= wanted.net < len(sessions[wanted.stage])) or "x" not in arrays:
        raise OptionError(f"no net {wanted.net} in stage {wanted.stage} of this bundle, or no input x for it")
    session = sessions[wanted.stage][wanted.net]
    run = session.run(arrays["x"])
    names = sorted(session.outputs) if wanted.outputs is None else wanted.outputs
    return {"takes": session.takes}, {name: run.output(name) for name in names}


class Kernel(OperationOptions, frozen=True):
    """The name of a test of the kernels."""

    name: str


@operation("kernels")
def kernels(_state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """What the kernels compute from that test's own inputs."""
    return None, selftest.run(read(options, Kernel).name)


class Time(OperationOptions, frozen=True):
    """Loaded bundles to time side by side; the arrays ``picture0``, ``picture1`` ... are BGR."""

    numbers: list[int]
    threads: int
    rounds: int
    warm_up_rounds: int


@operation("time")
def time(state: State, options: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    """``samples`` (bundles, rounds, 4) float64: ms of preprocessing, network, decoding and all, every round in order;
    the result has the faces that each bundle found in all pictures, and the load before."""
    wanted = read(options, Time)
    if wanted.rounds < 1 or wanted.warm_up_rounds < 0 or not wanted.numbers:
        raise OptionError(f"{wanted.rounds} rounds of {len(wanted.numbers)} bundles cannot be timed: choose 1 or more")
    detectors = [state.get(number).detector for number in wanted.numbers]
    pictures = [_frame("bgr", arrays, f"picture{i}").pixels for i in range(max(1, len(arrays)))]
    load_1min = os.getloadavg()[0]
    with opencv_threads(wanted.threads):
        taken = interleave(
            [detector.timed for detector in detectors], pictures, wanted.rounds, wanted.warm_up_rounds, SEED
        )
    samples = np.array(
        [[(t.preprocess_ms, t.network_ms, t.decode_ms, t.total_ms) for t in one.timings] for one in taken], np.float64
    )
    faces = [sum(one.faces.values()) for one in taken]
    return {"faces": faces, "load_1min": load_1min}, {"samples": samples}


class HealthOptions(OperationOptions, frozen=True):
    """What to look at; as ``read_health`` takes it."""

    zones: Sequence[str] = ()
    sources: Sequence[str] = SOURCES


@operation("health")
def health(_state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """Temperatures, clocks and throttling now."""
    wanted = read(options, HealthOptions)
    return msgspec.to_builtins(read_health(wanted.zones, wanted.sources)), {}


@operation("machine")
def describe_machine(_state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """What the board really is."""
    read(options, OperationOptions)
    return msgspec.to_builtins(machine()), {}


@operation("serving")
def serving(_state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """Which board this is like, and what the models' names mean here."""
    read(options, OperationOptions)
    bundles = {}
    for model in sorted(weights.DEFAULTS):
        with suppress(UnknownModelError):   # an edgeface that was installed without it
            bundles[model] = catalog.find(weights.SHIPPED + model).name
    return {"board": preference_here().board, "bundles": bundles}, {}


class Pin(OperationOptions, frozen=True):
    """Linux's numbers of processors."""

    cpus: list[int]


@operation("pin")
def pin(_state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """Keep this process to some processors; bundles that are loaded later keep to them."""
    cpus = read(options, Pin).cpus
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError):
        named = ", ".join(map(str, cpus))
        raise DeviceError(f"this process cannot run on CPU {named}: mend the board's affinity") from None
    return None, {}
