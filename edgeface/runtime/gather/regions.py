"""Features of each face's box by RoIAlign, from the level that the face's size asks for (maskface.txt, section 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeface.bundle import Bundle, DenseStage, FaceStage, Joined, Regions
from edgeface.runtime.clock import TimedRun
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.gather.gathered import FaceRun, Gathered, distinct
from edgeface.runtime.roi import roi_align
from edgeface.runtime.stages.faces import FaceNet
from edgeface.runtime.stages.kind import Shape, Sides, Sight, StageKind, Trial
from edgeface.runtime.stages.stage import Floats, Found, Indices, Maps, Scene

GatherKind = TypeVar("GatherKind", Regions, Joined)

# A box without an area has the level of one with this side.
_LEAST_SIDE_PX = 1e-3
# Regions of a trial: from this part of the map's sides to all of them, some over the edges.
_LEAST_OF_MAP = 0.04


def widened(boxes: Floats, margin: float) -> Floats:
    """Boxes (N, 4), x1 y1 x2 y2, with ``margin`` times their sides about their centres, float32."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2), (boxes[:, 2:] - boxes[:, :2]) / np.float32(2)
    half = half * np.float32(margin)
    return np.concatenate((middle - half, middle + half), axis=1)


def levels_of(boxes: NDArray[np.floating], finest_px: float, levels: int) -> Indices:
    """Which of ``levels`` maps, finest first, each box (N, 4) in pixels of the net's input takes, int64 (N,): eq. 6 of
    maskface.txt, max(2, floor(k0 + log2(sqrt(w h) / 224))), with ``finest_px`` = 224 * 2^(3 - k0)."""
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)
    side_px = np.maximum(np.sqrt(sides.prod(axis=1)), _LEAST_SIDE_PX)
    numbers: Indices = (np.floor(np.log2(side_px / finest_px)) + 1).clip(0, levels - 1).astype(np.int64)
    return numbers


class BoxGatherer(ABC, Generic[GatherKind]):
    """A ``Gatherer`` of the features of N boxes, ``gather.margin`` times as wide as the faces'; ``strides`` are those
    of the dense stage's features, by name."""

    def __init__(
        self, bundle_name: str, gather: GatherKind, strides: Mapping[str, int], nets: Sequence[Session]
    ) -> None:
        self.nets = nets
        self._gather: GatherKind = gather
        self._bundle_name, self._strides = bundle_name, strides

    def __call__(self, scene: Scene, found: Found) -> Gathered:
        boxes = widened(found.boxes, self._gather.margin)
        runs = [self._run(scene, region) for region in self.regions(scene, found, boxes)]
        return Gathered(runs, np.arange(len(runs)), np.zeros(len(runs), np.int64), boxes=boxes)

    def samples(self, scene: Scene) -> None:
        return None

    @abstractmethod
    def regions(self, scene: Scene, found: Found, boxes: Floats) -> Floats:
        """The features (N, C, S, S) of the regions ``boxes`` (N, 4) of ``found``."""

    def _run(self, scene: Scene, region: Floats) -> FaceRun:
        return FaceRun(
            self._bundle_name, TimedRun(scene.clock, lambda: self.nets[0].run(region)), count=1, axis=1, noun="region"
        )


class RegionGatherer(BoxGatherer[Regions]):
    """Regions of the level that each face's size asks for."""

    def regions(self, scene: Scene, found: Found, boxes: Floats) -> Floats:
        maps, per_side = maps_of(found)
        gather, regions = self._gather, np.empty((0, 1, 1, 1), np.float32)
        level = levels_of(found.boxes * per_side, gather.finest_px, len(gather.maps))
        for i in distinct(level):
            features = maps.raw(gather.maps[i])
            here = np.flatnonzero(level == i)
            if not len(regions):
                regions = np.empty((len(boxes), features.values.shape[0], gather.size, gather.size), np.float32)
            regions[here] = scene.clock.prepared(partial(self._aligned, features, i, boxes[here] * per_side))
        return regions

    def _aligned(self, features: RawMap, level: int, boxes: Floats) -> Floats:
        """``boxes`` in pixels of the net's input."""
        gather = self._gather
        return roi_align(features, boxes, gather.size, 1 / self._strides[gather.maps[level]], gather.sampling)


class BoxesKind(StageKind):
    """Stages on the features of boxes, which ``gatherer`` gathers."""

    label = "regions"
    gatherer: type[BoxGatherer[Any]]

    def opened(self, bundle: Bundle, number: int, nets: Sequence[Session]) -> FaceNet:
        stage: Any = bundle.stages[number]
        return FaceNet(bundle, number, self.gatherer(bundle.name, stage.gather, strides_of(bundle.dense), nets))

    def with_limit(self, stage: FaceStage, limit: int) -> FaceStage:
        return replace(stage, limit=limit)


class RegionsKind(BoxesKind):
    """Stages on regions of a dense stage's features."""

    gatherer = RegionGatherer

    def trials(self, bundle: Bundle, stage: FaceStage, sides: Sides, sight: Sight) -> Iterator[Trial]:
        gather: Any = stage.gather
        strides = strides_of(bundle.dense)
        outputs = {name: f"{name} of regions" for name in stage.output_names}
        for box in some_boxes(sight.maps[gather.maps[0]].shape, strides[gather.maps[0]], sight.count):
            name = gather.maps[int(levels_of(box[None], gather.finest_px, len(gather.maps))[0])]
            features = RawMap(sight.maps[name])
            region = roi_align(features, box[None], gather.size, 1 / strides[name], gather.sampling)[0]
            yield Trial(0, "the net on regions", outputs, region, region)

    def input_shapes(self, stage: FaceStage, net: int, size_px: int, channels: Mapping[str, int]) -> list[Shape]:
        gather: Any = stage.gather
        return [(channels.get(gather.maps[0], 1), gather.size, gather.size)]

    def describe(self, stage: FaceStage) -> Iterator[tuple[str, str]]:
        gather: Any = stage.gather
        yield "regions", (
            f"{gather.size} x {gather.size} features of each face, {gather.margin:g} boxes wide, from "
            f"{', '.join(gather.maps)}; the first up to {gather.finest_px:g} px"
        )
        if stage.limit is not None:
            yield "", f"at most {stage.limit} faces"


def maps_of(found: Found) -> tuple[Maps, Floats]:
    """The dense stage's features of what was found, and pixels of its net's input for one of the picture, (4,)."""
    assert found.maps is not None           # a bundle whose first stage is not dense has no such stage
    return found.maps, np.array([*found.maps.scale, *found.maps.scale], np.float32)


def strides_of(stage: DenseStage) -> dict[str, int]:
    """The strides of a dense stage's features, by name."""
    return {each.name: each.stride for each in stage.features}


def some_boxes(shape: tuple[int, ...], stride: int, count: int) -> Floats:
    """``count`` boxes (count, 4), always the same, in pixels of an input whose map of ``stride`` has that ``shape``."""
    rng = np.random.default_rng(0)
    whole = np.array([shape[2], shape[1]], np.float32) * np.float32(stride)
    side = whole.min() * np.exp(rng.uniform(np.log(_LEAST_OF_MAP), 0.0, count))
    corner = rng.uniform(-0.25, 1.0, (count, 2)) * (whole - side[:, None] / 2)
    boxes: Floats = np.concatenate((corner, corner + side[:, None]), axis=1).astype(np.float32)
    return boxes
