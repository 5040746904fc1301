"""The detector: a first stage over the whole picture, then stages per face, as the bundle says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, DenseStage, PoseStage, PyramidStage
from edgeface.errors import EngineError, OptionError
from edgeface.faces import Faces
from edgeface.frames import Frame, Picture, as_frame
from edgeface.runtime.cascade import PyramidFinder, Refiner
from edgeface.runtime.clock import Clock, TimedRun, Timing
from edgeface.runtime.dense import DenseFinder, DenseLook
from edgeface.runtime.engines import Run, Session
from edgeface.runtime.engines.registry import BatchSession
from edgeface.runtime.looks import Finder, Look, Wanted
from edgeface.runtime.preprocess import NetInput
from edgeface.runtime.threads import AutomaticThreads

MAX_SIZE_PX = 8192

Floats = NDArray[np.float32]


class Detector:
    """Finds faces in pictures, uint8 (H, W, 3) BGR or a Frame. Make one with ``edgeface.load``.

    ``sessions`` are the opened nets: one list a stage of the bundle, in the order of the stage's file sets. ``size_px``
    is the longest side that a picture is letterboxed to, or a fixed (width, height); ``score`` the least score and
    ``nms_iou`` the largest overlap of two faces, each 0..1; ``automatic`` changes the nets' threads between pictures.
    Raises OptionError for a value that cannot work and for a
    bundle that refines faces and finds none, and BundleError when the nets lack an output that the bundle names.
    """

    def __init__(
        self,
        bundle: Bundle,
        sessions: Sequence[Sequence[Session]],
        *,
        size_px: int | tuple[int, int],
        score: float,
        nms_iou: float,
        automatic: AutomaticThreads | None = None,
    ) -> None:
        self._automatic = automatic
        self._first = _finder(bundle, sessions)
        sides = size_px if isinstance(size_px, tuple) else (size_px,)
        if not all(self.smallest_px <= side <= MAX_SIZE_PX for side in sides):
            raise OptionError(f"size {size_px} cannot work: choose {self.smallest_px} to {MAX_SIZE_PX} pixels")
        for name, value in (("score", score), ("NMS", nms_iou)):
            if not 0.0 <= value <= 1.0:
                raise OptionError(f"{name} threshold {value} cannot work: choose 0 to 1")
        self.bundle = bundle
        self.size_px = size_px
        self.score = score
        self.nms_iou = nms_iou
        self._spare: deque[NDArray[Any]] = deque(maxlen=1)      # the input of a run that has ended, to be overwritten
        stages = bundle.crop_stages
        before = len(bundle.stages) - len(stages)
        self._refiners = [
            Refiner(bundle.name, stage, sessions[before + i][0], before + i, is_last=i == len(stages) - 1)
            for i, stage in enumerate(stages)
        ]

    @property
    def smallest_px(self) -> int:
        """The least ``size_px`` that can work."""
        return self._first.smallest_px

    def __call__(self, image: Picture) -> Faces:
        """The faces of a picture, uint8 (H, W, 3) BGR or a Frame. Raises InputError for anything else, and EngineError.
        """
        return self.timed(image)[0]

    def timed(self, image: Picture, clock: Clock | None = None) -> tuple[Faces, Timing]:
        """The faces, and where the time went by ``clock``, by default a new one; errors as when called."""
        if self._automatic is not None:
            self._automatic.adjust()
        clock = Clock() if clock is None else clock
        frame = as_frame(image)
        out = self._take_spare()

        def found() -> Faces:
            look = self._first.look(frame, self._wanted(), clock, out)
            faces = self._faces(frame, look, clock)
            self._spare.append(look.x)
            return faces

        return self._numbers(found), clock.timing()

    def batch(self, images: Sequence[Picture]) -> list[Faces]:
        """The faces of each picture. Pictures that come to one size are computed together where the engine gains by
        that, which changes results by rounding alone; otherwise, and by a cascade, one after the other. Errors as when
        called."""
        first = self._first
        if self._refiners or not isinstance(first, DenseFinder) or not isinstance(first.net, BatchSession):
            return [self(image) for image in images]
        boxed = [first.input(image, self.size_px) for image in images]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(boxed):
            by_shape.setdefault(picture.x.shape, []).append(i)
        found: dict[int, Faces] = {}
        for same in by_shape.values():
            runs = first.net.run_batch([boxed[i].x for i in same])
            for i, run in zip(same, runs, strict=True):
                found[i] = self._numbers(partial(self._ran, first, run, boxed[i]))
        return [found[i] for i in range(len(images))]

    def raw(self, image: Picture) -> dict[str, Floats]:
        """Every output of the nets on pictures and crops, float32 (C, H, W), for comparing engines; errors as when
        called.

        Those of a dense stage have their own names; other stages' begin with the stage's number in the bundle, from 0,
        as in "1.score". Nets on crops see the same four crops whatever was found.
        """
        frame = as_frame(image)
        outputs = self._first.raw(frame, self.size_px)
        for refiner in self._refiners:
            outputs |= refiner.raw(frame)
        return outputs

    def _take_spare(self) -> NDArray[Any] | None:
        try:
            return self._spare.pop()    # one step, so that no two threads get the same
        except IndexError:
            return None

    def _wanted(self) -> Wanted:
        if not self._refiners:
            return Wanted(self.size_px, self.score, self.nms_iou)
        refiner = self._refiners[0]
        return Wanted(self.size_px, max(refiner.stage.threshold, refiner.entry_score(self._least(0))), self.nms_iou)

    def _least(self, number: int) -> float:
        """The score that is wanted after refiner ``number``: each has its own threshold, the last one this as well."""
        return self.score if number == len(self._refiners) - 1 else 0.0

    def _numbers(self, found: Callable[[], Faces]) -> Faces:
        """What ``found`` gives; what is no number is the net's failure."""
        try:
            return found()
        except FloatingPointError as error:
            raise EngineError(f"{self.bundle.name}: {error}: use an fp32 bundle") from None

    def _ran(self, first: DenseFinder, run: Run, boxed: NetInput) -> Faces:
        """The faces of a run that began in a batch, of a pipeline without stages on crops."""
        clock = Clock()
        look = DenseLook(first, TimedRun(clock, lambda: run), boxed, self._wanted(), clock)
        everyone = np.arange(len(look.scores))
        return Faces(look.boxes, look.scores, look.landmarks(everyone), look.pose(everyone))

    def _faces(self, frame: Frame, look: Look, clock: Clock) -> Faces:
        boxes, scores = look.boxes, look.scores
        origin = np.arange(len(scores))
        landmarks: Floats | None = None
        attributes: Mapping[str, Floats] = {}
        for number, refiner in enumerate(self._refiners):
            is_last = number == len(self._refiners) - 1
            refined = refiner.refine(
                frame, boxes, scores, self._least(number), self.nms_iou if is_last else refiner.stage.nms_iou, clock
            )
            boxes, scores, origin = refined.boxes, refined.scores, origin[refined.origin]
            landmarks, attributes = refined.landmarks, refined.attributes
        if landmarks is None:
            landmarks = look.landmarks(origin)
        return Faces(boxes, scores, landmarks, look.pose(origin), attributes, self.bundle.attributes)


def _finder(bundle: Bundle, sessions: Sequence[Sequence[Session]]) -> Finder:
    """The first stage, with the pose stage that reads its features."""
    first, net = bundle.stages[0], sessions[0][0]
    if isinstance(first, PyramidStage):
        return PyramidFinder(bundle.name, first, net)
    if bundle.is_refinement or not isinstance(first, DenseStage):
        raise OptionError(
            f"{bundle.name} is no detector, it refines the faces of one: 'edgeface detect --model mos_s --refine "
            f"{bundle.model or bundle.name}'"
        )
    stages = zip(bundle.stages, sessions, strict=True)
    pose = next(((stage, opened) for stage, opened in stages if isinstance(stage, PoseStage)), None)
    return DenseFinder(bundle.name, first, net, pose)
