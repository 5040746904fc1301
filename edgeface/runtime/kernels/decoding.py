"""Calls into ef_anchors.c and ef_boxes.c: what ``decode`` and ``nms`` do where the library is there."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.engines.registry import RawMap
from edgeface.runtime.kernels.arrays import address, done
from edgeface.runtime.kernels.maps import anchors_to_c, maps_to_c, pyramid_to_c

if TYPE_CHECKING:
    from edgeface.runtime.decode import Anchors, Pyramid

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_NO_NUMBER, _NOT_FINITE = -2, -3    # EF_NO_NUMBER of ef_anchors.c, EF_NOT_FINITE of ef_boxes.c
_ROOM = 256     # anchors: more than most pictures have, so that most need one call
_LARGEST = (1 << 31) - 1


def keep_anchors(
    library: Any, scores: Sequence[RawMap], threshold_logit: float, limit: int
) -> tuple[Indices, Floats]:
    """(4, n): level, anchor, row, column; and the logits (n,). Raises FloatingPointError for a score that is none."""
    described, held = maps_to_c(scores)
    limit = min(limit, _LARGEST)
    room = min(_ROOM, limit)
    while True:
        places, logits = np.empty((4, room), np.int64), np.empty(room, np.float32)
        first = address(places)
        found = library.ef_keep_anchors(
            len(held), described, threshold_logit, limit, room,
            first, first + 8 * room, first + 16 * room, first + 24 * room, address(logits),
        )  # fmt: skip
        if found == _NO_NUMBER:
            raise FloatingPointError("a score is not a number")
        if done(found, "keep_anchors") <= room:
            return places[:, :found], logits[:found]
        room = found


def best_boxes(
    library: Any, maps: Sequence[RawMap | None], kept: Anchors, pyramid: Pyramid, iou_threshold: float
) -> tuple[Indices, Floats]:
    """Indices (m,) of what stays, best first, and the boxes (n, 4) of all.

    Raises FloatingPointError for a box that is not finite, and IndexError for an anchor outside its map.
    """
    n = len(kept)
    described, _maps = maps_to_c(maps)
    anchors, _anchors = anchors_to_c(kept)
    boxes, best = np.empty((n, 4), np.float32), np.empty(n, np.int64)
    room = np.empty((7, n), np.int32)
    first = address(room)
    count = library.ef_best_boxes(
        ctypes.byref(pyramid_to_c(pyramid)), described, ctypes.byref(anchors), iou_threshold,
        address(boxes), first, first + 20 * n, first + 24 * n, address(best),
    )  # fmt: skip
    if count == _NOT_FINITE:
        raise FloatingPointError("a box is not finite")
    return best[: _inside(count)], boxes


def decode_landmarks(library: Any, maps: Sequence[RawMap | None], kept: Anchors, pyramid: Pyramid) -> Floats:
    """Points (n, 5, 2); raises IndexError for an anchor outside its map."""
    described, _maps = maps_to_c(maps)
    anchors, _anchors = anchors_to_c(kept)
    points = np.empty((len(kept), 5, 2), np.float32)
    _inside(
        library.ef_decode_landmarks(
            ctypes.byref(pyramid_to_c(pyramid)), described, ctypes.byref(anchors), address(points)
        )
    )
    return points


def nms(library: Any, boxes: Floats, scores: Floats, iou_threshold: float) -> Indices:
    """As ``edgeface.runtime.nms.nms``, of float32 boxes (n, 4) and scores (n,)."""
    boxes, scores = np.ascontiguousarray(boxes), np.ascontiguousarray(scores)
    n = len(scores)
    kept, room = np.empty(n, np.int64), np.empty((7, n), np.int32)
    first = address(room)
    count = library.ef_nms(
        n, address(boxes), address(scores), iou_threshold, first, first + 20 * n, first + 24 * n, address(kept)
    )
    return kept[: done(count, "nms")]


def sigmoid(library: Any, logits: Floats) -> Floats:
    """As ``decode.sigmoid``."""
    logits = np.ascontiguousarray(logits)
    out = np.empty_like(logits)
    library.ef_sigmoid(logits.size, address(logits), address(out))
    return out


def _inside(result: int) -> int:
    if result < 0:
        raise IndexError("an anchor lies outside its level's map")
    return result
