"""A dense stage: from a picture to boxes, and to points and features of those wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, DenseStage, Level
from edgeface.frames import Picture
from edgeface.runtime.anchors import Anchors, keep_anchors
from edgeface.runtime.clock import TimedRun
from edgeface.runtime.decode.coding import Decoding
from edgeface.runtime.decode.objectness import joined_score
from edgeface.runtime.engines import RawMap, Run, Session
from edgeface.runtime.engines.registry import BatchSession
from edgeface.runtime.logistic import logit, sigmoid
from edgeface.runtime.nms import seen_again
from edgeface.runtime.preprocess import NetInput, letterbox, letterbox_planes, letterbox_signed
from edgeface.runtime.stages.cuts import CutNotice
from edgeface.runtime.stages.kind import Image, Shape, Sides, Sight, Size, StageKind, Trial
from edgeface.runtime.stages.stage import Floats, Found, Late, Scene, checked, require

MAX_CANDIDATES = 5000


class DenseFinder:
    """A ``FirstStage``: the dense stage ``stage`` with its net. Raises BundleError when the net lacks an output that
    the bundle ``bundle_name`` says it has."""

    def __init__(self, bundle_name: str, stage: DenseStage, net: Session) -> None:
        self.stage, self.net = stage, net
        self.bundle_name = bundle_name
        self.smallest_px = stage.multiple
        self.decoding = Decoding(stage)
        self.cut = CutNotice(bundle_name, "or more places that reach the score")
        require(bundle_name, net, map_names(stage))

    def input(self, picture: Picture, size_px: Size, out: NDArray[Any] | None = None) -> NetInput:
        """What the net is given of a picture; ``out`` and errors as those of ``net_input``."""
        return net_input(self.net, self.stage, picture, size_px, out)

    def find(self, scene: Scene, least: float) -> Found:
        boxed = scene.clock.prepared(lambda: self.input(scene.frame, scene.size_px, scene.spare))
        return self.found(scene, least, boxed, lambda: self.net.run(boxed.x))

    def found(self, scene: Scene, least: float, boxed: NetInput, start: Callable[[], Run]) -> Found:
        """The faces of a run that ``start`` starts on ``boxed``; raises as ``find``."""
        looked = _Looked(self, TimedRun(scene.clock, start), (boxed.scale_x, boxed.scale_y), sides_px(boxed.x))
        kept, boxes = looked.best(least, scene.nms_iou)
        told: dict[str, Floats | Late] = {}
        if self.stage.levels[0].landmarks is not None:
            longest_px = max(scene.frame.width, scene.frame.height)
            once = np.flatnonzero(~seen_again(boxes, lambda rows: looked.landmarks(kept[rows]), longest_px))
            kept, boxes = kept[once], boxes[once]
            told["landmarks"] = Late(lambda rows: looked.landmarks(kept[rows]), np.arange(len(kept)))
        return Found(boxes, sigmoid(kept.logits), told, looked, kept, boxed.x)

    @property
    def gains_by_batches(self) -> bool:
        """As ``BatchStage``."""
        return isinstance(self.net, BatchSession)

    def find_batch(self, scenes: Sequence[Scene], least: float) -> list[Callable[[], Found]]:
        """As ``BatchStage``; raises as ``find``."""
        assert isinstance(self.net, BatchSession)
        boxed = [self.input(scene.frame, scene.size_px) for scene in scenes]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(boxed):
            by_shape.setdefault(picture.x.shape, []).append(i)
        runs: dict[int, Run] = {}
        for same in by_shape.values():
            runs |= zip(same, self.net.run_batch([boxed[i].x for i in same]), strict=True)
        return [
            partial(self.found, scene, least, boxed[i], partial(runs.__getitem__, i)) for i, scene in enumerate(scenes)
        ]

    def raw(self, scene: Scene) -> dict[str, Floats]:
        run = self.net.run(self.input(scene.frame, scene.size_px).x)
        return {name: run.output(name) for name in map_names(self.stage)}


class _Looked:
    """One run of the net, and its ``Maps``."""

    def __init__(
        self, finder: DenseFinder, run: TimedRun, scale: tuple[float, float], input_px: tuple[int, int]
    ) -> None:
        """``input_px``: height and width of what the net was given."""
        self._finder, self._run, self.scale, self._input_px = finder, run, scale, input_px

    def best(self, least: float, nms_iou: float) -> tuple[Anchors, Floats]:
        """The kept anchors of at least the probability ``least``, best first, and their boxes."""
        levels = self._finder.stage.levels
        # One more than go on tells whether any are given up.
        kept = keep_anchors(self._scores(), logit(least), MAX_CANDIDATES + 1)
        if len(kept) > MAX_CANDIDATES:
            self._finder.cut.tell(len(kept), MAX_CANDIDATES)
            kept = kept[np.sort(np.argsort(-kept.logits, kind="stable")[:MAX_CANDIDATES])]
        maps = self._maps(kept, [level.box for level in levels], 4)
        best, boxes = self._finder.decoding.best(maps, kept, nms_iou, self.scale)
        return kept[best], boxes

    def landmarks(self, kept: Anchors) -> Floats:
        names = [level.landmarks for level in self._finder.stage.levels if level.landmarks is not None]
        return self._finder.decoding.landmarks(self._maps(kept, names, 10), kept, self.scale)

    def raw(self, name: str) -> RawMap:
        found = next(each for each in self._finder.stage.features if each.name == name)
        return self._checked(name, found.stride, found.channels, "its bundle.json says")

    def _scores(self) -> list[RawMap]:
        levels, objectness = self._finder.stage.levels, self._finder.stage.objectness
        scores = [self._map(level.score, level, 1) for level in levels]
        if objectness is None:
            return scores
        return [
            joined_score(score, self._map(name, level, 1), objectness.power)
            for score, name, level in zip(scores, objectness.outputs, levels, strict=True)
        ]

    def _maps(self, kept: Anchors, names: Sequence[str], per_anchor: int) -> list[RawMap | None]:
        """The map of each level that has kept anchors; the others are not asked for, and so not computed by ncnn."""
        wanted = set(kept.level.tolist())
        return [
            self._map(name, level, per_anchor) if i in wanted else None
            for i, (name, level) in enumerate(zip(names, self._finder.stage.levels, strict=True))
        ]

    def _map(self, name: str, level: Level, per_anchor: int) -> RawMap:
        return self._checked(name, level.stride, per_anchor * len(level.anchors_px), "its level's anchors need")

    def _checked(self, name: str, stride: int, channels: int | None, needed_by: str) -> RawMap:
        size = tuple(-(-side_px // stride) for side_px in self._input_px)
        return checked(self._finder.bundle_name, self._run, name, channels, needed_by, size)


class DenseKind(StageKind):
    """Dense stages."""

    label = "network"
    gives_maps = True

    def opened(self, bundle: Bundle, number: int, nets: Sequence[Session]) -> DenseFinder:
        return DenseFinder(bundle.name, bundle.dense, nets[0])

    def trials(self, bundle: Bundle, stage: DenseStage, sides: Sides, sight: Sight) -> Iterator[Trial]:
        x, z = (net_input(nets[0], stage, sight.image, sight.size_px).x for nets in sides)
        yield Trial(0, "the dense net", {name: name for name in map_names(stage)}, x, z)

    def input_shapes(self, stage: DenseStage, net: int, size_px: int, channels: Mapping[str, int]) -> list[Shape]:
        m = stage.multiple
        half, whole = (-(-side // m) * m for side in (size_px // 2, size_px))
        return [(3, m, m), (3, 2 * m, 3 * m), (3, half, half), (3, whole, whole)]

    def describe(self, stage: DenseStage) -> Iterator[tuple[str, str]]:
        yield "dense", f"BGR, (x - {stage.mean:g}) * {stage.scale:g}, sides multiples of {stage.multiple}"
        if stage.coding is not None:
            yield "", f"boxes as {type(stage.coding).__struct_config__.tag}"
        yield "", "anchors " + "; ".join(f"{level.anchors_px} px every {level.stride} px" for level in stage.levels)

    def pixels(self, stage: DenseStage, picture: Image, size_px: Size) -> Image:
        return letterbox(picture, size_px, stage.multiple).pixels

    def normalisation(self, stage: DenseStage) -> tuple[float, float]:
        return stage.mean, stage.scale


def net_input(
    session: Session, stage: DenseStage, image: Picture, size_px: Size, out: NDArray[Any] | None = None
) -> NetInput:
    """A picture letterboxed to ``size_px`` as ``session`` takes it: normalised planes, or pixels less 128.

    ``out`` is an array that may be overwritten, used where it fits. Raises InputError and OptionError as ``letterbox``.
    """
    if session.takes == "pixels":
        return letterbox_signed(image, size_px, stage.multiple, out=out)
    return letterbox_planes(image, size_px, stage.multiple, mean=stage.mean, scale=stage.scale, out=out)


def sides_px(x: NDArray[Any]) -> tuple[int, int]:
    """Height and width of what a net is given of a picture, planes or pixels as in ``NetInput``."""
    height_px, width_px = x.shape[:2] if x.dtype == np.int8 else x.shape[1:]
    return height_px, width_px


def map_names(stage: DenseStage) -> list[str]:
    """The names of all outputs that a dense stage reads or gives out, level by level, each once."""
    features = {each.name: each.stride for each in stage.features}
    names: list[str] = []
    objectness: list[str | None] = [None] * len(stage.levels)
    if stage.objectness is not None:
        objectness = [*stage.objectness.outputs]
    for level, other in zip(stage.levels, objectness, strict=True):
        names += [name for name in (level.score, other, level.box, level.landmarks) if name is not None]
        names += [name for name, stride in features.items() if stride == level.stride]
    return list(dict.fromkeys([*names, *features]))
