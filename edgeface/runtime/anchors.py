"""From a dense stage's raw maps to boxes and points, only where a face was kept (mos.txt, section 3; formulas:
``DenseStage``).

The functions use the C kernels where they are there; those called ``..._reference`` are the specification in NumPy, and
give the same bits. All arithmetic is float32, every operation rounded, in the order in which it stands here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import DenseStage
from edgeface.runtime.engines.registry import RawMap
from edgeface.runtime.exponential import exp
from edgeface.runtime.kernels import decoding, library
from edgeface.runtime.kernels.maps import packed_pyramid
from edgeface.runtime.nms import nms_reference

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Scale = tuple[float, float]


@dataclass(frozen=True)
class Anchors:
    """n kept anchors: ``places`` int64 (n, 4), a pyramid level and the anchor, row and column in its maps, and their
    ``logits`` float32 (n,)."""

    places: Indices
    logits: Floats

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, chosen: Indices) -> Anchors:
        """Those of the indices ``chosen``, in its order."""
        return Anchors(self.places[chosen], self.logits[chosen])

    @property
    def level(self) -> Indices:
        """The level of each, (n,)."""
        return self.places[:, 0]

    @property
    def anchor(self) -> Indices:
        """Which of the anchors at its position each is, (n,)."""
        return self.places[:, 1]

    @property
    def row(self) -> Indices:
        """The row of each in its level's maps, (n,)."""
        return self.places[:, 2]

    @property
    def column(self) -> Indices:
        """The column of each in its level's maps, (n,)."""
        return self.places[:, 3]

    @property
    def cells(self) -> Floats:
        """The column and row of each as float32 (n, 2), the corner of its cell in strides."""
        return self.places[:, :1:-1].astype(np.float32)


@dataclass(frozen=True)
class Pyramid:
    """The geometry of a dense stage's L levels, float32, in pixels of the net's input.

    ``strides`` (L,); ``sides`` (L, A) of the anchors at a position, 0 where a level has fewer than the others;
    ``variances`` (2,).
    """

    strides: Floats
    sides: Floats
    variances: Floats

    @classmethod
    def of(cls, stage: DenseStage) -> Pyramid:
        """That of a bundle's dense stage."""
        sides = np.zeros((len(stage.levels), max(len(level.anchors_px) for level in stage.levels)), np.float32)
        for i, level in enumerate(stage.levels):
            sides[i, : len(level.anchors_px)] = level.anchors_px
        strides = np.array([level.stride for level in stage.levels], np.float32)
        return cls(strides, sides, np.array(stage.variances, np.float32))

    @cached_property
    def packed(self) -> bytes:
        """As the C structure ef_pyramid, which points into the arrays."""
        return packed_pyramid(self.strides, self.sides, self.variances.tolist())


def keep_anchors(scores: Sequence[RawMap], threshold_logit: float, limit: int) -> Anchors:
    """The anchors whose logit reaches the threshold, of one map (A, H, W) a level; at most the ``limit`` (1 up) best.

    They come by level, then by index (row * W + column) * A + anchor; of equal logits the first ones stay. The
    threshold counts as float32. Raises FloatingPointError when any score is not a number.
    """
    kernels = library()
    if kernels is None:
        return keep_anchors_reference(scores, threshold_logit, limit)
    return Anchors(*decoding.keep_anchors(kernels, scores, threshold_logit, limit))


def keep_anchors_reference(scores: Sequence[RawMap], threshold_logit: float, limit: int) -> Anchors:
    """``keep_anchors`` in NumPy."""
    places, logits = [], []
    for level, raw in enumerate(scores):
        score = raw.real()
        if score.size and math.isnan(score.max()):
            raise FloatingPointError("a score is not a number")
        row, column, anchor = np.nonzero(score.transpose(1, 2, 0) >= np.float32(threshold_logit))
        places.append(np.stack((np.full_like(row, level), anchor, row, column), axis=1))
        logits.append(score[anchor, row, column])
    kept = Anchors(np.concatenate(places), np.concatenate(logits))
    if len(kept) <= limit:
        return kept
    return kept[np.sort(np.argsort(-kept.logits, kind="stable")[:limit])]


def best_boxes(
    maps: Sequence[RawMap | None], kept: Anchors, pyramid: Pyramid, iou_threshold: float, scale: Scale = (1.0, 1.0)
) -> tuple[Indices, Floats]:
    """Decode boxes and suppress by their logits: the indices (m,) of the anchors that stay, best first, and their boxes
    (m, 4).

    ``maps`` are one (4A, H, W) a level, None where no anchor of it was kept. The boxes are x1 y1 x2 y2 in pixels of a
    picture of which ``scale`` (x, y) pixels of the net's input are one. Raises FloatingPointError when a box is not
    finite, and IndexError when an anchor is outside its map.
    """
    kernels = library()
    if kernels is None:
        return best_boxes_reference(maps, kept, pyramid, iou_threshold, scale)
    return decoding.best_boxes(kernels, maps, kept.places, kept.logits, pyramid.packed, iou_threshold, scale)


