"""Features of each face's box by RoIAlign from several maps at once, one after the other (tfn.txt, section IV.A.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from edgeface.bundle import Bundle, FaceStage, Joined, Score
from edgeface.runtime.engines import RawMap
from edgeface.runtime.gather.regions import BoxesKind, BoxGatherer, maps_of, some_boxes, strides_of
from edgeface.runtime.roi import roi_align
from edgeface.runtime.stages.faces import score_lines
from edgeface.runtime.stages.kind import Shape, Sides, Sight, Trial
from edgeface.runtime.stages.stage import Floats, Found, Scene


def joined_regions(
    gather: Joined, strides: Mapping[str, int], features: Callable[[str], RawMap], regions: Floats
) -> Floats:
    """The features float32 (N, C, S, S) of ``regions`` (N, 4) in pixels of the net's input, of all maps of ``gather``:
    each map's values times its scale. ``features`` gives a map by name, ``strides`` its stride."""
    parts = [
        roi_align(features(name), regions, gather.size, 1 / strides[name], gather.sampling) * np.float32(scale)
        for name, scale in zip(gather.maps, gather.scales, strict=True)
    ]
    return np.concatenate(parts, axis=1)


class JoinedGatherer(BoxGatherer[Joined]):
    """Regions of all of a stage's maps."""

    def regions(self, scene: Scene, found: Found, boxes: Floats) -> Floats:
        if not len(boxes):
            return np.empty((0, 1, 1, 1), np.float32)
        maps, per_side = maps_of(found)
        known = {name: maps.raw(name) for name in self._gather.maps}    # a net's work, which is no preparing
        return scene.clock.prepared(
            partial(joined_regions, self._gather, self._strides, known.__getitem__, boxes * per_side)
        )


class JoinedKind(BoxesKind):
    """Stages on joined regions of a dense stage's features."""

    gatherer = JoinedGatherer

    def trials(self, bundle: Bundle, stage: FaceStage, sides: Sides, sight: Sight) -> Iterator[Trial]:
        gather: Any = stage.gather
        strides, first = strides_of(bundle.dense), gather.maps[0]
        boxes = some_boxes(sight.maps[first].shape, strides[first], sight.count)
        outputs = {name: f"{name} of regions" for name in stage.output_names}
        for region in joined_regions(gather, strides, lambda name: RawMap(sight.maps[name]), boxes):
            yield Trial(0, f"the net on regions for {', '.join(outputs)}", outputs, region, region)

    def input_shapes(self, stage: FaceStage, net: int, size_px: int, channels: Mapping[str, int]) -> list[Shape]:
        gather: Any = stage.gather
        return [(sum(channels.get(name, 1) for name in gather.maps), gather.size, gather.size)]

    def describe(self, stage: FaceStage) -> Iterator[tuple[str, str]]:
        gather: Any = stage.gather
        yield "regions", (
            f"{gather.size} x {gather.size} features of each face, {gather.margin:g} boxes wide, from "
            f"{' and '.join(gather.maps)} together"
        )
        yield "", f"for {', '.join(stage.output_names)}"
        if stage.one_of(Score) is not None:
            yield from score_lines(stage)
        elif stage.limit is not None:
            yield "", f"at most {stage.limit} faces"

    def with_threshold(self, stage: FaceStage, threshold: float) -> FaceStage | None:
        return None if stage.one_of(Score) is None else stage.with_threshold(threshold)
