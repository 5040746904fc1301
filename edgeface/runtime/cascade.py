"""Stages that look at windows and crops: a pyramid as a pipeline's first stage (mtcnn.txt, section II), and nets on
crops that refine what the stages before found (mtcnn.txt, section II; mhcnn.txt, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import CropStage, PyramidStage
from edgeface.errors import BundleError
from edgeface.frames import Frame
from edgeface.runtime.clock import Clock, TimedRun
from edgeface.runtime.crops import Squares, crop_planes, crop_signed, offset_boxes, square_crops
from edgeface.runtime.decode import logit, sigmoid
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.looks import Floats, Indices, Wanted, checked, require
from edgeface.runtime.nms import nms
from edgeface.runtime.pyramid import Canvas, canvas_planes, canvas_signed, plan, windows

# How many crops go into one inference: few different numbers, since an engine may allocate anew for each, and none so
# large that a net's first maps leave the processor's caches.
STRIPS = (16, 4, 1)


class PyramidFinder:
    """A pyramid stage with its net. Raises BundleError when the net lacks an output that the bundle says it has."""

    def __init__(self, bundle_name: str, stage: PyramidStage, net: Session) -> None:
        self.stage, self.net = stage, net
        self.bundle_name = bundle_name
        self.smallest_px = stage.cell_px
        require(bundle_name, net, [stage.score, stage.box])

    def look(self, frame: Frame, wanted: Wanted, clock: Clock, out: NDArray[Any] | None) -> PyramidLook:
        """As ``Finder``; the probability and the overlaps are the stage's own."""
        canvas = pyramid_canvas(self.stage, frame, wanted.size_px)
        x = clock.prepared(lambda: self._input(frame, canvas, out))
        run = TimedRun(clock, lambda: self.net.run(x))
        stage = self.stage
        score, box = (self._map(run, name, channels, canvas) for name, channels in ((stage.score, 1), (stage.box, 4)))
        boxes, logits = windows(
            score, box, canvas, logit(stage.threshold), stage.limit, stage.nms_iou, stage.merge_iou
        )
        return PyramidLook(boxes, sigmoid(logits), x)

    def raw(self, frame: Frame, size_px: int | tuple[int, int]) -> dict[str, Floats]:
        run = self.net.run(self._input(frame, pyramid_canvas(self.stage, frame, size_px), None))
        return {f"0.{name}": run.output(name) for name in (self.stage.score, self.stage.box)}

    def _input(self, frame: Frame, canvas: Canvas, out: NDArray[Any] | None) -> NDArray[Any]:
        if self.net.takes == "pixels":
            return canvas_signed(frame, canvas, out=out)
        return canvas_planes(frame, canvas, mean=self.stage.mean, scale=self.stage.scale, out=out)

    def _map(self, run: TimedRun, name: str, channels: int, canvas: Canvas) -> RawMap:
        raw = checked(self.bundle_name, run, name, channels, "a pyramid needs")
        rows, columns = (
            (side - canvas.cell_px) // canvas.stride + 1 for side in (canvas.height, canvas.width)
        )
        if raw.values.shape[1:] != (rows, columns):
            raise BundleError(
                f"{self.bundle_name}: output {name} is not one of windows of {canvas.cell_px} pixels every "
                f"{canvas.stride}: convert the checkpoint again"
            )
        return raw


def pyramid_canvas(stage: PyramidStage, frame: Frame, size_px: int | tuple[int, int]) -> Canvas:
    """The canvas of a picture at ``size_px``, the longest side or (width, height); raises OptionError as ``plan``.

    Faces are measured at the size that the picture would be letterboxed to; it is not, levels are made of it.
    """
    width, height = size_px if isinstance(size_px, tuple) else (size_px, size_px)
    scale = min(width / frame.width, height / frame.height)
    return plan(frame.width, frame.height, stage.cell_px, stage.stride, stage.factor, stage.min_face_px / scale)


