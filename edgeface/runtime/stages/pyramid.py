"""A pyramid stage: every window of a picture at all sizes (mtcnn.txt, section II)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeface.bundle import Bundle, PyramidStage
from edgeface.frames import Frame, as_frame
from edgeface.runtime.clock import TimedRun
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.logistic import logit, sigmoid
from edgeface.runtime.pyramid import Canvas, canvas_planes, canvas_signed, plan, windows
from edgeface.runtime.stages.cuts import CutNotice
from edgeface.runtime.stages.kind import Image, Shape, Sides, Sight, Size, StageKind, Trial
from edgeface.runtime.stages.stage import Floats, Found, Scene, checked, require


class PyramidFinder:
    """A ``FirstStage``: a pyramid stage with its net. Raises BundleError when the net lacks an output that the bundle
    says it has."""

    def __init__(self, bundle_name: str, stage: PyramidStage, net: Session) -> None:
        self.stage, self.net = stage, net
        self.bundle_name = bundle_name
        self.smallest_px = stage.cell_px
        self._cut = CutNotice(bundle_name, "or more windows that reach the score")
        require(bundle_name, net, [stage.score, stage.box])

    def find(self, scene: Scene, least: float) -> Found:
        """As ``FirstStage``; the probability and the overlaps are the stage's own."""
        stage = self.stage
        canvas = pyramid_canvas(stage, scene.frame, scene.size_px)
        x = scene.clock.prepared(lambda: canvas_input(self.net, stage, scene.frame, canvas, scene.spare))
        run = TimedRun(scene.clock, lambda: self.net.run(x))
        score, box = (self._map(run, name, channels, canvas) for name, channels in ((stage.score, 1), (stage.box, 4)))
        boxes, logits = windows(
            score, box, canvas, logit(stage.threshold), stage.limit, stage.nms_iou, stage.merge_iou,
            self._cut.tell,
        )
        return Found(boxes, sigmoid(logits), x=x)

    def raw(self, scene: Scene) -> dict[str, Floats]:
        canvas = pyramid_canvas(self.stage, scene.frame, scene.size_px)
        run = self.net.run(canvas_input(self.net, self.stage, scene.frame, canvas))
        return {f"0.{name}": run.output(name) for name in (self.stage.score, self.stage.box)}

    def _map(self, run: TimedRun, name: str, channels: int, canvas: Canvas) -> RawMap:
        rows, columns = (
            (side - canvas.cell_px) // canvas.stride + 1 for side in (canvas.height, canvas.width)
        )
        return checked(self.bundle_name, run, name, channels, "a pyramid needs", (rows, columns))


class PyramidKind(StageKind):
    """Pyramid stages."""

    label = "network"

    def opened(self, bundle: Bundle, number: int, nets: Sequence[Session]) -> PyramidFinder:
        stage: Any = bundle.stages[number]
        return PyramidFinder(bundle.name, stage, nets[0])

    def trials(self, bundle: Bundle, stage: PyramidStage, sides: Sides, sight: Sight) -> Iterator[Trial]:
        frame = as_frame(sight.image)
        canvas = pyramid_canvas(stage, frame, sight.size_px)
        x, z = (canvas_input(nets[0], stage, frame, canvas) for nets in sides)
        outputs = {name: f"{name}{stage.cell_px}" for name in (stage.score, stage.box)}
        yield Trial(0, f"the net on windows of {stage.cell_px} px", outputs, x, z)

    def input_shapes(self, stage: PyramidStage, net: int, size_px: int, channels: Mapping[str, int]) -> list[Shape]:
        cell = stage.cell_px
        half = max(cell, size_px // 2)
        return [(3, cell, cell), (3, 4 * cell + 7, 9 * cell), (3, half, half), (3, size_px, size_px)]

    def describe(self, stage: PyramidStage) -> Iterator[tuple[str, str]]:
        yield "pyramid", (
            f"BGR, (x - {stage.mean:g}) * {stage.scale:g}, windows of {stage.cell_px} every {stage.stride} px"
        )
        yield "", (
            f"faces from {stage.min_face_px:g} px, sizes {1 / stage.factor:.2f} apart, score {stage.threshold:g}, at "
            f"most {stage.limit}"
        )

    def pixels(self, stage: PyramidStage, picture: Image, size_px: Size) -> Image:
        signed = canvas_signed(picture, pyramid_canvas(stage, as_frame(picture), size_px))
        pixels: Image = signed.view(np.uint8) ^ np.uint8(128)
        return pixels

    def normalisation(self, stage: PyramidStage) -> tuple[float, float]:
        return stage.mean, stage.scale

    def with_min_face(self, stage: PyramidStage, min_face_px: float) -> PyramidStage:
        return replace(stage, min_face_px=min_face_px)

    def with_threshold(self, stage: PyramidStage, threshold: float) -> PyramidStage:
        return replace(stage, threshold=threshold)

    def with_limit(self, stage: PyramidStage, limit: int) -> PyramidStage:
        return replace(stage, limit=limit)


def canvas_input(
    net: Session, stage: PyramidStage, frame: Frame, canvas: Canvas, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """A picture's canvas as ``net`` takes it, in ``out`` where that fits."""
    if net.takes == "pixels":
        return canvas_signed(frame, canvas, out=out)
    return canvas_planes(frame, canvas, mean=stage.mean, scale=stage.scale, out=out)


def pyramid_canvas(stage: PyramidStage, frame: Frame, size_px: Size) -> Canvas:
    """The canvas of a picture at ``size_px``, the longest side or (width, height); raises OptionError as ``plan``.

    Faces are measured at the size that the picture would be letterboxed to; it is not, levels are made of it.
    """
    width, height = size_px if isinstance(size_px, tuple) else (size_px, size_px)
    scale = min(width / frame.width, height / frame.height)
    return plan(frame.width, frame.height, stage.cell_px, stage.stride, stage.factor, stage.min_face_px / scale)
