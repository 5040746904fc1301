"""Overlap of boxes and greedy non-maximum suppression; evaluation uses the same overlap.

``nms`` uses the C kernels where they are there; ``nms_reference`` is the specification in NumPy, with the same result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.kernels import decoding, library

Floats = NDArray[np.floating]


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
    width = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0)
    height = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0)
    shared = width * height
    union = area_a + area_b - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap
