"""Faces made unrecognisable, for pictures that leave the process."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_BLOCKS = 5         # across a face: too few to tell who it is, whatever its size in pixels
_MARGIN = 0.15      # of the box's sides on each side: hair and ears identify too


def blurred(image: NDArray[np.uint8], boxes: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A copy of a uint8 (H, W, 3) picture in which every box (N, 4), x1 y1 x2 y2 in pixels, is 5 blocks wide and high.

    Each block is the mean of what it covers; what a box reaches over the picture's edge is left out. Means, not a blur
    that could be reckoned back.
    """
    out: NDArray[np.uint8] = image.copy()
    height, width = image.shape[:2]
    for x1, y1, x2, y2 in boxes.astype(np.float64):
        over_x, over_y = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
        left, right = np.clip([np.floor(x1 - over_x), np.ceil(x2 + over_x)], 0, width).astype(int)
        top, bottom = np.clip([np.floor(y1 - over_y), np.ceil(y2 + over_y)], 0, height).astype(int)
        if right <= left or bottom <= top:
            continue
        part = out[top:bottom, left:right]
        blocks = cv2.resize(
            part, (min(_BLOCKS, right - left), min(_BLOCKS, bottom - top)), interpolation=cv2.INTER_AREA
        )
        part[...] = cv2.resize(blocks, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
    return out
