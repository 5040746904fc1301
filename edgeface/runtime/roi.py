"""What a net per face sees of a dense stage's features: patches at points, and regions by RoIAlign.

The functions use the C kernels where they are there; those called ``..._reference`` are the specification in NumPy, and
give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.engines.registry import RawMap
from edgeface.runtime.kernels import library
from edgeface.runtime.kernels.arrays import address, contiguous, done
from edgeface.runtime.kernels.maps import packed_maps

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_MOST_SAMPLES = 1 << 20     # along one axis of a region, and positions along one axis of a map
_SAMPLE_BYTES = 16          # sizeof(ef_sample) of ef_regions.c


def gather_patches(features: RawMap, row: Indices, column: Indices, patch: int) -> Floats:
    """``patch`` x ``patch`` neighbourhoods of P positions, zero outside the map: (C, H, W) -> (C, patch, patch * P).

    ``row`` and ``column`` are int64 (P,). Raises IndexError when one is outside the map, and ValueError for other
    shapes or a patch below 1.
    """
    if patch < 1:
        raise ValueError(f"a patch of {patch} positions cannot work")
    if row.ndim != 1 or row.shape != column.shape or not row.dtype == column.dtype == np.int64:
        raise ValueError(f"rows {row.dtype} {row.shape} and columns {column.dtype} {column.shape} are no int64 (P,)")
    kernels = library()
    if kernels is None:
        return gather_patches_reference(features, row, column, patch)
    packed, _held = packed_maps([features])
    row, column = contiguous(row), contiguous(column)
    patches = np.empty((features.values.shape[0], patch, patch * len(row)), np.float32)
    result = kernels.ef_gather_patches(packed, len(row), address(row), address(column), patch, address(patches))
    if result < 0:
        raise _outside(features)
    return patches


def gather_patches_reference(features: RawMap, row: Indices, column: Indices, patch: int) -> Floats:
    """``gather_patches`` in NumPy."""
    channels, height, width = features.values.shape
    if ((row < 0) | (row >= height) | (column < 0) | (column >= width)).any():
        raise _outside(features)
    steps = np.arange(patch) - patch // 2
    rows, columns = row[:, None] + steps, column[:, None] + steps
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    patches = features.converted(features.values[:, rows[:, :, None], columns[:, None, :]])  # (C, P, patch, patch)
    patches[:, ~inside] = 0
    return np.ascontiguousarray(patches.transpose(0, 2, 1, 3)).reshape(channels, patch, -1)


def roi_align(features: RawMap, boxes: Floats, out: int | tuple[int, int], scale: float, sampling: int) -> Floats:
    """Features of N boxes by RoIAlign, each bin the mean of ``sampling`` x ``sampling`` bilinear samples: (N, C, h, w).

    ``features`` (C, H, W); ``boxes`` float32 (N, 4), x1 y1 x2 y2; ``out`` the (h, w) of a region, or a square's side;
    ``scale`` turns a box's unit into cells of the map, 1 / stride. A cell's value is at its centre, samples up to one
    cell outside take the border's value and those beyond count as 0: torchvision's ``roi_align`` with ``aligned=True``.
    Raises ValueError for other shapes, and for sizes below 1 or above 2^20 samples along an axis.
    """
    high, wide = out if isinstance(out, tuple) else (out, out)
    if boxes.dtype != np.float32 or boxes.ndim != 2 or boxes.shape[1] != 4 or 0 in features.values.shape:
        raise ValueError(f"boxes {boxes.dtype} {boxes.shape} on a map {features.values.shape} give no regions")
    if min(high, wide, sampling) < 1 or max(high, wide) * sampling > _MOST_SAMPLES:
        raise ValueError(f"{high} x {wide} bins of {sampling} samples cannot work")
    if max(features.values.shape[1:]) > _MOST_SAMPLES:
        raise ValueError(f"a map {features.values.shape} is too large")
    kernels = library()
    if kernels is None:
        return roi_align_reference(features, boxes, (high, wide), scale, sampling)
    packed, _held = packed_maps([features])
    boxes = contiguous(boxes)
    samples = np.empty((high + wide) * sampling * _SAMPLE_BYTES, np.uint8)
    regions = np.empty((len(boxes), features.values.shape[0], high, wide), np.float32)
    done(
        kernels.ef_roi_align(
            packed, len(boxes), address(boxes), scale, high, wide, sampling, address(samples), address(regions)
        ),
        "ef_roi_align",
    )
    return regions


def roi_align_reference(features: RawMap, boxes: Floats, out: tuple[int, int], scale: float, sampling: int) -> Floats:
    """``roi_align`` in NumPy, of arguments that fit."""
    values = features.real()
    channels, height, width = values.shape
    regions = np.zeros((len(boxes), channels, *out), np.float32)
    edges = boxes * np.float32(scale) - np.float32(0.5)
    for region, (left, top, right, bottom) in zip(regions, edges, strict=True):
        down = _samples(top, bottom, out[0], sampling, height)
        across = _samples(left, right, out[1], sampling, width)
        for iy in range(sampling):
            y_low, y_high, y_low_weight, y_high_weight, y_inside = (a[:, iy, None] for a in down)
            for ix in range(sampling):
                x_low, x_high, x_low_weight, x_high_weight, x_inside = (a[None, :, ix] for a in across)
                sample = (
                    (y_low_weight * x_low_weight) * values[:, y_low, x_low]
                    + (y_low_weight * x_high_weight) * values[:, y_low, x_high]
                    + (y_high_weight * x_low_weight) * values[:, y_high, x_low]
                    + (y_high_weight * x_high_weight) * values[:, y_high, x_high]
                )
                region += np.where(y_inside & x_inside, sample, np.float32(0))
    regions /= np.float32(sampling) * np.float32(sampling)
    return regions


def _samples(start: np.float32, end: np.float32, bins: int, sampling: int, length: int) -> tuple[NDArray[Any], ...]:
    """Along one axis of a region, (bins, sampling) each: the cells before and after each sample, their weights, and
    whether it counts."""
    one, half = np.float32(1), np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore"):      # a box that is not finite has no sample that counts
        step = (end - start) / np.float32(bins)
        first = start + np.arange(bins, dtype=np.float32) * step
        within = (np.arange(sampling, dtype=np.float32) + half) * step / np.float32(sampling)
        at = first[:, None] + within[None, :]
        inside = (at >= -one) & (at <= np.float32(length))
    at = np.where(inside & (at > 0), at, np.float32(0))
    low = np.minimum(at.astype(np.int64), length - 1)
    high = np.minimum(low + 1, length - 1)
    high_weight = np.where(high == low, np.float32(0), at - low.astype(np.float32))
    return low, high, one - high_weight, high_weight, inside


def _outside(features: RawMap) -> IndexError:
    _, height, width = features.values.shape
    return IndexError(f"a position lies outside a map of {height} x {width}")
