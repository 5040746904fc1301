"""What the nets of a bundle's stages see of a picture, for those that look at a net alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Stages with nets on faces have as many of them; a side of a face is so many pixels of the picture.
CROP_COUNTS = (1, 10)
_FACE_PX = 96

Image = NDArray[np.uint8]


def face_boxes(picture: Image, count: int) -> NDArray[np.float32]:
    """Boxes (count, 4) of 96 px, less in a small picture, spread evenly over ``picture`` (H, W, 3) from corner to
    corner: what nets on faces take depends on how many there are, and hardly on what they show."""
    height, width = picture.shape[:2]
    side = min(_FACE_PX, height, width)
    places = np.linspace(0, 1, count, dtype=np.float32)[:, None]
    corners = np.rint(places * np.array([width - side, height - side], np.float32))
    return np.concatenate((corners, corners + side), axis=1).astype(np.float32)
