"""Overlap of boxes and greedy non-maximum suppression; evaluation uses the same overlap.

``nms`` uses the C kernels where they are there; ``nms_reference`` is the specification in NumPy, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.kernels import decoding, library

Floats = NDArray[np.floating]

# How much of the smaller of two boxes lies in the other, and how far apart their points are in sides of the smaller,
# that both are one face. Only for faces of a side from LARGE_SHARE of the picture's longest: a net sees parts of such a
# face as faces too, and two people are seldom so near to the camera and to each other.
LARGE_SHARE = 0.23
SHARED_AREA, SHARED_POINTS = 0.3, 0.65


def iou(boxes_a: Floats, boxes_b: Floats) -> Floats:
    """Intersection over union of every pair: (N, 4) and (M, 4), x1 y1 x2 y2 in one unit -> (N, M) in 0..1.

    The result has the wider dtype of the two. Boxes without area overlap nothing, not even themselves: 0.
    """
    a, b = np.ascontiguousarray(boxes_a.T), np.ascontiguousarray(boxes_b.T)
    return _overlap(a[:, :, None], _area(a)[:, None], b[:, None, :], _area(b)[None, :])


def nms(boxes: Floats, scores: Floats, iou_threshold: float) -> NDArray[np.int64]:
    """Greedy suppression: indices of the boxes kept, best score first.

    ``boxes`` (N, 4) x1 y1 x2 y2, ``scores`` (N,). A box goes when it overlaps a kept, better one by more than
    ``iou_threshold``, which counts as a number of the boxes' type; of equal scores the lower index counts as better.
    Raises ValueError when the shapes do not fit.
    """
    if boxes.shape != (len(scores), 4) or scores.ndim != 1:
        raise ValueError(f"boxes {boxes.shape} and scores {scores.shape} are not (N, 4) and (N,)")
    kernels = library()
    if kernels is None or boxes.dtype != np.float32 or scores.dtype != np.float32:
        return nms_reference(boxes, scores, iou_threshold)
    return decoding.nms(kernels, boxes, scores, iou_threshold)


def nms_reference(boxes: Floats, scores: Floats, iou_threshold: float) -> NDArray[np.int64]:
    """``nms`` in NumPy."""
    threshold = boxes.dtype.type(iou_threshold)
    order = np.argsort(-scores, kind="stable")
    columns = np.ascontiguousarray(boxes[order].T)
    areas = _area(columns)
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    best = 0
    while best < len(order):
        kept.append(best)
        rest = slice(best + 1, None)
        overlap = _overlap(columns[:, best], areas[best], columns[:, rest], areas[rest])
        alive[rest] &= overlap <= threshold
        step = int(alive[rest].argmax()) if alive[rest].any() else len(order)
        best += 1 + step
    return order[kept]


def _area(columns: Floats) -> Floats:
    """Areas of boxes given as (4, ...), 0 where a side is negative."""
    x1, y1, x2, y2 = columns
    area: Floats = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    return area


def _overlap(a: Floats, area_a: Floats, b: Floats, area_b: Floats) -> Floats:
    """IoU of boxes (4, ...) that broadcast against each other. One function, so that all rounding is the same."""
    shared = _shared(a, b)
    union = area_a + area_b - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def _shared(a: Floats, b: Floats) -> Floats:
    """The area that boxes (4, ...) have in common, where they broadcast against each other."""
    width = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0)
    height = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0)
    area: Floats = width * height
    return area


def seen_again(boxes: Floats, points_of: Callable[[NDArray[np.int64]], Floats], longest_px: float) -> NDArray[np.bool_]:
    """Which boxes (N, 4), best first, show a large face that a better box shows already: (N,) bool.

    ``points_of`` gives the five points (M, 5, 2) of the boxes of some indices; it is asked only where two boxes share
    enough area. All in pixels of the picture, whose longer side is ``longest_px``.
    """
    again = np.zeros(len(boxes), bool)
    columns = np.ascontiguousarray(boxes.T)                                 # (4, N)
    area = _area(columns)
    side = np.sqrt(area)
    large = np.flatnonzero(side >= LARGE_SHARE * longest_px)
    if len(boxes) < 2 or len(large) == 0:
        return again
    shared = _shared(columns[:, large, None], columns[:, None, :])          # (L, N)
    near = shared >= SHARED_AREA * np.minimum(area[large, None], area[None])
    near[np.arange(len(large)), large] = False
    involved = np.zeros(len(boxes), bool)
    involved[np.flatnonzero(near.any(0))] = True
    if not involved.any():
        return again
    involved[large[near.any(1)]] = True
    asked = np.flatnonzero(involved)
    points = points_of(asked)
    place = np.full(len(boxes), -1)
    place[asked] = np.arange(len(asked))
    one, other = np.nonzero(near)
    both = zip(np.minimum(large[one], other).tolist(), np.maximum(large[one], other).tolist(), strict=True)
    pairs = np.array(sorted(set(both))).T           # (2, P): better, worse
    better, worse = pairs
    apart = np.linalg.norm(points[place[better]] - points[place[worse]], axis=2).mean(axis=1)
    same = apart <= SHARED_POINTS * np.minimum(side[better], side[worse])
    for first, second in pairs[:, same].T.tolist():     # in order, so that what is left out hides nothing
        again[second] |= not again[first]
    return again
