"""Square crops of a picture at one size, for nets that look at one face each: a specification in integers, a NumPy
reference, and fast paths that equal it bit for bit.

A square (x, y, side) is in whole pixels of the picture, x and y of its upper left corner, and may reach outside.

1. Its region of the picture is B, G, R, 128 where there is no picture. RGB's channels change places and grey becomes
   three equal ones; of NV12 and YUYV each pixel is converted by the formulas of ``preprocess.py`` with the U and V
   whose sample covers it, which are those of column x // 2 and, in NV12, row y // 2.
2. The crop is what ``letterbox(region, (size_px, size_px), 1)`` makes of that: means of boxes of k x k pixels from its
   corner, k = max(1, side // size_px), and then exact bilinear weights.

P crops lie one below the other in what a net takes, a strip (``bundle.Crops``). The fast path is the C kernel
``ef_crops``, from a picture's rows into the strip; where it was not built NumPy and OpenCV do the same in several
passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import InputError, OptionError
from edgeface.frames import Frame, Picture, as_frame
from edgeface.runtime.kernels import library, pictures
from edgeface.runtime.kernels.pictures import Normal, Output
from edgeface.runtime.preprocess import PADDING, as_output, normalise, signed
from edgeface.runtime.resampling import Bytes, Target, bilinear_reference, resample, yuv_to_bgr

MAX_SIZE_PX = 4096
MAX_SIDE_PX = 1 << 24       # of a square; its corner may lie as far from the picture's twice
_MAX_CORNER = 2 * MAX_SIDE_PX
_MAX_CUT = 2048     # pixels a side: larger regions are not laid out in memory, most of one might lie outside

Squares = NDArray[np.int64]
_Crop = Callable[[Frame, int, int, int, int], Bytes]


def square_crops(boxes: NDArray[np.float32], margin: float) -> Squares:
    """The squares int64 (P, 3), x y side, about boxes (P, 4), x1 y1 x2 y2 in pixels: the box's centre, and ``margin``
    times its longer side.

    side = max(1, rint(margin * longer side)), corner = rint(centre - side / 2), in float64. A box of no sensible size
    or place is brought to what ``crops`` takes. Raises FloatingPointError when a box is not finite.
    """
    x1, y1, x2, y2 = boxes.T.astype(np.float64)
    if not np.isfinite(boxes).all():
        raise FloatingPointError("a box is not finite")
    side = np.rint(margin * np.maximum(x2 - x1, y2 - y1)).clip(1, MAX_SIDE_PX)
    centre = np.stack((x1 + x2, y1 + y2)).clip(-_MAX_CORNER, _MAX_CORNER) / 2
    return np.stack((*np.rint(centre - side / 2), side), axis=1).astype(np.int64)


def offset_boxes(squares: Squares, offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes float32 (P, 4), x1 y1 x2 y2 in pixels, whose edges are ``offsets`` (P, 4) from their ``squares``' own, in
    sides of these: what a net on crops says of a face's box (``bundle.Crops``). What is not finite stays so."""
    corners, sides = squares[:, :2].astype(np.float32), squares[:, 2:].astype(np.float32)
    return moved_edges(np.concatenate((corners, corners + sides), axis=1), offsets)


