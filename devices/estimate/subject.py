"""What runs inside an emulated root to be counted: ``python -m edgeface.devices.estimate.subject JOBS OUTCOME``.

JOBS is a JSON file with a list of jobs, and OUTCOME the JSON file that their Outcome becomes. What a job marks has been
loaded, and has run before where that makes a difference.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from edgeface.devices.estimate.inputs import face_boxes
from edgeface.devices.estimate.jobs import (
    EMPTY,
    CropsJob,
    Job,
    LayersJob,
    NetJob,
    OperatorsJob,
    Outcome,
    Place,
    StagesJob,
)
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeface.bundle import file_sets, read_bundle
from edgeface.errors import InstallError
from edgeface.frames import as_frame
from edgeface.runtime import engines
from edgeface.runtime.clock import Clock, Got
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import Options, RawMap, Run, Session
from edgeface.runtime.engines.ncnn import open_ncnn_traced
from edgeface.runtime.engines.ncnn_files import WEIGHTED, Layer, parse_param
from edgeface.runtime.engines.tflite import interpreter_class
from edgeface.runtime.kernels import library, status
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.preprocess import normalise
from edgeface.runtime.stages.kinds import kind_of
from edgeface.runtime.stages.stage import Found, NextStage, Scene

_WARM_UP_RUNS = 2


class _Marks:
    """Marks regions and remembers what they are."""

    def __init__(self) -> None:
        kernels = library()
        if kernels is None:
            raise InstallError(f"counting needs the C kernels: {status().text}")
        self._begin, self._end = kernels.ef_mark_begin, kernels.ef_mark_end
        self.places: list[Place] = []
        self.faces: dict[int, int] = {}
        self._entered = False

    def enter(self, place: Place) -> None:
        """Begin a region and end the one before it; ``leave`` ends the last one."""
        self.leave()
        self._entered = True
        self.begin(place)

    def leave(self) -> None:
        if self._entered:
            self.end()
        self._entered = False

    @contextmanager
    def region(self, place: Place) -> Iterator[None]:
        self.begin(place)
        yield
        self.end()

    def begin(self, place: Place) -> None:
        self.places.append(place)
        self._begin()

    def end(self) -> None:
        self._end()


class _Walk:
    """Knows which stage of a detector runs, from whom its sessions are called by.

    With ``replays`` its sessions compute nothing: their runs give what those of an earlier walk gave, in their order.
    """

    def __init__(self, job: int, enter: Callable[[Place], None], replays: _Walk | None = None) -> None:
        self._job, self._enter = job, enter
        self._replayed = None if replays is None else iter(replays.runs)
        self.stage = ""
        self.runs: list[_WalkedRun] = []

    def go(self, stage: str) -> None:
        self.stage = stage
        self._enter(Place(self._job, stage))

    def run(self, session: Session, stage: str, x: NDArray[Any]) -> Run:
        if self._replayed is not None:
            self.go("decoding")
            return next(self._replayed)
        self.go(stage)
        run = _WalkedRun(session.run(x), stage, self)
        self.go("decoding")
        self.runs.append(run)
        return run


class _WalkedRun:
    """Gives each map as the engine does, once; from then on it is known."""

    def __init__(self, run: Run, stage: str, walk: _Walk) -> None:
        self._run, self._stage, self._walk = run, stage, walk
        self._known: dict[tuple[str, str], Any] = {}

    def output(self, name: str) -> NDArray[np.float32]:
        out: NDArray[np.float32] = self._once("output", name)
        return out

    def raw(self, name: str) -> RawMap:
        out: RawMap = self._once("raw", name)
        return out

    def _once(self, how: str, name: str) -> Any:
        if (how, name) not in self._known:
            self._walk.go(self._stage)
            self._known[how, name] = getattr(self._run, how)(name)
            self._walk.go("decoding")
        return self._known[how, name]


class _WalkedSession:
    """A session that tells the walk of the moment when it is at work."""

    def __init__(self, session: Session, stage: str, walk: _Walk) -> None:
        self._session, self._stage, self.walk = session, stage, walk
        self.outputs, self.takes = session.outputs, session.takes

    def run(self, x: NDArray[Any]) -> Run:
        return self.walk.run(self._session, self._stage, x)


def _stages(number: int, job: StagesJob, marks: _Marks) -> None:
    directory, picture = Path(job.directory), np.load(job.picture)
    bundle = read_bundle(directory)
    first = _Walk(number, _ignore)
    sessions = [
        [_WalkedSession(session, kind_of(stage).label, first) for session in opened]
        for stage, opened in zip(bundle.stages, open_sessions(directory, bundle, 1), strict=True)
    ]
    detector = Detector(bundle, sessions, size_px=job.size_px, score=job.score, nms_iou=job.nms_iou)

    def detect(walk: _Walk) -> int:
        for session in (session for opened in sessions for session in opened):
            session.walk = walk
        walk.go("preprocessing")
        return len(detector.timed(picture, _WalkedClock(walk))[0])

    marks.faces[number] = detect(first)
    detect(_Walk(number, _ignore, replays=first))
    gc.collect()
    detect(_Walk(number, marks.enter))
    marks.leave()
    again = _Walk(number, _ignore, replays=first)
    with _kernels_marked(number, again, marks):
        detect(again)


def _ignore(_place: Place) -> None:
    pass


class _WalkedClock(Clock):
    """A clock that tells the walk of the moments when inputs for nets are made: of crops that is between two nets."""

    def __init__(self, walk: _Walk) -> None:
        super().__init__()
        self._walk = walk

    def prepared(self, make: Callable[[], Got]) -> Got:
        came_from = self._walk.stage
        if came_from != "preprocessing":
            self._walk.go("preprocessing")
        got = super().prepared(make)
        if came_from != "preprocessing":
            self._walk.go(came_from)
        return got


def _crops(number: int, job: CropsJob, marks: _Marks) -> None:
    directory, picture = Path(job.directory), np.load(job.picture)
    bundle = read_bundle(directory)
    stage = bundle.stages[job.stage]
    first = _Walk(number, _ignore)
    (files,) = file_sets(stage)
    folder = bundle.folder(directory, files)
    net = engines.engine.get(bundle.engine)(folder, files, stage.input, Options(1, bundle.form))
    session = _WalkedSession(net, "network", first)
    # As the last stage it answers for everything that its net gives.
    alone = replace(bundle, stages=[stage])
    refine_once: NextStage = kind_of(stage).opened(alone, 0, [session])
    frame, boxes = as_frame(picture), face_boxes(picture, job.count)

    def refine(walk: _Walk) -> None:
        session.walk = walk
        walk.go("decoding")
        # With a score of 1 a mean keeps them all, so that every output is read of them.
        scene = Scene(frame, _WalkedClock(walk), bundle.defaults.size_px, 0.0, bundle.defaults.nms_iou)
        refine_once(scene, Found(boxes, np.ones(len(boxes), np.float32)))

    refine(first)
    gc.collect()
    refine(_Walk(number, marks.enter))
    marks.leave()


@contextmanager
def _kernels_marked(number: int, walk: _Walk, marks: _Marks) -> Iterator[None]:
    """Every call of a C kernel becomes a region while the block runs."""
    kernels = library()
    names = [name for name in vars(kernels) if name.startswith("ef_") and not name.startswith(("ef_mark", "ef_abi"))]
    before = {name: getattr(kernels, name) for name in names}

    def marked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            marks.begin(Place(number, walk.stage, name))
            result = function(*arguments)
            marks.end()
            return result

        return call

    for name, function in before.items():
        setattr(kernels, name, marked(name, function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(kernels, name, function)


def _net(number: int, job: NetJob, marks: _Marks) -> None:
    session = engines.engine.get(job.engine)(Path(job.directory), job.files, job.input, Options(1, job.precision))
    x = np.zeros(job.shape, np.float32)

    def run() -> None:
        started = session.run(x)
        for name in sorted(session.outputs):
            started.output(name)

    run()
    gc.collect()
    with marks.region(Place(number, "network")):
        run()


def _layers(number: int, job: LayersJob, marks: _Marks) -> None:
    directory = Path(job.directory)
    bundle = read_bundle(directory)
    stage = bundle.stages[job.stage]
    (files,) = file_sets(stage)
    folder = bundle.folder(directory, files)
    session = open_ncnn_traced(folder, files, stage.input, Options(1, bundle.form))
    kind = kind_of(stage)
    pixels = kind.pixels(stage, np.load(job.picture), job.size_px)
    assert pixels is not None       # whoever made the job asked
    x = normalise(pixels, *kind.normalisation(stage))
    layers = [layer for layer in parse_param((folder / files[0]).read_text("ascii")) if layer.kind != "Input"]
    started = session.run(x)
    gc.collect()
    for layer in layers:
        for part in (layer.name, f"{layer.name} again"):
            with marks.region(Place(number, "network", part, layer.kind, _detail(layer))):
                started.compute(layer.produces[0])


def _detail(layer: Layer) -> str:
    """A weighted layer's window with its stride, and channels read and made: "3x3 / 2, 3 to 24"."""
    if layer.kind not in WEIGHTED:
        return ""
    width = layer.integer(1, 1) if "Convolution" in layer.kind else 1
    height, stride = layer.integer(11, width), layer.integer(3, 1)
    weights = layer.integer(WEIGHTED[layer.kind][2])
    groups = layer.integer(7, 1) if "DepthWise" in layer.kind else 1
    read = weights * groups // (layer.outputs * width * height)
    return f"{width}x{height}{f' / {stride}' if stride > 1 else ''}, {read} to {layer.outputs}"


