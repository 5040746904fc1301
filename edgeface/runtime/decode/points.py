"""Landmarks that a net gives as offsets from the centre of what it was given, a crop or a region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.crops import Squares

Floats = NDArray[np.float32]


def points_in_crops(offsets: Floats, squares: Squares) -> Floats:
    """Points (N, K, 2) in pixels from ``offsets`` (N, 2 * K), x y of each from the centre of its crop in sides of it;
    ``squares`` int64 (N, 3) are the crops, x y side."""
    corners, sides = squares[:, :2].astype(np.float32), squares[:, 2:].astype(np.float32)
    points = offsets.reshape(len(offsets), offsets.shape[1] // 2, 2)
    found: Floats = corners[:, None] + (points + np.float32(0.5)) * sides[:, None]
    return found


def points_in_regions(offsets: Floats, boxes: Floats) -> Floats:
    """Points (N, K, 2) in pixels from ``offsets`` (N, 2 * K), x y of each from the centre of its region in sides of it;
    ``boxes`` (N, 4) are the regions."""
    corners, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    points = offsets.reshape(len(offsets), offsets.shape[1] // 2, 2)
    found: Floats = corners[:, None] + (points + np.float32(0.5)) * sides[:, None]
    return found
