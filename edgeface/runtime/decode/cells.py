"""Boxes within bounds of a cell and an anchor: YOLOv5 and YOLO5Face (arXiv:2105.12931, section III)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Cells
from edgeface.runtime.anchors import Anchors
from edgeface.runtime.logistic import sigmoid

Floats = NDArray[np.float32]


def cell_boxes(coding: Cells, level: int, stride: float, anchors: Anchors, values: Floats) -> Floats:
    """Boxes (n, 4), x1 y1 x2 y2 in pixels of the net's input, from ``values`` (n, 4), t of x, y, width and height."""
    twice = sigmoid(np.ascontiguousarray(values)) * np.float32(2)
    middle = (anchors.cells + twice[:, :2] - np.float32(0.5)) * np.float32(stride)
    half = twice[:, 2:] ** 2 * _sides(coding, level, anchors) / np.float32(2)
    return np.concatenate((middle - half, middle + half), axis=1)


def cell_points(coding: Cells, level: int, stride: float, anchors: Anchors, values: Floats) -> Floats:
    """Five points (n, 5, 2) in the same pixels, from ``values`` (n, 10): x y of each from the cell's corner, in sides
    of the anchor."""
    corner = anchors.cells * np.float32(stride)
    found: Floats = corner[:, None] + values.reshape(-1, 5, 2) * _sides(coding, level, anchors)[:, None]
    return found


def _sides(coding: Cells, level: int, anchors: Anchors) -> Floats:
    """The width and height of each anchor (n, 2)."""
    return np.array(coding.anchors_px[level], np.float32)[anchors.anchor]
