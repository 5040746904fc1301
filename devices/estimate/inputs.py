"""What the nets of a bundle's stages see of a picture, for those that look at a net alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, CropStage, DenseStage, PoseStage, PyramidStage
from edgeface.frames import as_frame
from edgeface.runtime.cascade import pyramid_canvas
from edgeface.runtime.crops import crops
from edgeface.runtime.preprocess import letterbox
from edgeface.runtime.pyramid import canvas_signed

# Stages with nets on faces have as many of them; a side of a face is so many pixels of the picture.
CROP_COUNTS = (1, 10)
_FACE_PX = 96

Image = NDArray[np.uint8]
Size = int | tuple[int, int]


def face_boxes(picture: Image, count: int) -> NDArray[np.float32]:
    """Boxes (count, 4) of 96 px, less in a small picture, spread evenly over ``picture`` (H, W, 3) from corner to
    corner: what nets on faces take depends on how many there are, and hardly on what they show."""
    height, width = picture.shape[:2]
    side = min(_FACE_PX, height, width)
    places = np.linspace(0, 1, count, dtype=np.float32)[:, None]
    corners = np.rint(places * np.array([width - side, height - side], np.float32))
    return np.concatenate((corners, corners + side), axis=1).astype(np.float32)


def stage_pixels(bundle: Bundle, number: int, picture: Image, size_px: Size) -> Image:
    """What the net of stage ``number`` sees of a picture, uint8 (H, W, 3) each, at ``size_px``, the longest side or
    (width, height): the whole of it, its pyramid's canvas, or one crop. Not for pose stages, which see features."""
    stage = bundle.stages[number]
    assert not isinstance(stage, PoseStage)
    pixels: Image = _PIXELS[type(stage)](stage, picture, size_px)
    return pixels


def _dense(stage: DenseStage, picture: Image, size_px: Size) -> Image:
    return letterbox(picture, size_px, stage.multiple).pixels


def _pyramid(stage: PyramidStage, picture: Image, size_px: Size) -> Image:
    signed = canvas_signed(picture, pyramid_canvas(stage, as_frame(picture), size_px))
    pixels: Image = signed.view(np.uint8) ^ np.uint8(128)
    return pixels


def _crop(stage: CropStage, picture: Image, _size_px: Size) -> Image:
    square = np.array([[0, 0, min(_FACE_PX, *picture.shape[:2])]], np.int64)
    cut: Image = crops(picture, square, stage.size_px)[0]
    return cut


_PIXELS: dict[type, Callable[[Any, Image, Size], Image]] = {
    DenseStage: _dense, PyramidStage: _pyramid, CropStage: _crop,
}
