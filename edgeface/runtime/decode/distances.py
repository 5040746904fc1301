"""Boxes as the distances of their edges from a point of the cell: SCRFD (arXiv:2105.04714, section 3), FCOS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Distances
from edgeface.runtime.anchors import Anchors

Floats = NDArray[np.float32]


def distance_boxes(coding: Distances, _level: int, stride: float, anchors: Anchors, values: Floats) -> Floats:
    """Boxes (n, 4), x1 y1 x2 y2 in pixels of the net's input, from ``values`` (n, 4): left, top, right, bottom in
    strides."""
    point = _points(coding, anchors)
    found: Floats = np.concatenate((point - values[:, :2], point + values[:, 2:]), axis=1) * np.float32(stride)
    return found


def distance_points(coding: Distances, _level: int, stride: float, anchors: Anchors, values: Floats) -> Floats:
    """Five points (n, 5, 2) in the same pixels, from ``values`` (n, 10): x y of each from the cell's point, in strides.
    """
    found: Floats = (_points(coding, anchors)[:, None] + values.reshape(-1, 5, 2)) * np.float32(stride)
    return found


def _points(coding: Distances, anchors: Anchors) -> Floats:
    """The point of each anchor's cell (n, 2), in strides."""
    points: Floats = anchors.cells + np.float32(coding.offset)
    return points
