"""A dense stage and the pose stage on its features: from a picture to boxes, and points and angles of those wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from edgeface.bundle import DenseStage, PoseStage
from edgeface.frames import Frame, Picture
from edgeface.runtime.clock import Clock, TimedRun
from edgeface.runtime.decode import (
    Anchors,
    Pyramid,
    best_boxes,
    by_level,
    decode_landmarks,
    keep_anchors,
    logit,
    pose_degrees,
    sigmoid,
)
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.looks import Floats, Indices, Wanted, checked, require
from edgeface.runtime.preprocess import NetInput, letterbox_planes, letterbox_signed
from edgeface.runtime.roi import gather_patches

MAX_CANDIDATES = 5000


class DenseFinder:
    """The dense stage ``stage`` with its net, and the pose stage with one net a level where there is one. Raises
    BundleError when a net lacks an output that the bundle ``bundle_name`` says it has."""

    def __init__(
        self, bundle_name: str, stage: DenseStage, net: Session, pose: tuple[PoseStage, Sequence[Session]] | None
    ) -> None:
        self.stage, self.net, self.pose = stage, net, pose
        self.bundle_name = bundle_name
        self.smallest_px = stage.multiple
        self.pyramid = Pyramid.of(stage)
        require(bundle_name, net, map_names(stage))
        for session in () if pose is None else pose[1]:
            require(bundle_name, session, [] if pose is None else [pose[0].logits])

    def input(self, picture: Picture, size_px: int | tuple[int, int], out: NDArray[Any] | None = None) -> NetInput:
        """What the net is given of a picture; ``out`` and errors as those of ``net_input``."""
        return net_input(self.net, self.stage, picture, size_px, out)

    def look(self, frame: Frame, wanted: Wanted, clock: Clock, out: NDArray[Any] | None) -> DenseLook:
        boxed = clock.prepared(lambda: self.input(frame, wanted.size_px, out))
        return DenseLook(self, TimedRun(clock, lambda: self.net.run(boxed.x)), boxed, wanted, clock)

    def raw(self, frame: Frame, size_px: int | tuple[int, int]) -> dict[str, Floats]:
        run = self.net.run(self.input(frame, size_px).x)
        return {name: run.output(name) for name in map_names(self.stage)}


class DenseLook:
    """A ``Look``: the kept anchors of one run."""

    def __init__(self, finder: DenseFinder, run: TimedRun, boxed: NetInput, wanted: Wanted, clock: Clock) -> None:
        self._finder, self._run, self._clock = finder, run, clock
        self._scale = boxed.scale_x, boxed.scale_y
        self.x = boxed.x
        levels = finder.stage.levels
        kept = keep_anchors(
            [self._map(level.score, len(level.anchors_px)) for level in levels], logit(wanted.score), MAX_CANDIDATES
        )
        maps = self._maps(kept, [level.box for level in levels], 4)
        best, self.boxes = best_boxes(maps, kept, finder.pyramid, wanted.nms_iou, self._scale)
        self._kept = kept[best]
        self.scores = sigmoid(self._kept.logits)

    def landmarks(self, chosen: Indices) -> Floats | None:
        names = [level.landmarks for level in self._finder.stage.levels if level.landmarks is not None]
        if not names:
            return None
        kept = self._kept[chosen]
        return decode_landmarks(self._maps(kept, names, 10), kept, self._finder.pyramid, self._scale)

    def pose(self, chosen: Indices) -> Floats | None:
        if self._finder.pose is None:
            return None
        stage, sessions = self._finder.pose
        names = [level.features for level in self._finder.stage.levels if level.features is not None]

        def degrees(i: int, here: Anchors) -> Floats:
            patches = gather_patches(self._run.raw(names[i]), here.row, here.column, stage.patch)
            pose = TimedRun(self._clock, lambda: sessions[i].run(patches))
            return pose_degrees(pose.output(stage.logits), stage)

        return by_level(self._kept[chosen], len(names), (3,), degrees)

    def _maps(self, kept: Anchors, names: Sequence[str], per_anchor: int) -> list[RawMap | None]:
        """The map of each level that has kept anchors; the others are not asked for, and so not computed by ncnn."""
        wanted = set(kept.level.tolist())
        return [
            self._map(name, per_anchor * len(level.anchors_px)) if i in wanted else None
            for i, (name, level) in enumerate(zip(names, self._finder.stage.levels, strict=True))
        ]

    def _map(self, name: str, channels: int) -> RawMap:
        return checked(self._finder.bundle_name, self._run, name, channels, "its level's anchors need")


def net_input(
    session: Session, stage: DenseStage, image: Picture, size_px: int | tuple[int, int], out: NDArray[Any] | None = None
) -> NetInput:
    """A picture letterboxed to ``size_px`` as ``session`` takes it: normalised planes, or pixels less 128.

    ``out`` is an array that may be overwritten, used where it fits. Raises InputError and OptionError as ``letterbox``.
    """
    if session.takes == "pixels":
        return letterbox_signed(image, size_px, stage.multiple, out=out)
    return letterbox_planes(image, size_px, stage.multiple, mean=stage.mean, scale=stage.scale, out=out)


def map_names(stage: DenseStage) -> list[str]:
    """The names of all outputs that a dense stage's levels name, level by level."""
    names = []
    for level in stage.levels:
        names += [n for n in (level.score, level.box, level.landmarks, level.features) if n is not None]
    return names
