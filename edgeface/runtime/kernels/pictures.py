"""Calls into ef_letterbox.c, ef_crops.c and ef_align.c: pictures on their way to a net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.frames import FORMATS, Frame
from edgeface.runtime.kernels.arrays import address, contiguous, done, rows_packed
from edgeface.runtime.resampling import Target

Output = Literal["planes", "signed", "pixels"]
"""What a kernel writes, in B, G, R: float32 planes (3, h, w) of (value - mean) * scale, int8 (h, w, 3) of value - 128,
or uint8 (h, w, 3)."""

_OUTPUTS: tuple[Output, ...] = ("planes", "signed", "pixels")   # as in ef_emit.h
_TYPES: dict[Output, Any] = {"planes": np.float32, "signed": np.int8, "pixels": np.uint8}


@dataclass(frozen=True)
class Normal:
    """How planes are normalised; nothing for the other outputs."""

    mean: float = 0.0
    scale: float = 1.0


def room(output: Output, h: int, w: int, out: NDArray[Any] | None) -> NDArray[Any]:
    """``out`` where it is an array that ``output`` of h x w pixels fits into, otherwise a new one."""
    shape = (3, h, w) if output == "planes" else (h, w, 3)
    dtype = _TYPES[output]
    if out is None or out.shape != shape or out.dtype != dtype or not out.flags.carray:
        return np.empty(shape, dtype)
    return out


def letterbox(
    library: Any, frame: Frame, luma: Target, chroma: Target, output: Output, out: NDArray[Any],
    size: tuple[int, int], normal: Normal, corner: tuple[int, int] = (0, 0),
) -> None:
    """Write the resampled frame, top-left among 128s, to the ``size`` (w, h) pixels of ``out`` from ``corner`` (x, y)
    on; ``chroma`` is for NV12 and YUYV. ``out`` is contiguous, and its other pixels are left alone.
    """
    width = out.shape[2] if output == "planes" else out.shape[1]
    height = out.shape[1] if output == "planes" else out.shape[0]
    (x, y), (w, h) = corner, size
    if min(x, y) < 0 or x + w > width or y + h > height:
        raise ValueError(f"{w} x {h} pixels at {corner} are not inside {width} x {height}")
    first = address(out) + (y * width + x) * out.itemsize * (1 if output == "planes" else 3)
    pixels = rows_packed(frame.pixels)
    sides = luma.box_w, luma.box_h, chroma.box_w, chroma.box_h, luma.new_w, luma.new_h
    size_bytes = library.ef_letterbox_scratch(FORMATS.index(frame.format), frame.width, frame.height, *sides)
    scratch = np.empty(done(size_bytes, "ef_letterbox_scratch"), np.uint8)
    done(
        library.ef_letterbox(
            *_lying(frame, pixels), *sides, _OUTPUTS.index(output), first, width, width * height, w, h,
            normal.mean, normal.scale, address(scratch), scratch.size,
        ),
        "ef_letterbox",
    )  # fmt: skip


def crops(
    library: Any, frame: Frame, squares: NDArray[np.int64], size_px: int, output: Output, out: NDArray[Any],
    normal: Normal,
) -> None:
    """Write the crops of ``squares`` (P, 3) to contiguous ``out``, a strip size_px * P high."""
    pixels = rows_packed(frame.pixels)
    squares = contiguous(squares)
    size_bytes = library.ef_crops_scratch(FORMATS.index(frame.format), frame.width, frame.height, size_px)
    scratch = np.empty(done(size_bytes, "ef_crops_scratch"), np.uint8)
    done(
        library.ef_crops(
            *_lying(frame, pixels), address(squares), len(squares), size_px, _OUTPUTS.index(output), address(out),
            normal.mean, normal.scale, address(scratch), scratch.size,
        ),
        "ef_crops",
    )  # fmt: skip


def align(library: Any, frame: Frame, maps: NDArray[np.int64], size_px: int) -> NDArray[np.uint8]:
    """Upright crops uint8 (N, size_px, size_px, 3) by ``maps`` (N, 2, 6)."""
    pixels = rows_packed(frame.pixels)
    out = np.empty((len(maps), size_px, size_px, 3), np.uint8)
    done(library.ef_align(*_lying(frame, pixels), address(maps), len(maps), size_px, address(out)), "ef_align")
    return out


def _lying(frame: Frame, pixels: NDArray[Any]) -> tuple[int, int, int, int | None, int, int, int]:
    """The arguments that say where ``pixels``, a frame's as packed rows, lie: the format, the first row and the bytes
    from row to row, the same of the chroma of NV12, width and height."""
    step, first = pixels.strides[0], address(pixels)
    # The chroma of NV12 lies in the rows below the luma.
    second = first + step * frame.height if frame.format == "nv12" else None
    return FORMATS.index(frame.format), first, step, second, step, frame.width, frame.height
