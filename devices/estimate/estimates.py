"""Estimates of what bundles take on a board that is not at hand: each stage, and each layer of the network.

What the emulated board executes is counted and costed, and a factor that was calibrated on published times makes time
of it. No wall time of an emulator is in any of these figures.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from edgeface.devices import boards
from edgeface.devices.boards import Board
from edgeface.devices.cores import cores_of
from edgeface.devices.emulation.root import EmulatedRoot, ensure_root
from edgeface.devices.estimate import calibration
from edgeface.devices.estimate.calibration import Calibration, KindError
from edgeface.devices.estimate.costing import Counts, find_tools
from edgeface.devices.estimate.count import Counted, run_jobs
from edgeface.devices.estimate.inputs import CROP_COUNTS
from edgeface.devices.estimate.jobs import CropsJob, Job, LayersJob, OperatorsJob, StagesJob
from edgeface.devices.estimate.kept import keep, kept_path, qemu_version, read_kept, sources_hash, wheel_versions
from edgeface.devices.estimate.operators import NOTHING, write_operators
from edgeface.devices.progress import Progress, silent
from numpy.typing import NDArray

from edgeface.atomic import refused
from edgeface.bundle import Bundle, file_sets, read_bundle
from edgeface.errors import OptionError
from edgeface.runtime import catalog
from edgeface.runtime.engines.tflite_files import check_tflite
from edgeface.runtime.stages.kinds import kind_of

PLACE: Literal["estimate"] = "estimate"
_ENGINES = ("ncnn", "tflite")
_PIXEL_MEAN = 128
_NETS = ("network", "pose", "regions", "crops")


class StageEstimate(msgspec.Struct, frozen=True):
    """A stage of a picture: "preprocessing", "network", "decoding", or the nets on faces, "pose",
    "regions" and "crops".

    ``ms`` is all of it; ``kernels_ms`` what of it runs in C kernels of edgeface, each with its call from Python, and
    ``cycles`` what the model of the core says, before the factor. ``covered``: the share of its instructions that was
    costed. Of the costed ones, ``unknown`` are not known to the model.
    """

    name: str
    ms: float
    kernels_ms: float
    cycles: float
    instructions: int
    covered: float
    unknown: int


class LayerEstimate(msgspec.Struct, frozen=True):
    """A layer of the network by its name in the bundle's file, ``kind`` as the engine calls it, and where the name says
    little a ``detail``: "3x3 / 2, 3 to 24" channels."""

    name: str
    kind: str
    detail: str
    ms: float
    instructions: int


class CropsEstimate(msgspec.Struct, frozen=True):
    """A crop stage, by its number in the bundle, on ``crops`` faces: its net, making its inputs, and all the rest.

    ``layers`` are those of its net on one crop, by one thread, to be held against ``network_1_thread_ms``; none where
    there are more crops.
    """

    stage: int
    size_px: int
    crops: int
    network_ms: float
    preprocessing_ms: float
    decoding_ms: float
    network_1_thread_ms: float
    layers: list[LayerEstimate]

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.network_ms + self.preprocessing_ms + self.decoding_ms


class BundleEstimate(msgspec.Struct, frozen=True):
    """One bundle. ``layers``, of the first stage's net, in the order in which they run, by one thread; ``layers_ms`` is
    their sum, to be held against ``network_1_thread_ms``, what that net takes as a whole with one thread. ``crops``:
    each crop stage on some numbers of faces, whatever was found in the picture. A bundle that refines faces and finds
    none has these alone."""

    given: str
    name: str
    model: str
    engine: str
    precision: str
    size_bytes: int
    faces: int
    total_ms: float
    network_1_thread_ms: float
    layers_ms: float
    stages: list[StageEstimate]
    layers: list[LayerEstimate]
    crops: list[CropsEstimate] = []

    @property
    def serving_ms(self) -> float:
        """What a picture takes, or of a refinement what a face takes."""
        return self.total_ms if self.stages else sum(crop.total_ms for crop in self.crops if crop.crops == 1)

    def stage(self, name: str) -> StageEstimate:
        """The stage of that name; one that was not entered took nothing."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        return StageEstimate(name, 0.0, 0.0, 0.0, 0, 1.0, 0)


