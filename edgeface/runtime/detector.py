"""The detector: a first stage over the whole picture, then stages per face, as the bundle says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle
from edgeface.errors import BundleError, EngineError, OptionError
from edgeface.faces import Faces
from edgeface.frames import Picture, as_frame
from edgeface.pictures import ChannelOrder, Given, as_picture, as_pictures, is_several
from edgeface.runtime.clock import Clock, Timing
from edgeface.runtime.engines import Session
from edgeface.runtime.seen_faces import SeenFaces
from edgeface.runtime.stages.kinds import kind_of
from edgeface.runtime.stages.stage import BatchStage, FirstStage, Found, NextStage, Scene
from edgeface.runtime.threads import AutomaticThreads

MAX_SIZE_PX = 8192

Floats = NDArray[np.float32]


class Detector:
    """Finds faces in pictures, uint8 (H, W, 3) BGR or a Frame. Make one with ``edgeface.load``.

    ``sessions`` are the opened nets: one list a stage of the bundle, in the order of the stage's file sets. ``size_px``
    is the longest side that a picture is letterboxed to, or a fixed (width, height); ``score`` the least score and
    ``nms_iou`` the largest overlap of two faces, each 0..1; ``automatic`` changes the nets' threads between pictures.
    Raises OptionError for a value that cannot work and for a bundle that refines faces and finds none, and BundleError
    when the nets lack an output that the bundle names.
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
        if bundle.is_refinement:
            raise OptionError(
                f"{bundle.name} is no detector, it refines the faces of one: 'edgeface detect --model mos_s --refine "
                f"{bundle.model or bundle.name}'"
            )
        opened = [
            kind_of(stage).opened(bundle, number, nets)
            for number, (stage, nets) in enumerate(zip(bundle.stages, sessions, strict=True))
        ]
        self._first: FirstStage = opened[0]
        self._stages: list[NextStage] = opened[1:]
        self.bundle = bundle
        self.size_px = size_px
        self.score = score
        self.nms_iou = nms_iou
        self._check()
        self._spare: deque[NDArray[Any]] = deque(maxlen=1)      # the input of a run that has ended, to be overwritten

    @property
    def smallest_px(self) -> int:
        """The least ``size_px`` that can work."""
        return self._first.smallest_px

    @overload
    def __call__(
        self, image: list[Given] | tuple[Given, ...], *, channel_order: ChannelOrder = ..., score: float | None = ...,
        size: int | None = ..., nms: float | None = ...,
    ) -> list[SeenFaces]: ...

    @overload
    def __call__(
        self, image: Given, *, channel_order: ChannelOrder = ..., score: float | None = ..., size: int | None = ...,
        nms: float | None = ...,
    ) -> SeenFaces: ...

    def __call__(
        self, image: Given, *, channel_order: ChannelOrder = "bgr", score: float | None = None,
        size: int | None = None, nms: float | None = None,
    ) -> SeenFaces | list[SeenFaces]:
        """The faces of a picture, which they remember; of a list or tuple of pictures a list.

        A picture is a path, an open binary file, a PIL image, a Frame, or an array uint8 (H, W, 3), (H, W, 4) with
        alpha, or (H, W) grey; ``channel_order`` is that of arrays. ``score``, ``size`` and ``nms`` take the place of
        the detector's own for this call. Raises InputError for anything else, OptionError for a value that cannot work,
        and EngineError.
        """
        if is_several(image):
            frames = [as_frame(each) for each in as_pictures(image, channel_order)]
        else:
            frames = [as_frame(as_picture(image, channel_order))]
        detector = self.with_options(score=score, size=size, nms=nms)
        found = detector.batch(frames) if is_several(image) else [detector.timed(frames[0])[0]]
        seen = [SeenFaces.of(faces, frame) for faces, frame in zip(found, frames, strict=True)]
        return seen if is_several(image) else seen[0]

    def with_options(
        self, *, score: float | None = None, size: int | None = None, nms: float | None = None
    ) -> Detector:
        """A detector with the same nets and these values, this one where none is given. Raises OptionError for a value
        that cannot work."""
        if score is None and size is None and nms is None:
            return self
        other = copy(self)
        other.size_px = self.size_px if size is None else size
        other.score = self.score if score is None else score
        other.nms_iou = self.nms_iou if nms is None else nms
        other._check()
        other._spare = deque(maxlen=1)
        return other

    def _check(self) -> None:
        """Raises OptionError for a size or threshold that cannot work."""
        sides = self.size_px if isinstance(self.size_px, tuple) else (self.size_px,)
        if not all(isinstance(side, (int, np.integer)) and self.smallest_px <= side <= MAX_SIZE_PX for side in sides):
            raise OptionError(f"size {self.size_px!r} cannot work: choose {self.smallest_px} to {MAX_SIZE_PX} pixels")
        for name, value in (("score", self.score), ("NMS", self.nms_iou)):
            if not isinstance(value, (int, float, np.number)) or not 0.0 <= value <= 1.0:
                raise OptionError(f"{name} threshold {value!r} cannot work: choose 0 to 1")

    def timed(self, image: Picture, clock: Clock | None = None) -> tuple[Faces, Timing]:
        """The faces, and where the time went by ``clock``, by default a new one; errors as when called."""
        if self._automatic is not None:
            self._automatic.adjust()
        clock = Clock() if clock is None else clock
        scene = self._scene(image, clock, self._take_spare())

        def found() -> Faces:
            first = self._first.find(scene, self._least())
            faces = self._faces(scene, first)
            if first.x is not None:
                self._spare.append(first.x)
            return faces

        return self._numbers(found), clock.timing()

    def batch(self, images: Sequence[Picture]) -> list[Faces]:
        """The faces of each picture. Pictures that come to one size are computed together where the engine gains by
        that, which changes results by rounding alone; otherwise, and by a cascade, one after the other. Errors as when
        called."""
        first = self._first
        if self.bundle.refining_stages or not isinstance(first, BatchStage) or not first.gains_by_batches:
            return [self.timed(image)[0] for image in images]
        scenes = [self._scene(image, Clock()) for image in images]
        later = first.find_batch(scenes, self._least())
        return [
            self._numbers(partial(self._later, scene, found)) for scene, found in zip(scenes, later, strict=True)
        ]

    def raw(self, image: Picture) -> dict[str, Floats]:
        """Every output of the nets on pictures and crops, float32 (C, H, W), for comparing engines; errors as when
        called.

        Those of a dense stage have their own names; other stages' begin with the stage's number in the bundle, from 0,
        as in "1.score". Nets on crops see the same four crops whatever was found.
        """
        scene = self._scene(image, Clock())
        outputs = self._first.raw(scene)
        for stage in self._stages:
            outputs |= stage.raw(scene)
        return outputs

    def _scene(self, image: Picture, clock: Clock, spare: NDArray[Any] | None = None) -> Scene:
        return Scene(as_frame(image), clock, self.size_px, self.score, self.nms_iou, spare)

    def _take_spare(self) -> NDArray[Any] | None:
        try:
            return self._spare.pop()    # one step, so that no two threads get the same
        except IndexError:
            return None

    def _least(self) -> float:
        """The score that the first stage's faces need, for the sake of the stages after it."""
        least = self.score
        for stage in reversed(self._stages):
            least = stage.needed(least)
        return least

    def _faces(self, scene: Scene, found: Found) -> Faces:
        for stage in self._stages:
            found = stage(scene, found)
        return found.faces(self.bundle.attributes, self.bundle.classes)

    def _later(self, scene: Scene, find: Callable[[], Found]) -> Faces:
        return self._faces(scene, find())

    def _numbers(self, found: Callable[[], Faces]) -> Faces:
        """What ``found`` gives; what is no number is the net's failure."""
        try:
            return found()
        except FloatingPointError as error:
            raise EngineError(f"{self.bundle.name}: {error}: use an fp32 bundle") from None
        except (ValueError, IndexError, KeyError, TypeError, ArithmeticError) as error:
            # The one place for what escapes a decoder: outputs of other shapes or sizes than the bundle says.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BundleError(
                f"{self.bundle.name}: its nets' outputs are not what its bundle.json says ({reason}): convert the "
                "checkpoint again"
            ) from error
