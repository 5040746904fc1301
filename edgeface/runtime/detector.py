"""The detector: a dense stage over the whole picture, then stages per face, as the bundle says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, DenseStage, PoseStage
from edgeface.errors import BundleError, EngineError, OptionError
from edgeface.faces import Faces
from edgeface.frames import Picture
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
from edgeface.runtime.engines import RawMap, Run, Session
from edgeface.runtime.engines.registry import BatchSession
from edgeface.runtime.preprocess import NetInput, letterbox_planes, letterbox_signed
from edgeface.runtime.roi import gather_patches

MAX_CANDIDATES = 5000
MAX_SIZE_PX = 8192

Floats = NDArray[np.float32]
Got = TypeVar("Got")


@dataclass(frozen=True)
class Timing:
    """Wall time of one picture in ms. ``network_ms`` is all time inside the engine, pose included; ``decode_ms`` is
    what is neither that nor preprocessing."""

    preprocess_ms: float
    network_ms: float
    decode_ms: float
    total_ms: float


class _TimedRun:
    """A Run that adds up the time spent inside the engine, which is entered again for every output."""

    def __init__(self, start: Callable[[], Run]) -> None:
        started = perf_counter_ns()
        self._run = start()
        self.network_ns = perf_counter_ns() - started

    def output(self, name: str) -> Floats:
        return self._timed(self._run.output, name)

    def raw(self, name: str) -> RawMap:
        return self._timed(self._run.raw, name)

    def _timed(self, get: Callable[[str], Got], name: str) -> Got:
        start = perf_counter_ns()
        got = get(name)
        self.network_ns += perf_counter_ns() - start
        return got


class Detector:
    """Finds faces in pictures, uint8 (H, W, 3) BGR or a Frame. Make one with ``edgeface.load``.

    ``sessions`` are the opened nets: one list a stage of the bundle, in the order of the stage's file sets. ``size_px``
    is the longest side that a picture is letterboxed to, or a fixed (width, height); ``score`` the least score and
    ``nms_iou`` the largest overlap of two faces, each 0..1. Raises OptionError for a value that cannot work and
    BundleError when the nets lack an output that the bundle names.
    """

    def __init__(
        self,
        bundle: Bundle,
        sessions: Sequence[Sequence[Session]],
        *,
        size_px: int | tuple[int, int],
        score: float,
        nms_iou: float,
    ) -> None:
        sides = size_px if isinstance(size_px, tuple) else (size_px,)
        if not all(bundle.dense.multiple <= side <= MAX_SIZE_PX for side in sides):
            raise OptionError(f"size {size_px} cannot work: choose {bundle.dense.multiple} to {MAX_SIZE_PX} pixels")
        for name, value in (("score", score), ("NMS", nms_iou)):
            if not 0.0 <= value <= 1.0:
                raise OptionError(f"{name} threshold {value} cannot work: choose 0 to 1")
        self.bundle = bundle
        self.size_px = size_px
        self.score = score
        self.nms_iou = nms_iou
        self._dense, self._net = bundle.dense, sessions[0][0]
        self._pyramid = Pyramid.of(bundle.dense)
        self._pose: tuple[PoseStage, Sequence[Session]] | None = None
        self._spare: deque[NDArray[Any]] = deque(maxlen=1)      # the input of a run that has ended, to be overwritten
        _require(bundle.name, self._net, map_names(self._dense))
        for stage, opened in zip(bundle.stages[1:], sessions[1:], strict=True):
            assert isinstance(stage, PoseStage)     # read_bundle lets no second dense stage pass
            for session in opened:
                _require(bundle.name, session, [stage.logits])
            self._pose = stage, opened

    def __call__(self, image: Picture) -> Faces:
        """The faces of a picture, uint8 (H, W, 3) BGR or a Frame. Raises InputError for anything else, and EngineError.
        """
        return self.timed(image)[0]

    def timed(self, image: Picture) -> tuple[Faces, Timing]:
        """The faces, and where the time went; errors as when called."""
        start = perf_counter_ns()
        boxed = self._input(image, self._take_spare())
        prepared = perf_counter_ns()
        run = _TimedRun(lambda: self._net.run(boxed.x))
        faces = self._faces(run, boxed)
        self._spare.append(boxed.x)
        end = perf_counter_ns()
        return faces, Timing(
            (prepared - start) / 1e6,
            run.network_ns / 1e6,
            (end - prepared - run.network_ns) / 1e6,
            (end - start) / 1e6,
        )

    def batch(self, images: Sequence[Picture]) -> list[Faces]:
        """The faces of each picture. Pictures that come to one size are computed together where the engine gains by
        that, which changes results by rounding alone; otherwise one after the other. Errors as when called."""
        if not isinstance(self._net, BatchSession):
            return [self(image) for image in images]
        boxed = [self._input(image) for image in images]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(boxed):
            by_shape.setdefault(picture.x.shape, []).append(i)
        found: dict[int, Faces] = {}
        for same in by_shape.values():
            runs = self._net.run_batch([boxed[i].x for i in same])
            for i, run in zip(same, runs, strict=True):
                found[i] = self._faces(_TimedRun(partial(_known, run)), boxed[i])
        return [found[i] for i in range(len(images))]

    def raw(self, image: Picture) -> dict[str, Floats]:
        """Every output of the dense stage by name, float32 (C, H, W), for comparing engines; errors as when called."""
        run = self._net.run(self._input(image).x)
        return {name: run.output(name) for name in map_names(self._dense)}

    def _take_spare(self) -> NDArray[Any] | None:
        try:
            return self._spare.pop()    # one step, so that no two threads get the same
        except IndexError:
            return None

    def _input(self, image: Picture, out: NDArray[Any] | None = None) -> NetInput:
        return net_input(self._net, self._dense, image, self.size_px, out)

    def _faces(self, run: _TimedRun, boxed: NetInput) -> Faces:
        levels, pyramid, scale = self._dense.levels, self._pyramid, (boxed.scale_x, boxed.scale_y)
        try:
            kept = keep_anchors(
                [self._map(run, level.score, len(level.anchors_px)) for level in levels],
                logit(self.score), MAX_CANDIDATES,
            )  # fmt: skip
            maps = self._maps(run, kept, [level.box for level in levels], 4)
            best, boxes = best_boxes(maps, kept, pyramid, self.nms_iou, scale)
        except FloatingPointError as error:
            raise EngineError(f"{self.bundle.name}: {error}: use an fp32 bundle") from None
        kept = kept[best]
        points = None
        names = [level.landmarks for level in levels if level.landmarks is not None]
        if names:
            points = decode_landmarks(self._maps(run, kept, names, 10), kept, pyramid, scale)
        return Faces(boxes, sigmoid(kept.logits), points, self._degrees(run, kept))

    def _maps(self, run: _TimedRun, kept: Anchors, names: Sequence[str], per_anchor: int) -> list[RawMap | None]:
        """The map of each level that has kept anchors; the others are not asked for, and so not computed by ncnn."""
        wanted = set(kept.level.tolist())
        return [
            self._map(run, name, per_anchor * len(level.anchors_px)) if i in wanted else None
            for i, (name, level) in enumerate(zip(names, self._dense.levels, strict=True))
        ]

    def _map(self, run: _TimedRun, name: str, channels: int) -> RawMap:
        raw = run.raw(name)
        found = raw.values.shape[0]
        if found != channels:
            raise BundleError(
                f"{self.bundle.name}: output {name} has {found} channels, its level's anchors need {channels}: "
                "convert the checkpoint again"
            )
        return raw

    def _degrees(self, run: _TimedRun, kept: Anchors) -> Floats | None:
        """Pitch, yaw and roll (n, 3) by the pose stage, which sees the kept anchors and nothing else."""
        if self._pose is None:
            return None
        stage, sessions = self._pose
        names = [level.features for level in self._dense.levels if level.features is not None]

        def degrees(i: int, here: Anchors) -> Floats:
            patches = gather_patches(run.raw(names[i]), here.row, here.column, stage.patch)
            pose = _TimedRun(lambda: sessions[i].run(patches))
            logits = pose.output(stage.logits)
            run.network_ns += pose.network_ns
            return pose_degrees(logits, stage)

        return by_level(kept, len(names), (3,), degrees)


def _known(run: Run) -> Run:
    return run


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


def _require(bundle_name: str, session: Session, names: Sequence[str]) -> None:
    missing = sorted(set(names) - session.outputs)
    if missing:
        raise BundleError(
            f"{bundle_name}: its nets have no output {', '.join(missing)}: convert the checkpoint again"
        )
