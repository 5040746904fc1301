"""Pictures of cameras that hang upside down or on their side, turned upright as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeface.frames import Frame
from edgeface.stream.sources import Grab, Source, SourceSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

# By degrees clockwise and whether it is mirrored afterwards: whether to transpose, and then OpenCV's code to flip by
# (0: top to bottom, 1: left to right, -1: both).
_STEPS: dict[tuple[int, bool], tuple[bool, int | None]] = {
    (0, False): (False, None), (0, True): (False, 1),
    (90, False): (True, 1), (90, True): (True, None),
    (180, False): (False, -1), (180, True): (False, 0),
    (270, False): (True, 0), (270, True): (True, -1),
}  # fmt: skip


def turned(frame: Frame, rotate_deg: int, flip: bool) -> Frame:
    """A frame turned by 0, 90, 180 or 270 degrees clockwise and then, with ``flip``, mirrored from left to right.

    The format stays, but for YUYV on its side, whose colours are for two pixels side by side: that becomes BGR.
    """
    transpose, code = _STEPS[rotate_deg, flip]
    if not transpose and code is None:
        return frame
    if frame.format == "yuyv" and transpose:
        frame = Frame(frame.to_bgr())
    if frame.format == "yuyv":
        return Frame(_yuyv(frame.pixels, code), "yuyv")
    if frame.format == "nv12":
        return Frame(_nv12(frame, transpose, code), "nv12")
    return Frame(_moved(frame.pixels, transpose, code), frame.format)


class Oriented:
    """A source whose frames are turned."""

    def __init__(self, opened: Source, rotate_deg: int, flip: bool) -> None:
        self.fps = opened.fps
        self.damage = getattr(opened, "damage", None)
        self._opened = opened
        self._rotate_deg = rotate_deg
        self._flip = flip

    def read(self) -> Grab | None:
        grab = self._opened.read()
        return grab and Grab(turned(grab.frame, self._rotate_deg, self._flip), grab.taken_monotonic_ns)

    def close(self) -> None:
        self._opened.close()


def oriented(opened: Source, spec: SourceSpec) -> Source:
    """The source with its frames turned as ``spec`` says, where it does not turn them itself: one that does has a true
    attribute ``is_oriented``."""
    if (spec.rotate_deg, spec.flip) == (0, False) or getattr(opened, "is_oriented", False):
        return opened
    return Oriented(opened, spec.rotate_deg, spec.flip)


def _moved(pixels: NDArray[np.uint8], transpose: bool, code: int | None) -> NDArray[np.uint8]:
    import cv2

    moved = cv2.transpose(pixels) if transpose else pixels
    return np.asarray(moved if code is None else cv2.flip(moved, code), np.uint8)


def _nv12(frame: Frame, transpose: bool, code: int | None) -> NDArray[np.uint8]:
    height_px, width_px = frame.height, frame.width
    luma = _moved(frame.pixels[:height_px], transpose, code)
    chroma = _moved(frame.pixels[height_px:].reshape(height_px // 2, width_px // 2, 2), transpose, code)
    return np.concatenate([luma, chroma.reshape(luma.shape[0] // 2, luma.shape[1])])


def _yuyv(pixels: NDArray[np.uint8], code: int | None) -> NDArray[np.uint8]:
    height_px, width_px = pixels.shape[:2]
    pairs = _moved(pixels.reshape(height_px, width_px // 2, 4), False, code)
    if code != 0:
        # The two pixels of a pair change places, their colour stays.
        pairs[:, :, [0, 2]] = pairs[:, :, [2, 0]]
    return pairs.reshape(height_px, width_px, 2)
