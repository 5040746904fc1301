"""Calls into ef_anchors.c, ef_boxes.c, ef_heatmaps.c, ef_pose.c: what ``decode``, ``nms`` do where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.engines.registry import RawMap
from edgeface.runtime.kernels.arrays import address, contiguous, done
from edgeface.runtime.kernels.maps import packed_maps

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Scale = tuple[float, float]

_NO_NUMBER, _NOT_FINITE = -2, -3    # EF_NO_NUMBER of ef_anchors.c, EF_NOT_FINITE of ef_boxes.c and ef_heatmaps.c
_ROOM = 256     # anchors: more than most pictures have, so that most need one call
_LARGEST = (1 << 31) - 1


def keep_anchors(library: Any, scores: Sequence[RawMap], threshold_logit: float, limit: int) -> tuple[Indices, Floats]:
    """Places (n, 4) and logits (n,); raises FloatingPointError for a score that is not a number."""
    maps, held = packed_maps(scores)
    limit = min(limit, _LARGEST)
    room = min(_ROOM, limit)
    while True:
        places, logits = np.empty((room, 4), np.int64), np.empty(room, np.float32)
        found = library.ef_keep_anchors(len(held), maps, threshold_logit, limit, room, address(places), address(logits))
        if found == _NO_NUMBER:
            raise FloatingPointError("a score is not a number")
        if done(found, "ef_keep_anchors") <= room:
            return places[:found], logits[:found]
        room = found


def best_boxes(
    library: Any, maps: Sequence[RawMap | None], places: Indices, logits: Floats, pyramid: bytes, iou_threshold: float,
    scale: Scale,
) -> tuple[Indices, Floats]:
    """Indices (m,) and boxes (m, 4) of what stays of n anchors, ``places`` (n, 4) and ``logits`` (n,), with ``pyramid``
    an ef_pyramid; errors as those of ``anchors.best_boxes``."""
    n = len(logits)
    packed, _held = packed_maps(maps)
    places, logits = contiguous(places), contiguous(logits)
    boxes, best, room = np.empty((n, 4), np.float32), np.empty(n, np.int64), np.empty(11 * n, np.float32)
    count = library.ef_best_boxes(
        pyramid, packed, n, address(places), address(logits), iou_threshold, *scale,
        address(boxes), address(best), address(room),
    )  # fmt: skip
    if count == _NOT_FINITE:
        raise FloatingPointError("a box is not finite")
    return best[: _inside(count)], boxes[:count]


def decode_landmarks(
    library: Any, maps: Sequence[RawMap | None], places: Indices, pyramid: bytes, scale: Scale
) -> Floats:
    """Points (n, 5, 2) of anchors at ``places`` (n, 4), with ``pyramid`` an ef_pyramid; raises IndexError for an anchor
    outside its map."""
    packed, _held = packed_maps(maps)
    places = contiguous(places)
    points = np.empty((len(places), 5, 2), np.float32)
    _inside(library.ef_decode_landmarks(pyramid, packed, len(places), address(places), *scale, address(points)))
    return points


def pose_degrees(library: Any, logits: Floats, bins: int, bin_deg: float, first_centre_deg: float) -> Floats:
    """(P, 3) from (3, bins, P)."""
    logits = contiguous(logits)
    degrees = np.empty((logits.shape[2], 3), np.float32)
    done(
        library.ef_pose_degrees(len(degrees), address(logits), bins, bin_deg, first_centre_deg, address(degrees)),
        "ef_pose_degrees",
    )
    return degrees


def heatmap_points(
    library: Any, raw: RawMap, points: int, shuffle: int, upsample: int, reach: int
) -> Floats | None:
    """(points, 2) of one map (points * shuffle^2, h, w); None for one that is not finite. Raises ValueError for another
    shape."""
    channels, height, width = raw.values.shape
    if channels != points * shuffle**2 or 0 in raw.values.shape:
        raise ValueError(f"heatmaps {raw.values.shape} are not of {points} points")
    packed, _held = packed_maps([raw])
    rows, columns = height * shuffle, width * shuffle
    room = np.empty(columns * (1 + rows + 4 * upsample) + rows, np.float32)
    found = np.empty((points, 2), np.float32)
    result = library.ef_heatmap_points(packed, points, shuffle, upsample, reach, address(room), address(found))
    if result == _NOT_FINITE:
        return None
    done(result, "ef_heatmap_points")
    return found


def fit_pose(
    library: Any, points: Floats, model: NDArray[np.float64], inverse: NDArray[np.float64]
) -> NDArray[np.float64]:
    """As ``pose_fit.fit``: rotations (N, 3, 3) of points (N, P, 2), from arrays (P, 3) without gaps."""
    rotations = np.empty((len(points), 3, 3))
    arrays = address(points), address(model), address(inverse), address(rotations)
    done(library.ef_fit_pose(*points.shape[:2], *arrays), "ef_fit_pose")
    return rotations


def nms(library: Any, boxes: Floats, scores: Floats, iou_threshold: float) -> Indices:
    """As ``edgeface.runtime.nms.nms``, of float32 boxes (n, 4) and scores (n,)."""
    boxes, scores = contiguous(boxes), contiguous(scores)
    n = len(scores)
    kept, room = np.empty(n, np.int64), np.empty((7, n), np.int32)
    first = address(room)
    count = library.ef_nms(
        n, address(boxes), address(scores), iou_threshold, first, first + 20 * n, first + 24 * n, address(kept)
    )
    return kept[: done(count, "ef_nms")]


def sigmoid(library: Any, logits: Floats) -> Floats:
    """As ``logistic.sigmoid``."""
    logits = contiguous(logits)
    out = np.empty_like(logits)
    library.ef_sigmoid(logits.size, address(logits), address(out))
    return out


def _inside(result: int) -> int:
    if result < 0:
        raise IndexError("an anchor lies outside its level's map")
    return result
