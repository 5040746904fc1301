"""Letterbox and normalisation: one specification, a NumPy reference, and the fast path that equals it bit for bit.

The specification, all in integers, for a W x H picture and a frame F_w x F_h (a ``size_px`` alone is a square frame):

1. s = min(F_w / W, F_h / H); the picture becomes new_w x new_h = max(1, floor(W s + 1/2)) x max(1, floor(H s + 1/2)).
2. Where s <= 1/2, the picture is first averaged over k_x x k_y boxes from its top-left corner, k = floor(1 / s), never
   more than the picture's side; what is left of a box at the right and bottom is dropped. A mean is
   (sum + floor(n / 2)) // n with n = k_x k_y. Bilinear alone would skip pixels there, and small faces with them.
3. Bilinear resize with pixel centres at +1/2 and weights in 256ths (half to even), both axes summed exactly before one
   rounding: (sum + 2^15) >> 16. OpenCV calls it INTER_LINEAR_EXACT.
4. The result lies top-left among 128s. With one ``size_px`` the whole is new_w x new_h, with a fixed frame it is
   F_w x F_h; both sides are then raised to multiples of ``multiple``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import InputError, OptionError

PADDING = 128
_MAX_BOX = 8192     # pixels a box: up to here cv2's float32 means are exact where it matters
_BLOCK = 1 << 17    # float32 values that one strip of the box average may hold, to stay in the cache


@dataclass(frozen=True)
class Letterboxed:
    """``pixels`` uint8 (h, w, 3), and pixels in it a pixel of the original: original = letterboxed / scale."""

    pixels: NDArray[np.uint8]
    scale_x: float
    scale_y: float


@dataclass(frozen=True)
class _Plan:
    """Steps 1, 2 and 4 as numbers: box sides, pixels they cover, size after bilinear, size of the padded frame."""

    box_w: int
    box_h: int
    covered_w: int
    covered_h: int
    new_w: int
    new_h: int
    frame_w: int
    frame_h: int


def letterbox(image: NDArray[np.uint8], size: int | tuple[int, int], multiple: int) -> Letterboxed:
    """Fit a uint8 (H, W, 3) picture into a frame, top-left, by the specification at the top of this file.

    ``size`` is the longest side in pixels (the picture is enlarged or reduced to it) or a fixed (width, height);
    ``multiple`` divides both sides of the result. The result's pixels are a new array. Raises InputError when the
    picture is not uint8 (H, W, 3) and OptionError when a size is below 1.
    """
    plan = _plan(image, size, multiple)
    pixels = np.full((plan.frame_h, plan.frame_w, 3), PADDING, np.uint8)
    inner = pixels[: plan.new_h, : plan.new_w]
    source = _box_average(image, plan)
    if source.shape == inner.shape:
        inner[...] = source
    else:
        resized = cv2.resize(source, (plan.new_w, plan.new_h), dst=inner, interpolation=cv2.INTER_LINEAR_EXACT)
        if not np.shares_memory(resized, inner):
            inner[...] = resized
    return Letterboxed(pixels, plan.new_w / plan.covered_w, plan.new_h / plan.covered_h)


def letterbox_reference(image: NDArray[np.uint8], size: int | tuple[int, int], multiple: int) -> Letterboxed:
    """``letterbox`` in plain integer NumPy, slow: what every fast path is held against. Same arguments and errors."""
    plan = _plan(image, size, multiple)
    pixels = np.full((plan.frame_h, plan.frame_w, 3), PADDING, np.uint8)
    source = _box_average_reference(image, plan)
    pixels[: plan.new_h, : plan.new_w] = _bilinear_reference(source, plan.new_w, plan.new_h)
    return Letterboxed(pixels, plan.new_w / plan.covered_w, plan.new_h / plan.covered_h)


def normalise(pixels: NDArray[np.uint8], mean: float, scale: float) -> NDArray[np.float32]:
    """(pixels - mean) * scale: uint8 (h, w, 3) -> contiguous float32 (3, h, w), each step rounded to float32."""
    height, width, channels = pixels.shape
    out = np.empty((channels, height, width), np.float32)
    np.copyto(out, pixels.transpose(2, 0, 1))
    out -= np.float32(mean)
    out *= np.float32(scale)
    return out


def _plan(image: NDArray[np.uint8], size: int | tuple[int, int], multiple: int) -> _Plan:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"a picture must be uint8 (H, W, 3) in BGR, not {image.dtype} {image.shape}: convert it first")
    height, width = image.shape[:2]
    limit_w, limit_h = size if isinstance(size, tuple) else (size, size)
    if min(limit_w, limit_h, multiple) < 1:
        raise OptionError(f"input size {size} (multiple {multiple}) cannot work: give pixels from 1 up")
    # The scale is the fraction num / den: rounding and the box side must not depend on a float's last bit.
    num, den = (limit_w, width) if limit_w * height <= limit_h * width else (limit_h, height)
    new_w = max(1, (2 * width * num + den) // (2 * den))
    new_h = max(1, (2 * height * num + den) // (2 * den))
    box = max(1, den // num)
    box_w, box_h = min(box, width), min(box, height)
    frame_w, frame_h = (limit_w, limit_h) if isinstance(size, tuple) else (new_w, new_h)
    return _Plan(
        box_w, box_h, width // box_w * box_w, height // box_h * box_h, new_w, new_h,
        -(-frame_w // multiple) * multiple, -(-frame_h // multiple) * multiple,
    )


def _box_average(image: NDArray[np.uint8], plan: _Plan) -> NDArray[np.uint8]:
    n = plan.box_w * plan.box_h
    if n == 1:
        return image
    if n > _MAX_BOX:
        return _box_average_reference(image, plan)
    covered = image[: plan.covered_h, : plan.covered_w]
    width, height = plan.covered_w // plan.box_w, plan.covered_h // plan.box_h
    if n % 2 or plan.box_w == plan.box_h == 2:
        # No mean of an odd number of integers ends in 1/2, and cv2 has an integer path of its own for 2 x 2.
        return np.asarray(cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    # cv2 rounds a mean that ends in 1/2 to the even neighbour: take the exact sums from it and round them here.
    out = np.empty((height, width, 3), np.uint8)
    step = max(1, _BLOCK // (covered.shape[1] * 3 * plan.box_h))
    for top in range(0, height, step):
        bottom = min(height, top + step)
        strip = covered[top * plan.box_h : bottom * plan.box_h].astype(np.float32)
        means = cv2.resize(strip, (width, bottom - top), interpolation=cv2.INTER_AREA)
        sums = np.rint(means * np.float32(n)).astype(np.int32)
        out[top:bottom] = (sums + n // 2) // n
    return out


def _box_average_reference(image: NDArray[np.uint8], plan: _Plan) -> NDArray[np.uint8]:
    n = plan.box_w * plan.box_h
    width, height = plan.covered_w // plan.box_w, plan.covered_h // plan.box_h
    boxes = image[: plan.covered_h, : plan.covered_w].reshape(height, plan.box_h, width, plan.box_w, 3)
    sums = boxes.sum(axis=(1, 3), dtype=np.int64)
    means: NDArray[np.uint8] = ((sums + n // 2) // n).astype(np.uint8)
    return means


def _bilinear_reference(image: NDArray[np.uint8], new_w: int, new_h: int) -> NDArray[np.uint8]:
    left, right, weight_x = _taps(image.shape[1], new_w)
    top, bottom, weight_y = _taps(image.shape[0], new_h)
    wx, wy = weight_x[None, :, None], weight_y[:, None, None]
    values = image.astype(np.int64)
    rows: NDArray[np.int64] = values[:, left] * (256 - wx) + values[:, right] * wx
    sums: NDArray[np.int64] = rows[top] * (256 - wy) + rows[bottom] * wy
    return np.right_shift(sums + (1 << 15), 16).astype(np.uint8)


def _taps(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
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