def best_boxes_reference(
    maps: Sequence[RawMap | None], kept: Anchors, pyramid: Pyramid, iou_threshold: float, scale: Scale = (1.0, 1.0)
) -> tuple[Indices, Floats]:
    """``best_boxes`` in NumPy."""
    boxes = decode_boxes_reference(maps, kept, pyramid)
    if not np.isfinite(boxes).all():
        raise FloatingPointError("a box is not finite")
    best = nms_reference(boxes, kept.logits, iou_threshold)
    per_side: Floats = np.array([*scale, *scale], np.float32)
    return best, boxes[best] / per_side


def decode_boxes_reference(maps: Sequence[RawMap | None], kept: Anchors, pyramid: Pyramid) -> Floats:
    """Boxes (n, 4), x1 y1 x2 y2 in pixels of the net's input, of kept anchors; arguments as for ``best_boxes``."""
    v0, v1 = pyramid.variances

    def boxes(i: int, here: Anchors) -> Floats:
        offsets = at_anchors(maps[i], here, 4)
        centre, side = _geometry(here, pyramid, i)
        with np.errstate(over="ignore", invalid="ignore"):      # a box that is not finite is the caller's to report
            half = exp(offsets[:, 2:] * v1) * side[:, None] / np.float32(2)
            middle = centre + offsets[:, :2] * v0 * side[:, None]
            return np.concatenate((middle - half, middle + half), axis=1)

    return by_level(kept, len(maps), (4,), boxes)


def decode_landmarks(
    maps: Sequence[RawMap | None], kept: Anchors, pyramid: Pyramid, scale: Scale = (1.0, 1.0)
) -> Floats:
    """Five points (n, 5, 2) of kept anchors, in pixels as those of ``best_boxes``.

    ``maps`` are one (10A, H, W) a level, None where no anchor of it was kept. Raises IndexError when an anchor is
    outside its map.
    """
    kernels = library()
    if kernels is None:
        return decode_landmarks_reference(maps, kept, pyramid, scale)
    return decoding.decode_landmarks(kernels, maps, kept.places, pyramid.packed, scale)


def decode_landmarks_reference(
    maps: Sequence[RawMap | None], kept: Anchors, pyramid: Pyramid, scale: Scale = (1.0, 1.0)
) -> Floats:
    """``decode_landmarks`` in NumPy."""
    per_axis = np.array(scale, np.float32)

    def points(i: int, here: Anchors) -> Floats:
        offsets = at_anchors(maps[i], here, 10).reshape(-1, 5, 2)
        centre, side = _geometry(here, pyramid, i)
        with np.errstate(over="ignore", invalid="ignore"):
            found: Floats = (centre[:, None, :] + offsets * pyramid.variances[0] * side[:, None, None]) / per_axis
        return found

    return by_level(kept, len(maps), (5, 2), points)


def by_level(kept: Anchors, levels: int, shape: tuple[int, ...], values: Callable[[int, Anchors], Floats]) -> Floats:
    """``values(i, anchors of level i)`` put together in the order of ``kept``; levels without anchors are not asked."""
    level = kept.level
    if len(kept) and (level == level[0]).all():
        return values(int(level[0]), kept)
    out = np.empty((len(kept), *shape), np.float32)
    for i in range(levels):
        here = np.nonzero(level == i)[0]
        if len(here):
            out[here] = values(i, kept[here])
    return out


def at_anchors(raw: RawMap | None, kept: Anchors, per_anchor: int) -> Floats:
    """The ``per_anchor`` channels of each kept anchor: (n, per_anchor) from an anchor-major map."""
    if raw is None:
        raise IndexError("an anchor was kept on a level without a map")
    channels, height, width = raw.values.shape
    by_anchor = raw.values.reshape(channels // per_anchor, per_anchor, height, width)
    return raw.converted(by_anchor[kept.anchor, :, kept.row, kept.column])


def _geometry(kept: Anchors, pyramid: Pyramid, level: int) -> tuple[Floats, Floats]:
    """Centres (n, 2) and sides (n,) of kept anchors of one level, in pixels of the net's input."""
    return (kept.cells + np.float32(0.5)) * pyramid.strides[level], pyramid.sides[level, kept.anchor]
