"""The raw outputs of two bundles of one model, net by net, on the same inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, CropStage, DenseStage, Level, PoseStage, PyramidStage, Stage
from edgeface.frames import as_frame
from edgeface.runtime.cascade import output_names, pyramid_canvas
from edgeface.runtime.crops import Squares, crop_planes, crop_signed, square_crops
from edgeface.runtime.dense import map_names, net_input
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.pyramid import canvas_planes, canvas_signed
from edgeface.runtime.roi import gather_patches

from .parity import Floats, MapParity, MapSums
from .pictures import Image

# (width, height) in px. A graph whose reshapes kept the exporter's sizes fails on all but one of them.
FRAMES_PX = ((640, 480), (320, 256), (640, 640), (96, 64))
FACES = (1, 3, 17)
_SMALLEST_SQUARE_PX = 16

Sessions = Sequence[Sequence[Session]]


@dataclass
class Look:
    """One look at a picture: at ``size_px``, the longest side or (width, height), with ``count`` faces for the nets on
    faces, which are ``boxes`` (n, 4) where there are as many. ``maps``: what the reference's dense net gave, once it
    has run."""

    image: Image
    boxes: Floats
    size_px: int | tuple[int, int]
    count: int
    maps: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One net on one input, ``x`` as the reference takes it and ``z`` as the candidate does. ``net``: which one of the
    stage's; ``outputs``: its outputs, and how a report calls them; ``name``: the net's, for people."""

    net: int
    name: str
    outputs: Mapping[str, str]
    x: NDArray[Any]
    z: NDArray[Any]


Sides = tuple[Sequence[Session], Sequence[Session]]


def _dense(_bundle: Bundle, stage: DenseStage, sides: Sides, look: Look) -> Iterator[Trial]:
    x, z = (net_input(nets[0], stage, look.image, look.size_px).x for nets in sides)
    yield Trial(0, "the dense net", {name: name for name in map_names(stage)}, x, z)


def _pose(bundle: Bundle, stage: PoseStage, _sides: Sides, look: Look) -> Iterator[Trial]:
    for net, level in enumerate(bundle.dense.levels):
        patches = strongest_patches(look.maps, level, stage.patch, look.count)
        name = f"the pose net of stride {level.stride}"
        yield Trial(net, name, {stage.logits: f"{stage.logits}{level.stride}"}, patches, patches)


def _pyramid(_bundle: Bundle, stage: PyramidStage, sides: Sides, look: Look) -> Iterator[Trial]:
    canvas = pyramid_canvas(stage, as_frame(look.image), look.size_px)
    x, z = (
        canvas_signed(look.image, canvas) if nets[0].takes == "pixels"
        else canvas_planes(look.image, canvas, mean=stage.mean, scale=stage.scale)
        for nets in sides
    )
    outputs = {name: f"{name}{stage.cell_px}" for name in (stage.score, stage.box)}
    yield Trial(0, f"the net on windows of {stage.cell_px} px", outputs, x, z)


def _crops(_bundle: Bundle, stage: CropStage, sides: Sides, look: Look) -> Iterator[Trial]:
    squares = some_squares(look, stage.margin)
    x, z = (
        crop_signed(look.image, squares, stage.size_px) if nets[0].takes == "pixels"
        else crop_planes(look.image, squares, stage.size_px, mean=stage.mean, scale=stage.scale)
        for nets in sides
    )
    outputs = {name: f"{name}{stage.size_px}" for name in output_names(stage)}
    yield Trial(0, f"the net on crops of {stage.size_px} px", outputs, x, z)


_TRIALS: dict[type, Callable[[Bundle, Any, Sides, Look], Iterator[Trial]]] = {
    DenseStage: _dense, PoseStage: _pose, PyramidStage: _pyramid, CropStage: _crops,
}


def trials(bundle: Bundle, stage: Stage, sides: Sides, look: Look) -> Iterator[Trial]:
    """What the nets of one stage of ``bundle`` are tried on in a look; ``sides``: the reference's and the candidate's
    opened nets of that stage. A pose stage's need ``look.maps``."""
    return _TRIALS[type(stage)](bundle, stage, sides, look)


def compare_raw(
    bundle: Bundle, reference: Sessions, candidate: Sessions, pictures: Iterable[tuple[Image, Floats]], size_px: int
) -> list[MapParity]:
    """Every raw output of ``candidate``'s nets over the pictures, against ``reference``'s.

    Both are opened nets in the order of ``bundle``'s stages. A picture comes with the boxes (n, 4) of faces in it, if
    any are known. Each is taken at ``size_px``, the first also in FRAMES_PX; nets on faces run on as many as FACES says
    in turn: pose nets at the strongest positions, nets on crops on the known faces and beside them. Each net of either
    side gets what comes of the picture or of the reference's features, so that it answers for itself alone. Raises
    EngineError, and ParityError when an output has another shape.
    """
    sums: list[dict[str, MapSums]] = [{} for _ in bundle.stages]
    counts = itertools.cycle(FACES)
    for number, (image, boxes) in enumerate(pictures):
        for size in (size_px, *FRAMES_PX) if number == 0 else (size_px,):
            look = Look(image, boxes, size, next(counts))
            for stage, by_label, nets, others in zip(bundle.stages, sums, reference, candidate, strict=True):
                for trial in trials(bundle, stage, (nets, others), look):
                    found = _both(nets[trial.net], others[trial.net], trial, by_label)
                    if isinstance(stage, DenseStage):
                        look.maps = found
    return [each.parity() for by_label in sums for each in by_label.values()]


def some_squares(look: Look, margin: float) -> Squares:
    """``look.count`` squares: about its boxes, as a crop stage with that ``margin`` cuts them, then anywhere, always
    the same."""
    height, width = look.image.shape[:2]
    rng = np.random.default_rng(0)
    missing = max(0, look.count - len(look.boxes))
    side = rng.integers(_SMALLEST_SQUARE_PX, max(_SMALLEST_SQUARE_PX, min(height, width)) + 1, missing)
    # Some reach over the picture's edges.
    x, y = (rng.integers(-side // 4, np.maximum(1, n - 3 * side // 4)) for n in (width, height))
    squares: Squares = np.concatenate((square_crops(look.boxes[: look.count], margin), np.stack((x, y, side), 1)))
    return squares


def strongest_patches(maps: Mapping[str, Floats], level: Level, patch: int, count: int) -> Floats:
    """Feature patches round the ``count`` positions with the highest logits, fewer on a smaller map."""
    assert level.features is not None       # a bundle with a pose stage has them, or no Detector opens it
    score = maps[level.score].max(axis=0)
    best = np.argsort(-score, axis=None, kind="stable")[:count]
    row, column = np.unravel_index(best, score.shape)
    return gather_patches(RawMap(maps[level.features]), row, column, patch)


def _both(reference: Session, candidate: Session, trial: Trial, sums: dict[str, MapSums]) -> dict[str, Floats]:
    """Run both nets, add what they gave to ``sums``, by label, and hand back the reference's outputs."""
    expected_run, actual_run = reference.run(trial.x), candidate.run(trial.z)
    expected = {name: expected_run.output(name) for name in trial.outputs}
    for name, output in expected.items():
        label = trial.outputs[name]
        sums.setdefault(label, MapSums(label)).add(output, actual_run.output(name))
    return expected
