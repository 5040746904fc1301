"""The steps of the letterbox in NumPy, slow and exact, and in OpenCV, faster with the same bits.

``preprocess.py`` has the specification. The functions that end in ``_reference`` are what everything else is held
against; the others are what runs where the C kernels were not built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.frames import Frame

Bytes = NDArray[np.uint8]

_MAX_BOX = 8192     # pixels a box: up to here cv2's float32 means are exact where it matters
_BLOCK = 1 << 17    # float32 values that one strip of the box average may hold, to stay in the cache


@dataclass(frozen=True)
class Target:
    """How one plane of a picture comes to its size in the frame: sides of the averaged boxes, and the final size."""

    box_w: int
    box_h: int
    new_w: int
    new_h: int


Resample = Callable[[Bytes, Target], Bytes]


def bgr_of(frame: Frame, luma: Target, chroma: Target, resample: Resample) -> Bytes:
    """The picture, resampled by ``resample``, as uint8 (new_h, new_w, 3) BGR; ``chroma`` is for NV12 and YUYV."""
    pixels = frame.pixels
    if frame.format in ("bgr", "rgb"):
        small = resample(pixels, luma)
        return small if frame.format == "bgr" else small[:, :, ::-1]
    if frame.format == "grey":
        return np.repeat(resample(pixels, luma)[:, :, None], 3, axis=2)
    if frame.format == "nv12":
        y, u, v = pixels[: frame.height], pixels[frame.height :, ::2], pixels[frame.height :, 1::2]
    else:
        y, u, v = pixels[:, :, 0], pixels[:, ::2, 1], pixels[:, 1::2, 1]
    return yuv_to_bgr(resample(y, luma), resample(u, chroma), resample(v, chroma))


def yuv_to_bgr(y: Bytes, u: Bytes, v: Bytes) -> Bytes:
    """BT.601, limited range, in whole numbers: uint8 Y, U, V of one shape (...) -> uint8 (..., 3) BGR."""
    light = np.maximum(y.astype(np.int32) - 16, 0) * 1220542 + (1 << 19)
    blue, red = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    sums = (light + 2116026 * blue, light - 409993 * blue - 852492 * red, light + 1673527 * red)
    return np.stack([(s >> 20).clip(0, 255) for s in sums], axis=-1).astype(np.uint8)


def resample(image: Bytes, target: Target) -> Bytes:
    """A plane uint8 (H, W) or BGR (H, W, 3) at its target size, with OpenCV; the image itself where nothing changes."""
    source = _box_average(image, target)
    if source.shape[:2] == (target.new_h, target.new_w):
        return source
    resized = cv2.resize(source, (target.new_w, target.new_h), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(resized, np.uint8)


def resample_reference(image: Bytes, target: Target) -> Bytes:
    """``resample`` in plain integer NumPy."""
    return bilinear_reference(_box_average_reference(image, target), target.new_w, target.new_h)


def bilinear_reference(image: Bytes, new_w: int, new_h: int) -> Bytes:
    """Step 3 of the specification for uint8 (H, W, ...)."""
    left, right, weight_x = taps(image.shape[1], new_w)
    top, bottom, weight_y = taps(image.shape[0], new_h)
    more = (1,) * (image.ndim - 2)
    wx, wy = weight_x.reshape(1, -1, *more), weight_y.reshape(-1, 1, *more)
    values = image.astype(np.int64)
    rows: NDArray[np.int64] = values[:, left] * (256 - wx) + values[:, right] * wx
    sums: NDArray[np.int64] = rows[top] * (256 - wy) + rows[bottom] * wy
    return np.right_shift(sums + (1 << 15), 16).astype(np.uint8)


def taps(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each of ``target`` pixels: the two source indices and the second's weight in 256ths."""
    # OpenCV divides twice, and the double rounding can move a weight by 1/256: do the same.
    step = 1.0 / (target / source)
    position = (np.arange(target) + 0.5) * step - 0.5
    first = np.floor(position).astype(np.int64)
    weight = np.rint((position - first) * 256).astype(np.int64)
    outside = (first < 0) | (first >= source - 1)
    weight[outside] = 0
    first = first.clip(0, source - 1)
    return first, np.minimum(first + 1, source - 1), weight


def _box_average(image: Bytes, target: Target) -> Bytes:
    n = target.box_w * target.box_h
    if n == 1:
        return image
    if n > _MAX_BOX:
        return _box_average_reference(image, target)
    height, width = image.shape[0] // target.box_h, image.shape[1] // target.box_w
    covered = image[: height * target.box_h, : width * target.box_w]
    if n % 2 or target.box_w == target.box_h == 2:
        # No mean of an odd number of integers ends in 1/2, and cv2 has an integer path of its own for 2 x 2.
        return np.asarray(cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    # cv2 rounds a mean that ends in 1/2 to the even neighbour: take the exact sums from it and round them here.
    out = np.empty((height, width, *image.shape[2:]), np.uint8)
    step = max(1, _BLOCK // (covered[0].size * target.box_h))
    for top in range(0, height, step):
        bottom = min(height, top + step)
        strip = covered[top * target.box_h : bottom * target.box_h].astype(np.float32)
        means = cv2.resize(strip, (width, bottom - top), interpolation=cv2.INTER_AREA)
        sums = np.rint(means * np.float32(n)).astype(np.int32)
        out[top:bottom] = (sums + n // 2) // n
    return out


def _box_average_reference(image: Bytes, target: Target) -> Bytes:
    n = target.box_w * target.box_h
    height, width = image.shape[0] // target.box_h, image.shape[1] // target.box_w
    covered = image[: height * target.box_h, : width * target.box_w]
    boxes = covered.reshape(height, target.box_h, width, target.box_w, *image.shape[2:])
    sums = boxes.sum(axis=(1, 3), dtype=np.int64)
    means: Bytes = ((sums + n // 2) // n).astype(np.uint8)
    return means
