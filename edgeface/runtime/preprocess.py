"""Letterbox and normalisation: one specification, a NumPy reference, and fast paths that equal it bit for bit.

The specification, all in integers, for a W x H picture and a frame F_w x F_h (a ``size_px`` alone is a square frame):

1. s = min(F_w / W, F_h / H, 2): a picture is enlarged at most twofold, for nets find faces in what is blurred more that
   are not there. The picture becomes new_w x new_h = max(1, floor(W s + 1/2)) x max(1, floor(H s + 1/2)).
2. Where s <= 1/2, the picture is first averaged over k_x x k_y boxes from its top-left corner, k = floor(1 / s), never
   more than the picture's side; what is left of a box at the right and bottom is dropped. A mean is
   (sum + floor(n / 2)) // n with n = k_x k_y. Bilinear alone would skip pixels there, and small faces with them.
3. Bilinear resize with pixel centres at +1/2 and weights in 256ths (half to even), both axes summed exactly before one
   rounding: (sum + 2^15) >> 16. OpenCV calls it INTER_LINEAR_EXACT.
4. The result lies top-left among 128s. With one ``size_px`` the whole is new_w x new_h, with a fixed frame it is
   F_w x F_h; both sides are then raised to multiples of ``multiple``.
5. A net sees (value - mean) * scale, each step rounded to float32, or value - 128 as int8, in B, G, R.

RGB and grey go the same way: channels change places, or become three equal ones, in the end. Of NV12 and YUYV there is
no picture in full size to convert. Luma takes steps 1 to 3 as it is. Chroma, of half the width and, in NV12, half the
height, takes steps 2 and 3 to the same new_w x new_h as a picture of its own with its samples in the middle of the
pixels that they are for: k = floor(1 / (2 s)), at least 1, on an axis of half the size. Then, with Y, U, V at one size
and l = 1220542 max(Y - 16, 0) + 2^19 (ITU-R BT.601, limited range, in 2^-20):

    B = clip((l + 2116026 (U - 128)) >> 20)
    G = clip((l - 409993 (U - 128) - 852492 (V - 128)) >> 20)       clip: to 0..255, >> to the lower integer
    R = clip((l + 1673527 (V - 128)) >> 20)

The fast path is the C kernel ``ef_letterbox``: a picture's rows go once through a few rows of scratch to what the net
takes. Where it was not built NumPy and OpenCV do the same in several passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import InputError, OptionError
from edgeface.frames import Frame, Picture, as_frame
from edgeface.runtime.kernels import library, pictures
from edgeface.runtime.kernels.pictures import Normal, Output
from edgeface.runtime.resampling import Resample, Target, bgr_of, resample, resample_reference

PADDING = 128
_SIGN_BIT = 0x80
MAX_ENLARGEMENT = 2
_MAX_SIDE = 1 << 24                     # EF_SIDE_MAX


@dataclass(frozen=True)
class Letterboxed:
    """``pixels`` uint8 (h, w, 3) BGR, and pixels in it a pixel of the original: original = letterboxed / scale."""

    pixels: NDArray[np.uint8]
    scale_x: float
    scale_y: float


@dataclass(frozen=True)
class NetInput:
    """``x`` is what a net takes of a letterboxed picture: float32 (3, h, w) or int8 (h, w, 3); original = x's / scale.
    """

    x: NDArray[Any]
    scale_x: float
    scale_y: float


@dataclass(frozen=True)
class _Plan:
    """Steps 1, 2 and 4 as numbers: the planes' boxes and size, the padded frame, pixels of it a pixel of the picture.
    """

    luma: Target
    chroma: Target
    frame_w: int
    frame_h: int
    scale_x: float
    scale_y: float


def letterbox(picture: Picture, size: int | tuple[int, int], multiple: int) -> Letterboxed:
    """Fit a picture, a Frame or uint8 (H, W, 3) BGR, into a frame, top-left, by the specification at the top.

    ``size`` is the longest side in pixels (the picture is reduced to it, or enlarged, at most twofold) or a fixed
    (width, height); ``multiple`` divides both sides of the result. The result's pixels are a new array. Raises
    InputError when the picture is not uint8 (H, W, 3) nor a Frame, and OptionError when a size is below 1.
    """
    frame, plan = _planned(picture, size, multiple)
    pixels = _fitted(frame, plan, "pixels", None, Normal())
    return Letterboxed(pixels, plan.scale_x, plan.scale_y)


def letterbox_planes(
    picture: Picture,
    size: int | tuple[int, int],
    multiple: int,
    *,
    mean: float,
    scale: float,
    out: NDArray[np.float32] | None = None,
) -> NetInput:
    """``letterbox`` and ``normalise`` in one pass: contiguous float32 (3, h, w), planes B, G, R.

    ``out`` is an array that may be overwritten; it is used when it is contiguous float32 of the right shape. Errors as
    ``letterbox``.
    """
    frame, plan = _planned(picture, size, multiple)
    return NetInput(_fitted(frame, plan, "planes", out, Normal(mean, scale)), plan.scale_x, plan.scale_y)


def letterbox_signed(
    picture: Picture, size: int | tuple[int, int], multiple: int, *, out: NDArray[np.int8] | None = None
) -> NetInput:
    """``letterbox`` and ``signed`` in one pass: contiguous int8 (h, w, 3), value - 128 in B, G, R. The rest as
    ``letterbox_planes``."""
    frame, plan = _planned(picture, size, multiple)
    return NetInput(_fitted(frame, plan, "signed", out, Normal()), plan.scale_x, plan.scale_y)


def letterbox_reference(picture: Picture, size: int | tuple[int, int], multiple: int) -> Letterboxed:
    """``letterbox`` in plain integer NumPy, slow: what every fast path is held against. Same arguments and errors."""
    frame, plan = _planned(picture, size, multiple)
    return Letterboxed(_framed(frame, plan, resample_reference), plan.scale_x, plan.scale_y)


def normalise(pixels: NDArray[np.uint8], mean: float, scale: float) -> NDArray[np.float32]:
    """(pixels - mean) * scale: uint8 (h, w, 3) -> contiguous float32 (3, h, w), each step rounded to float32."""
    height, width, channels = pixels.shape
    out = np.empty((channels, height, width), np.float32)
    np.copyto(out, pixels.transpose(2, 0, 1))
    out -= np.float32(mean)
    out *= np.float32(scale)
    return out


def signed(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """value - 128 of contiguous uint8, as int8 of the same shape: 0 to 255 becomes -128 to 127."""
    flipped: NDArray[np.int8] = (pixels ^ np.uint8(_SIGN_BIT)).view(np.int8)
    return flipped


def as_output(pixels: NDArray[np.uint8], output: Output, normal: Normal) -> NDArray[Any]:
    """uint8 (h, w, 3) as what a kernel would have written."""
    if output == "pixels":
        return pixels
    return normalise(pixels, normal.mean, normal.scale) if output == "planes" else signed(pixels)


def _planned(picture: Picture, size: int | tuple[int, int], multiple: int) -> tuple[Frame, _Plan]:
    frame = as_frame(picture)
    halved = (2, 2) if frame.format == "nv12" else (2, 1) if frame.format == "yuyv" else (1, 1)
    return frame, _plan(frame.width, frame.height, halved, size, multiple)


@lru_cache(maxsize=64)
def _plan(width: int, height: int, halved: tuple[int, int], size: int | tuple[int, int], multiple: int) -> _Plan:
    limit_w, limit_h = size if isinstance(size, tuple) else (size, size)
    if min(limit_w, limit_h, multiple) < 1:
        raise OptionError(f"input size {size} (multiple {multiple}) cannot work: give pixels from 1 up")
    # The scale is the fraction num / den: rounding and the box side must not depend on a float's last bit.
    num, den = (limit_w, width) if limit_w * height <= limit_h * width else (limit_h, height)
    if num > MAX_ENLARGEMENT * den:
        num, den = MAX_ENLARGEMENT, 1
    new_w = max(1, (2 * width * num + den) // (2 * den))
    new_h = max(1, (2 * height * num + den) // (2 * den))
    if max(width, height, new_w, new_h) > _MAX_SIDE:
        raise InputError(f"a picture of {width} x {height} at size {size} has more than {_MAX_SIDE} pixels a side")
    box_w, box_h = (min(max(1, den // num), side) for side in (width, height))
    chroma_w, chroma_h = (
        min(max(1, den // (num * by)), side // by) for by, side in zip(halved, (width, height), strict=True)
    )
    frame_w, frame_h = (limit_w, limit_h) if isinstance(size, tuple) else (new_w, new_h)
    return _Plan(
        Target(box_w, box_h, new_w, new_h),
        Target(chroma_w, chroma_h, new_w, new_h),
        -(-frame_w // multiple) * multiple,
        -(-frame_h // multiple) * multiple,
        new_w / (width // box_w * box_w),
        new_h / (height // box_h * box_h),
    )


def _fitted(
    frame: Frame, plan: _Plan, output: Output, out: NDArray[Any] | None, normal: Normal
) -> NDArray[Any]:
    """What ``output`` asks for, in ``out`` where that fits: by the kernel, or by NumPy and OpenCV where there is none.
    """
    kernels = library()
    if kernels is None:
        return as_output(_framed(frame, plan, resample), output, normal)
    out = pictures.room(output, plan.frame_h, plan.frame_w, out)
    pictures.letterbox(kernels, frame, plan.luma, plan.chroma, output, out, (plan.frame_w, plan.frame_h), normal)
    return out


def _framed(frame: Frame, plan: _Plan, by: Resample) -> NDArray[np.uint8]:
    """Step 4: the picture, resampled by ``by``, among 128s."""
    pixels = np.full((plan.frame_h, plan.frame_w, 3), PADDING, np.uint8)
    pixels[: plan.luma.new_h, : plan.luma.new_w] = bgr_of(frame, plan.luma, plan.chroma, by)
    return pixels