class EstimateReport(msgspec.Struct, frozen=True):
    """What was estimated, for which core and from what. ``factor`` turns model cycles into time, with ``mean_error`` on
    networks that it was not fitted to, of those in int8 alone ``int8_error``, of the others ``float_error``, with what
    is on average too much (above 0) or too little; several threads divide the network's time by ``speedup``, with an
    error of ``threads_error``, which are those of ``threads_from`` threads where of so many nothing is known. ``faces``
    of a bundle were found in the one picture. ``measured``: the day on which the factors were found on the board
    itself, None where they rest on published times."""

    place: Literal["estimate"]
    board: str
    core: str
    mhz: float
    threads: int
    factor: float
    mean_error: float
    int8_error: KindError | None
    float_error: KindError | None
    calibration_networks: int
    speedup: float
    threads_error: float
    versions: dict[str, str]
    size_px: int | tuple[int, int]
    picture: str
    picture_px: tuple[int, int]
    bundles: list[BundleEstimate]
    threads_from: int | None = None
    measured: str | None = None

    def to_json(self) -> bytes:
        """Indented, for people to read as well."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


@dataclass(frozen=True)
class Question:
    """What is to be estimated: a picture, uint8 (H, W, 3) BGR, with words for what it is; the net's input, its longest
    side in pixels or (width, height); the core as LLVM calls it; threads; and whether the layers of nets are
    counted one by one as well, which is more than half of the work."""

    picture: NDArray[np.uint8]
    source: str
    size_px: int | tuple[int, int]
    core: str
    threads: int = 1
    layers: bool = True


def estimate(
    board: Board, names: Sequence[str], question: Question, *, engine: str | None = None, progress: Progress = silent
) -> EstimateReport:
    """Estimate each bundle of ``names``, names or directories as ``catalog.find`` takes them.

    ``progress`` gets a line for each step that takes a while; a bundle takes up to half a minute, a cascade's more.
    Raises OptionError for a checkpoint and for an engine that cannot be taken apart, what ``catalog.find``,
    ``read_bundle`` and ``ensure_root`` raise, DeviceError without a calibration for the board, the core or the threads,
    and InstallError for a program that must be installed first.
    """
    directories = [_bundle_directory(name, engine) for name in names]
    bundles = [read_bundle(directory) for directory in directories]
    for bundle in bundles:
        if bundle.engine not in _ENGINES:
            choices = " and ".join(_ENGINES)
            raise OptionError(f"{bundle.name}: is for the engine {bundle.engine}: there are estimates of {choices}")
    factors = _factors_of(board)
    fit = factors.core(question.core)
    speedup = factors.speedup(question.core, question.threads)
    find_tools()
    root = ensure_root(board, progress=progress)
    versions = {"llvm": find_tools().version} | wheel_versions(root, "ncnn", "ai_edge_litert", "numpy")
    depends_on = [
        versions, qemu_version(root), sources_hash(), question.picture.tobytes(), question.size_px, question.layers
    ]
    found = []
    for number, (name, directory, bundle) in enumerate(zip(names, directories, bundles, strict=True), 1):
        # Boards with the same core share it.
        kept = kept_path(f"bundle-{bundle.name}-{question.core}", *depends_on, bundle)
        counts = read_kept(kept, _Found)
        if counts is None:
            progress(f"{bundle.name}: counting on an emulated {question.core}, {number} of {len(names)}")
            counts = _counted(root, directory, bundle, question)
            keep(kept, counts)
        found.append(_bundle_estimate(name, bundle, counts, factors, question))
        progress(f"{bundle.name}: {found[-1].serving_ms:.2f} ms, an estimate")
    threads = next((t for t in factors.threads if (t.core, t.threads) == (fit.core, question.threads)), None)
    height, width = question.picture.shape[:2]
    return EstimateReport(
        PLACE, board.name, fit.core, fit.clock_mhz, question.threads, fit.factor, fit.mean_error,
        fit.kind_error(is_int8=True), fit.kind_error(is_int8=False), len(fit.networks), speedup,
        threads.mean_error if threads else 0.0, versions,
        question.size_px, question.source, (width, height), found, threads.interpolated_from if threads else None,
        factors.own.measured if factors.own else None,
    )


def _factors_of(board: Board) -> Calibration:
    """The board's own calibration; else that which is shipped for it, or for the board with just its cores. Raises
    DeviceError where there is none."""
    if board.calibration is not None:
        return calibration.of_own(board.name, board.title, board.calibration)
    wanted = cores_of(board.clusters)
    alike = [name for name in calibration.boards() if cores_of(boards.find_shipped(name).clusters) == wanted]
    return calibration.load_calibration(board.name if board.name in calibration.boards() or not alike else alike[0])


def _bundle_directory(name: str, engine: str | None) -> Path:
    path = catalog.find(name, engine)
    if not path.is_dir():
        raise OptionError(f"{path}: a checkpoint runs on no board: give a bundle (edgeface convert makes one of it)")
    return path


@dataclass(frozen=True)
class _Layer:
    name: str
    kind: str
    detail: str
    counts: Counts


@dataclass(frozen=True)
class _Found:
    """What came of a bundle's jobs: a picture's regions, layers by the number of their stage, and regions by the number
    of a crop stage and its crops; the ``faces`` in the picture."""

    picture: list[Counted]
    layers: dict[int, list[_Layer]]
    crops: dict[tuple[int, int], list[Counted]]
    faces: int


def _counted(root: EmulatedRoot, directory: Path, bundle: Bundle, question: Question) -> _Found:
    defaults = bundle.defaults
    jobs: list[Job] = []
    names: dict[int, dict[str, tuple[str, str]]] = {}
    crops: dict[tuple[int, int], int] = {}
    layers: dict[int, int] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-estimate-") as scratch:
            picture = Path(scratch) / "picture.npy"
            np.save(picture, question.picture)
            here = str(directory.resolve()), str(picture)
            if not bundle.is_refinement:
                jobs.append(StagesJob(*here, question.size_px, defaults.score, defaults.nms_iou))
            for number, stage in enumerate(bundle.stages):
                kind = kind_of(stage)
                if kind.pixels(stage, question.picture, question.size_px) is None:
                    continue
                if question.layers:
                    layers[number] = len(jobs)
                    if bundle.engine == "ncnn":
                        jobs.append(LayersJob(*here, question.size_px, number))
                    else:
                        operators = Path(scratch) / f"operators{number}"
                        names[number] = _taken_apart(directory, bundle, number, question, operators)
                        jobs.append(OperatorsJob(str(operators)))
                for count in CROP_COUNTS if kind.crop_px(stage) is not None else ():
                    crops[number, count] = len(jobs)
                    jobs.append(CropsJob(*here, number, count))
            finished = run_jobs(root, question.core, jobs)
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None

    def regions(job: int) -> list[Counted]:
        return [each for each in finished.regions if each.place.job == job]

    return _Found(
        [] if bundle.is_refinement else regions(0),
        {
            number: _less_invoking(regions(job), names[number]) if number in names else _less_handing_over(regions(job))
            for number, job in layers.items()
        },
        {key: regions(job) for key, job in crops.items()},
        finished.faces.get(0, 0),
    )


def _taken_apart(
    directory: Path, bundle: Bundle, number: int, question: Question, operators: Path
) -> dict[str, tuple[str, str]]:
    """Write the operators of a stage's net; their names and kinds by file."""
    operators.mkdir()
    stage = bundle.stages[number]
    ((file,),) = file_sets(stage)
    path = bundle.folder(directory, [file]) / file
    pixels = kind_of(stage).pixels(stage, question.picture, question.size_px)
    assert pixels is not None       # a net on something else than pixels is not taken apart
    # What the values are changes no time.
    x = (pixels.astype(np.int16) - _PIXEL_MEAN).astype(check_tflite(path.read_bytes(), path).inputs[0].dtype)
    return {each.file: (each.name, each.kind) for each in write_operators(path, x[None], operators)}


