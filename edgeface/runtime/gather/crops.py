"""Square crops of the picture, one a face (mtcnn.txt, section II; mhcnn.txt, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeface.bundle import Bundle, Crops, FaceStage
from edgeface.frames import Frame, as_frame
from edgeface.runtime.clock import TimedRun
from edgeface.runtime.crops import Squares, crop_planes, crop_signed, crops, square_crops
from edgeface.runtime.engines import Session
from edgeface.runtime.gather.gathered import FaceRun, Gathered
from edgeface.runtime.stages.faces import FaceNet, score_lines
from edgeface.runtime.stages.kind import Image, Shape, Sides, Sight, Size, StageKind, Trial
from edgeface.runtime.stages.stage import Found, Scene

# How many crops go into one inference: few different numbers, since an engine may allocate anew for each, and none so
# large that a net's first maps leave the processor's caches.
STRIPS = (16, 4, 1)
_SMALLEST_SQUARE_PX = 16
_ESTIMATE_PX = 96


class CropGatherer:
    """A ``Gatherer`` of crops."""

    def __init__(self, bundle_name: str, gather: Crops, nets: Sequence[Session]) -> None:
        self.nets = nets
        self._bundle_name, self._gather = bundle_name, gather

    def __call__(self, scene: Scene, found: Found) -> Gathered:
        squares = scene.clock.prepared(lambda: square_crops(found.boxes, self._gather.margin))
        return Gathered.in_order([self._run(scene, squares[rows]) for rows in _strips(len(squares))], squares)

    def samples(self, scene: Scene) -> Gathered:
        """The quarters of the square in the picture's middle, so that what differs between two machines is this net's
        alone."""
        frame = scene.frame
        half = max(1, min(frame.width, frame.height) // 2)
        x, y = frame.width // 2, frame.height // 2
        quarters = [(x - half, y - half, half), (x, y - half, half), (x - half, y, half), (x, y, half)]
        squares = np.array(quarters, np.int64)
        return Gathered.in_order([self._run(scene, squares)], squares)

    def _run(self, scene: Scene, squares: Squares) -> FaceRun:
        net = self.nets[0]
        x = scene.clock.prepared(lambda: crop_input(net, self._gather, scene.frame, squares))
        return FaceRun(self._bundle_name, TimedRun(scene.clock, lambda: net.run(x)), len(squares), 1, "crop")


class CropsKind(StageKind):
    """Stages on crops."""

    label = "crops"

    def opened(self, bundle: Bundle, number: int, nets: Sequence[Session]) -> FaceNet:
        stage: Any = bundle.stages[number]
        return FaceNet(bundle, number, CropGatherer(bundle.name, stage.gather, nets))

    def trials(self, bundle: Bundle, stage: FaceStage, sides: Sides, sight: Sight) -> Iterator[Trial]:
        gather: Any = stage.gather
        squares, frame = some_squares(sight, gather.margin), as_frame(sight.image)
        x, z = (crop_input(nets[0], gather, frame, squares) for nets in sides)
        outputs = {name: f"{name}{gather.size_px}" for name in stage.output_names}
        yield Trial(0, f"the net on crops of {gather.size_px} px", outputs, x, z)

    def input_shapes(self, stage: FaceStage, net: int, size_px: int, channels: Mapping[str, int]) -> list[Shape]:
        gather: Any = stage.gather
        return [(3, count * gather.size_px, gather.size_px) for count in (1, 4)]

    def describe(self, stage: FaceStage) -> Iterator[tuple[str, str]]:
        gather: Any = stage.gather
        yield "crops", (
            f"BGR, (x - {gather.mean:g}) * {gather.scale:g}, {gather.size_px} px, {gather.margin:g} boxes wide"
        )
        yield from score_lines(stage)

    def pixels(self, stage: FaceStage, picture: Image, size_px: Size) -> Image:
        gather: Any = stage.gather
        square = np.array([[0, 0, min(_ESTIMATE_PX, *picture.shape[:2])]], np.int64)
        cut: Image = crops(picture, square, gather.size_px)[0]
        return cut

    def normalisation(self, stage: FaceStage) -> tuple[float, float]:
        gather: Any = stage.gather
        return gather.mean, gather.scale

    def crop_px(self, stage: FaceStage) -> int:
        gather: Any = stage.gather
        return int(gather.size_px)

    def with_threshold(self, stage: FaceStage, threshold: float) -> FaceStage:
        return stage.with_threshold(threshold)

    def with_limit(self, stage: FaceStage, limit: int) -> FaceStage:
        return replace(stage, limit=limit)


def crop_input(net: Session, gather: Crops, frame: Frame, squares: Squares) -> NDArray[Any]:
    """The strip of crops as ``net`` takes it."""
    if net.takes == "pixels":
        return crop_signed(frame, squares, gather.size_px)
    return crop_planes(frame, squares, gather.size_px, mean=gather.mean, scale=gather.scale)


def some_squares(sight: Sight, margin: float) -> Squares:
    """``sight.count`` squares: about its boxes, as a stage with that ``margin`` cuts them, then anywhere, always the
    same."""
    height, width = sight.image.shape[:2]
    rng = np.random.default_rng(0)
    missing = max(0, sight.count - len(sight.boxes))
    side = rng.integers(_SMALLEST_SQUARE_PX, max(_SMALLEST_SQUARE_PX, min(height, width)) + 1, missing)
    # Some reach over the picture's edges.
    x, y = (rng.integers(-side // 4, np.maximum(1, n - 3 * side // 4)) for n in (width, height))
    squares: Squares = np.concatenate((square_crops(sight.boxes[: sight.count], margin), np.stack((x, y, side), 1)))
    return squares


def _strips(count: int) -> Iterator[slice]:
    start = 0
    for size in STRIPS:
        while count - start >= size:
            yield slice(start, start + size)
            start += size