@dataclass
class PyramidLook:
    """A ``Look`` that knows boxes alone."""

    boxes: Floats
    scores: Floats
    x: NDArray[Any]

    def landmarks(self, chosen: Indices) -> Floats | None:
        return None

    def pose(self, chosen: Indices) -> Floats | None:
        return None


@dataclass(frozen=True)
class Refined:
    """Boxes that went through a net on crops, best first: ``boxes`` (n, 4), ``scores`` (n,), ``origin`` (n,), which of
    the boxes before each was, ``landmarks`` (n, 5, 2) or None, and ``attributes``, name -> (n,) probabilities."""

    boxes: Floats
    scores: Floats
    origin: Indices
    landmarks: Floats | None
    attributes: Mapping[str, Floats]


class Refiner:
    """The crop stage ``stage``, the bundle's ``number``-th from 0, with its net; ``is_last`` makes it answer for
    landmarks and attributes. Raises BundleError when the net lacks an output that the bundle says it has."""

    def __init__(self, bundle_name: str, stage: CropStage, net: Session, number: int, *, is_last: bool) -> None:
        self.stage, self.net = stage, net
        self._bundle_name, self._number = bundle_name, number
        self._landmarks = stage.landmarks if is_last else None
        self._attributes = stage.attributes if is_last else []
        require(bundle_name, net, output_names(stage))

    def entry_score(self, least: float) -> float:
        """The score that a box needs to be looked at, where ``least`` is wanted of a face in the end: a mean with at
        most 1 cannot reach it from below 2 * least - 1."""
        return max(self.stage.threshold, 2 * least - 1) if self.stage.scores == "mean" else 0.0

    def refine(
        self, frame: Frame, boxes: Floats, scores: Floats, least: float, nms_iou: float, clock: Clock
    ) -> Refined:
        """Refine ``boxes`` (n, 4) in pixels of the picture with their ``scores`` (n,), best first; those of at least
        ``least`` and the stage's threshold stay, suppressed at ``nms_iou``.

        Raises EngineError, BundleError when an output has not the shape that the bundle says, and FloatingPointError
        when a score or box is no number.
        """
        stage = self.stage
        looked_at = np.flatnonzero(scores >= np.float32(self.entry_score(least)))[: stage.limit]
        squares = clock.prepared(lambda: square_crops(boxes[looked_at], stage.margin))
        strips = [_Strip(self, frame, squares[rows], clock) for rows in _strips(len(squares))]
        logits = _joined([strip.values(stage.score, 1)[0] for strip in strips])
        if np.isnan(logits).any():
            raise FloatingPointError("a score is not a number")
        found = sigmoid(logits)
        if stage.scores == "mean":
            found = (scores[looked_at] + found) / np.float32(2)
        kept = np.flatnonzero(found >= np.float32(max(least, stage.threshold)))
        of_strip = self._chosen(strips, kept)
        corners, sides = squares[kept, :2].astype(np.float32), squares[kept, 2:].astype(np.float32)
        offsets = _joined([strip.values(stage.box, 4)[:, rows].T for strip, rows in of_strip], 4)
        refined = offset_boxes(squares[kept], offsets)
        if not np.isfinite(refined).all():
            raise FloatingPointError("a box is not finite")
        best = nms(refined, found[kept], nms_iou)
        landmarks = None
        if self._landmarks is not None:
            name = self._landmarks
            points = _joined([strip.values(name, 10)[:, rows].T for strip, rows in of_strip], 10).reshape(-1, 5, 2)
            landmarks = (corners[:, None] + (points + np.float32(0.5)) * sides[:, None])[best]
        attributes = {
            each.name: sigmoid(_joined([
                strip.channel(each.output, each.channel)[rows] for strip, rows in of_strip
            ]))[best]
            for each in self._attributes
        }
        return Refined(refined[best], found[kept][best], looked_at[kept][best], landmarks, attributes)

    def raw(self, frame: Frame) -> dict[str, Floats]:
        """Every output of the net, float32 (C, 4, 1), by name with the stage's number: on the quarters of the square in
        the picture's middle, whatever was found, so that what differs between two machines is this net's alone."""
        half = max(1, min(frame.width, frame.height) // 2)
        x, y = frame.width // 2, frame.height // 2
        quarters = [(x - half, y - half, half), (x, y - half, half), (x - half, y, half), (x, y, half)]
        run = self.net.run(self.input(frame, np.array(quarters, np.int64)))
        return {f"{self._number}.{name}": run.output(name) for name in output_names(self.stage)}

    def input(self, frame: Frame, squares: Squares) -> NDArray[Any]:
        """The strip of crops as the net takes it."""
        if self.net.takes == "pixels":
            return crop_signed(frame, squares, self.stage.size_px)
        return crop_planes(frame, squares, self.stage.size_px, mean=self.stage.mean, scale=self.stage.scale)

    def checked(self, run: TimedRun, name: str, count: int, channels: int | None) -> RawMap:
        """An output on ``count`` crops, (channels, count, 1); raises BundleError for another shape."""
        raw = run.raw(name)
        found = raw.values.shape
        if found[1:] != (count, 1) or channels not in (None, found[0]):
            wanted = "one value" if channels == 1 else "values" if channels is None else f"{channels} values"
            raise BundleError(
                f"{self._bundle_name}: output {name} is {' x '.join(map(str, found))} on {count} crops, not {wanted} a "
                "crop: convert the checkpoint again"
            )
        return raw

    def no_channel(self, name: str, channel: int, found: int) -> BundleError:
        """The error of an attribute whose channel is not there."""
        return BundleError(
            f"{self._bundle_name}: output {name} has {found} channels, an attribute needs channel {channel}: convert "
            "the checkpoint again"
        )

    @staticmethod
    def _chosen(strips: Sequence[_Strip], kept: Indices) -> list[tuple[_Strip, Indices]]:
        """The strips that have kept crops, and which of theirs; the others are not asked for more."""
        chosen, start = [], 0
        for strip in strips:
            rows = kept[(kept >= start) & (kept < start + strip.count)] - start
            if len(rows):
                chosen.append((strip, rows))
            start += strip.count
        return chosen


class _Strip:
    """One inference on some crops."""

    def __init__(self, refiner: Refiner, frame: Frame, squares: Squares, clock: Clock) -> None:
        x = clock.prepared(lambda: refiner.input(frame, squares))
        self.count = len(squares)
        self._refiner = refiner
        self._run = TimedRun(clock, lambda: refiner.net.run(x))

    def values(self, name: str, channels: int) -> Floats:
        """An output as (channels, count)."""
        return self._refiner.checked(self._run, name, self.count, channels).real()[:, :, 0]

    def channel(self, name: str, channel: int) -> Floats:
        """One channel of an output, (count,)."""
        raw = self._refiner.checked(self._run, name, self.count, None)
        if channel >= raw.values.shape[0]:
            raise self._refiner.no_channel(name, channel, raw.values.shape[0])
        return raw.converted(raw.values[channel, :, 0])


def output_names(stage: CropStage) -> list[str]:
    """The names of all outputs that the stage reads, each once."""
    names = [stage.score, stage.box, *([] if stage.landmarks is None else [stage.landmarks])]
    return list(dict.fromkeys([*names, *(attribute.output for attribute in stage.attributes)]))


def _strips(count: int) -> Iterator[slice]:
    start = 0
    for size in STRIPS:
        while count - start >= size:
            yield slice(start, start + size)
            start += size


def _joined(parts: Sequence[Floats], width: int | None = None) -> Floats:
    """Parts (n, width), or (n,), one after the other."""
    if not parts:
        return np.empty(0 if width is None else (0, width), np.float32)
    joined: Floats = np.ascontiguousarray(np.concatenate(parts), np.float32)
    return joined