def _less_handing_over(layers: Sequence[Counted]) -> list[_Layer]:
    """Each layer's first region less its second."""
    pairs = zip(layers[::2], layers[1::2], strict=True)
    return [
        _Layer(first.place.part, first.place.kind, first.place.detail, first.counts - again.counts)
        for first, again in pairs
    ]


def _less_invoking(layers: Sequence[Counted], names: dict[str, tuple[str, str]]) -> list[_Layer]:
    """Each operator's region less that of a net that does nothing."""
    by_file = {each.place.part: each.counts for each in layers}
    return [_Layer(name, kind, "", by_file[file] - by_file[NOTHING]) for file, (name, kind) in names.items()]


def _bundle_estimate(
    given: str, bundle: Bundle, found: _Found, factors: Calibration, question: Question
) -> BundleEstimate:
    whole = _by_stage(each for each in found.picture if not each.place.part)
    kernels = _by_stage(each for each in found.picture if each.place.part)

    def ms(counts: Counts, threads: int = 1) -> float:
        return round(factors.milliseconds(question.core, counts.cycles, threads=threads), 4)

    def layers_of(number: int) -> list[LayerEstimate]:
        return [
            LayerEstimate(each.name, each.kind, each.detail, ms(each.counts), each.counts.instructions)
            for each in found.layers.get(number, ())
        ]

    # Threads are the engine's: what is around it runs on one.
    stages = [
        StageEstimate(
            name, ms(counts, question.threads if name in _NETS else 1), ms(kernels.get(name, Counts())),
            round(counts.cycles), counts.instructions, round(counts.covered, 4), counts.unknown,
        )
        for name, counts in whole.items()
    ]
    crops = []
    for (number, count), regions in found.crops.items():
        parts = _by_stage(regions)
        stage = bundle.stages[number]
        crops.append(CropsEstimate(
            number, kind_of(stage).crop_px(stage) or 0, count, ms(parts["network"], question.threads),
            ms(parts["preprocessing"]), ms(parts["decoding"]), ms(parts["network"]),
            layers_of(number) if count == 1 else [],
        ))
    layers = layers_of(0)
    return BundleEstimate(
        given=given,
        name=bundle.name,
        model=bundle.model,
        engine=bundle.engine,
        precision=bundle.form,
        size_bytes=sum(file.size_bytes for file in bundle.files),
        faces=found.faces,
        total_ms=round(sum(stage.ms for stage in stages), 4),
        network_1_thread_ms=crops[0].network_1_thread_ms if bundle.is_refinement else ms(whole["network"]),
        layers_ms=round(sum(layer.ms for layer in layers), 4),
        stages=stages,
        layers=layers,
        crops=crops,
    )


def _by_stage(counted: Iterable[Counted]) -> dict[str, Counts]:
    sums: dict[str, Counts] = defaultdict(Counts)
    for each in counted:
        sums[each.place.stage] += each.counts
    return dict(sums)