def moved_edges(boxes: NDArray[np.float32], offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (P, 4), x1 y1 x2 y2, with their edges moved by ``offsets`` (P, 4), in sides of the boxes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    with np.errstate(over="ignore", invalid="ignore"):
        moved: NDArray[np.float32] = boxes + offsets * np.concatenate((sides, sides), axis=1)
    return np.ascontiguousarray(moved, np.float32)


def crops(picture: Picture, squares: Squares, size_px: int) -> Bytes:
    """Crops uint8 (P, size_px, size_px, 3) BGR of a picture, uint8 (H, W, 3) BGR or a Frame, by ``squares`` (P, 3).

    P may be 0. Raises InputError for another picture and for squares that are not int64 (P, 3) with sides of 1 to 2^24
    pixels no farther than 2^25 from the picture's corner, and OptionError for a ``size_px`` that is not 1 to 4096.
    """
    strip = _strip(_checked(picture, squares, size_px), squares, size_px, "pixels", None, Normal())
    return strip.reshape(-1, size_px, size_px, 3)


def crop_planes(
    picture: Picture,
    squares: Squares,
    size_px: int,
    *,
    mean: float,
    scale: float,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """``crops`` as a strip of normalised planes: contiguous float32 (3, size_px * P, size_px), planes B, G, R.

    ``out`` is an array that may be overwritten; it is used when it is contiguous float32 of the right shape. Errors as
    ``crops``.
    """
    return _strip(_checked(picture, squares, size_px), squares, size_px, "planes", out, Normal(mean, scale))


def crop_signed(
    picture: Picture, squares: Squares, size_px: int, *, out: NDArray[np.int8] | None = None
) -> NDArray[np.int8]:
    """``crops`` as a strip of contiguous int8 (size_px * P, size_px, 3), value - 128 in B, G, R. The rest as
    ``crop_planes``."""
    return _strip(_checked(picture, squares, size_px), squares, size_px, "signed", out, Normal())


def crops_reference(picture: Picture, squares: Squares, size_px: int) -> Bytes:
    """``crops`` in plain integer NumPy, slow: what every fast path is held against. Same arguments and errors."""
    strip = _cut(_checked(picture, squares, size_px), squares, size_px, _crop_reference)
    return strip.reshape(-1, size_px, size_px, 3)


def crop_planes_reference(
    picture: Picture, squares: Squares, size_px: int, *, mean: float, scale: float
) -> NDArray[np.float32]:
    """``crop_planes`` by the reference."""
    strip = _cut(_checked(picture, squares, size_px), squares, size_px, _crop_reference)
    return normalise(strip, mean, scale)


def crop_signed_reference(picture: Picture, squares: Squares, size_px: int) -> NDArray[np.int8]:
    """``crop_signed`` by the reference."""
    return signed(_cut(_checked(picture, squares, size_px), squares, size_px, _crop_reference))


def _checked(picture: Picture, squares: Squares, size_px: int) -> Frame:
    frame = as_frame(picture)
    if not 1 <= size_px <= MAX_SIZE_PX:
        raise OptionError(f"crops of {size_px} pixels cannot work: choose 1 to {MAX_SIZE_PX}")
    if squares.ndim != 2 or squares.shape[1] != 3 or squares.dtype != np.int64:
        raise InputError(f"squares must be int64 (P, 3), not {squares.dtype} {squares.shape}")
    if len(squares):
        x, y, side = squares.T
        near = max(x.max(), y.max()) <= _MAX_CORNER and min(x.min(), y.min()) >= -_MAX_CORNER
        if not near or side.min() < 1 or side.max() > MAX_SIDE_PX:
            raise InputError(f"squares need sides of 1 to {MAX_SIDE_PX} pixels within {_MAX_CORNER} of the picture")
    return frame


def _strip(
    frame: Frame, squares: Squares, size_px: int, output: Output, out: NDArray[Any] | None, normal: Normal
) -> NDArray[Any]:
    """A strip of crops as ``output`` has it, in ``out`` where that fits: by the kernel, or by NumPy and OpenCV where
    there is none."""
    kernels = library()
    if kernels is None:
        return as_output(_cut(frame, squares, size_px, _crop), output, normal)
    out = pictures.room(output, size_px * len(squares), size_px, out)
    pictures.crops(kernels, frame, squares, size_px, output, out, normal)
    return out


def _cut(frame: Frame, squares: Squares, size_px: int, crop: _Crop) -> Bytes:
    """A strip uint8 (size_px * P, size_px, 3) of crops by ``crop``."""
    strip = np.empty((size_px * len(squares), size_px, 3), np.uint8)
    for i, (x, y, side) in enumerate(squares.tolist()):
        strip[size_px * i : size_px * (i + 1)] = crop(frame, x, y, side, size_px)
    return strip


def _crop(frame: Frame, x: int, y: int, side: int, size_px: int) -> Bytes:
    """One crop by OpenCV."""
    box = max(1, side // size_px)
    boxes = side // box
    if side > _MAX_CUT:
        means = _means_reference(frame, x, y, box, boxes)
    else:
        means = resample(_region(frame, x, y, boxes * box), Target(box, box, boxes, boxes))
    return resample(means, Target(1, 1, size_px, size_px))


def _crop_reference(frame: Frame, x: int, y: int, side: int, size_px: int) -> Bytes:
    box = max(1, side // size_px)
    return bilinear_reference(_means_reference(frame, x, y, box, side // box), size_px, size_px)


def _means_reference(frame: Frame, x: int, y: int, box: int, boxes: int) -> Bytes:
    """Means of ``boxes`` x ``boxes`` boxes of ``box`` x ``box`` pixels: by sums over all that is left and above, in
    which a pixel outside the picture counts 0 when 128 is taken from all."""
    steps = box * np.arange(boxes + 1, dtype=np.int64)
    columns, rows = (x + steps).clip(0, frame.width), (y + steps).clip(0, frame.height)
    inside = _pixels(frame, columns[0], columns[-1], rows[0], rows[-1]).astype(np.int64) - PADDING
    sums = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1, 3), np.int64)
    sums[1:, 1:] = inside.cumsum(axis=0).cumsum(axis=1)
    at = sums[rows - rows[0]][:, columns - columns[0]]
    n = box * box
    totals = np.diff(np.diff(at, axis=0), axis=1) + PADDING * n
    means: Bytes = ((totals + n // 2) // n).astype(np.uint8)
    return means


def _region(frame: Frame, x: int, y: int, side: int) -> Bytes:
    """Step 1 of the specification: uint8 (side, side, 3)."""
    left, right = np.clip((x, x + side), 0, frame.width)
    top, bottom = np.clip((y, y + side), 0, frame.height)
    inside = _pixels(frame, left, right, top, bottom)
    if inside.shape == (side, side, 3):
        return inside
    region = np.full((side, side, 3), PADDING, np.uint8)
    if inside.size:
        region[top - y : bottom - y, left - x : right - x] = inside
    return region


def _pixels(frame: Frame, left: Any, right: Any, top: Any, bottom: Any) -> Bytes:
    """Those columns and rows of the picture, as BGR."""
    pixels = frame.pixels
    if frame.format in ("bgr", "rgb"):
        part = pixels[top:bottom, left:right]
        return part if frame.format == "bgr" else part[:, :, ::-1]
    if frame.format == "grey":
        return np.repeat(pixels[top:bottom, left:right, None], 3, axis=2)
    rows, halves = np.arange(top, bottom)[:, None], np.arange(left, right)[None, :] // 2
    if frame.format == "nv12":
        chroma = pixels[frame.height :]
        return yuv_to_bgr(
            pixels[top:bottom, left:right], chroma[rows // 2, 2 * halves], chroma[rows // 2, 2 * halves + 1]
        )
    return yuv_to_bgr(
        pixels[top:bottom, left:right, 0], pixels[rows, 2 * halves, 1], pixels[rows, 2 * halves + 1, 1]
    )
