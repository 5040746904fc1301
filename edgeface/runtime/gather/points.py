"""Features of a dense stage round the anchor that a face was kept at (mos.txt, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeface.bundle import Bins, Bundle, FaceStage, Points
from edgeface.runtime.clock import TimedRun
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.gather.gathered import FaceRun, Gathered, distinct
from edgeface.runtime.roi import gather_patches
from edgeface.runtime.stages.faces import FaceNet
from edgeface.runtime.stages.kind import Shape, Sides, Sight, StageKind, Trial
from edgeface.runtime.stages.stage import Floats, Found, Indices, Scene


class PointGatherer:
    """A ``Gatherer`` of patches of features, with one net a level."""

    def __init__(self, bundle_name: str, gather: Points, nets: Sequence[Session]) -> None:
        self.nets = nets
        self._bundle_name, self._gather = bundle_name, gather

    def __call__(self, scene: Scene, found: Found) -> Gathered:
        assert found.anchors is not None        # a bundle whose first stage is not dense has no such stage
        level = found.anchors.level
        run, row = np.zeros(len(level), np.int64), np.zeros(len(level), np.int64)
        runs: list[FaceRun] = []
        for i in distinct(level):
            here = np.flatnonzero(level == i)
            run[here], row[here] = len(runs), np.arange(len(here))
            runs.append(self._run(scene, found, i, here))
        return Gathered(runs, run, row)

    def samples(self, scene: Scene) -> None:
        return None

    def _run(self, scene: Scene, found: Found, level: int, here: Indices) -> FaceRun:
        assert found.anchors is not None
        assert found.maps is not None
        kept, net = found.anchors[here], self.nets[level]
        features = found.maps.raw(self._gather.maps[level])
        patches = gather_patches(features, kept.row, kept.column, self._gather.patch)
        return FaceRun(self._bundle_name, TimedRun(scene.clock, lambda: net.run(patches)), len(here), 2, "point")


class PointsKind(StageKind):
    """Stages on points of a dense stage's features."""

    label = "pose"

    def opened(self, bundle: Bundle, number: int, nets: Sequence[Session]) -> FaceNet:
        stage: Any = bundle.stages[number]
        return FaceNet(bundle, number, PointGatherer(bundle.name, stage.gather, nets))

    def trials(self, bundle: Bundle, stage: FaceStage, sides: Sides, sight: Sight) -> Iterator[Trial]:
        gather: Any = stage.gather
        for net, (level, name) in enumerate(zip(bundle.dense.levels, gather.maps, strict=True)):
            patches = strongest_patches(sight.maps, level.score, name, gather.patch, sight.count)
            outputs = {each: f"{each}{level.stride}" for each in stage.output_names}
            yield Trial(net, f"the pose net of stride {level.stride}", outputs, patches, patches)

    def input_shapes(self, stage: FaceStage, net: int, size_px: int, channels: Mapping[str, int]) -> list[Shape]:
        gather: Any = stage.gather
        return [(channels.get(gather.maps[net], 1), gather.patch, count * gather.patch) for count in (1, 5)]

    def describe(self, stage: FaceStage) -> Iterator[tuple[str, str]]:
        gather: Any = stage.gather
        told = ", ".join(f"{each.bins} bins of {each.bin_deg:g} degrees" for each in stage.all_of(Bins))
        yield "pose", f"{gather.patch} x {gather.patch} features of each face, {told}"


def strongest_patches(maps: Mapping[str, Floats], score: str, features: str, patch: int, count: int) -> Floats:
    """Patches of ``maps[features]`` round the ``count`` positions with the highest logits in ``maps[score]``, fewer on
    a smaller map."""
    logits = maps[score].max(axis=0)
    best = np.argsort(-logits, axis=None, kind="stable")[:count]
    row, column = np.unravel_index(best, logits.shape)
    return gather_patches(RawMap(maps[features]), row, column, patch)