def _operators(job_number: int, job: OperatorsJob, marks: _Marks) -> None:
    for path in sorted(Path(job.directory).glob("*.tflite")):
        interpreter = interpreter_class()(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        values = np.load(path.with_suffix(".npz"))
        for number, detail in enumerate(interpreter.get_input_details()):
            interpreter.set_tensor(detail["index"], values[f"arr_{number}"])
        interpreter.invoke()
        with marks.region(Place(job_number, "network", path.stem)):
            interpreter.invoke()


_RUN: dict[type, Callable[[int, Any, _Marks], None]] = {
    NetJob: _net, StagesJob: _stages, LayersJob: _layers, CropsJob: _crops, OperatorsJob: _operators,
}


def main(arguments: Sequence[str]) -> None:
    """Run the jobs of file ``arguments[0]`` and write what they left to file ``arguments[1]``."""
    jobs, outcome = (Path(argument) for argument in arguments)
    marks = _Marks()
    for _ in range(_WARM_UP_RUNS):
        with marks.region(Place(-1, EMPTY)):
            pass
    for number, job in enumerate(msgspec.json.decode(jobs.read_bytes(), type=list[Job])):
        _RUN[type(job)](number, job, marks)
    outcome.write_bytes(msgspec.json.encode(Outcome(marks.places, marks.faces)))


if __name__ == "__main__":
    main(sys.argv[1:])
