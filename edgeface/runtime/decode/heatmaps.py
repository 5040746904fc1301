"""Points from heatmaps: rearranged, resized, and their sub-pixel peak (maskface.txt, section 3.2).

``heatmap_points`` uses the C kernel where it is there; ``heatmap_points_reference`` is the specification in NumPy, and
gives the same bits:

1. Channels (K * u^2) become K maps that are u times as wide and high: ``Heatmaps.shuffle`` is u.
2. A finer cell i of ``upsample`` f lies at (i + 0.5) / f - 0.5 of these, at least 0, between two neighbours; rows
   first, then columns, each the left value times its weight plus the right one times its own.
3. The first of the highest cells is the peak. Cells up to ``reach`` rows and columns from it have the weight
   exp(value - peak), and their mean is the point, in row-major order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Heatmaps
from edgeface.runtime.engines import RawMap
from edgeface.runtime.exponential import exp
from edgeface.runtime.kernels import decoding, library

Floats = NDArray[np.float32]

_NO_NUMBER = "a heatmap's logit is not finite"


def points_in_boxes(maps: list[RawMap], boxes: Floats, output: Heatmaps) -> Floats:
    """Points (N, K, 2) in pixels of the picture from a map (K * shuffle^2, h, w) of each of N regions ``boxes`` (N, 4).

    Raises FloatingPointError for a map with values that are not finite.
    """
    places = np.empty((len(maps), output.points, 2), np.float32)
    for place, raw in zip(places, maps, strict=True):
        place[:] = heatmap_points(raw, output)
    found: Floats = boxes[:, None, :2] + places * (boxes[:, None, 2:] - boxes[:, None, :2])
    return found


def heatmap_points(raw: RawMap, output: Heatmaps) -> Floats:
    """Points (K, 2) x y from 0 to 1 of the region that ``raw`` (K * shuffle^2, h, w) is of; raises as
    ``points_in_boxes``."""
    kernels = library()
    if kernels is None:
        return heatmap_points_reference(raw, output)
    found = decoding.heatmap_points(kernels, raw, output.points, output.shuffle, output.upsample, output.reach)
    if found is None:
        raise FloatingPointError(_NO_NUMBER)
    return found


def heatmap_points_reference(raw: RawMap, output: Heatmaps) -> Floats:
    """``heatmap_points`` in NumPy."""
    values, u = raw.real(), output.shuffle
    if not np.isfinite(values).all():
        raise FloatingPointError(_NO_NUMBER)
    _, height, width = values.shape
    maps = values.reshape(output.points, u, u, height, width).transpose(0, 3, 1, 4, 2)
    fine = maps.reshape(output.points, height * u, width * u)
    for axis in (1, 2):
        low, high, low_weight, high_weight = _between(fine.shape[axis], output.upsample)
        shape = (-1, 1) if axis == 1 else (-1,)
        before, after = np.take(fine, low, axis), np.take(fine, high, axis)
        fine = before * low_weight.reshape(shape) + after * high_weight.reshape(shape)
    return _peaks(fine, output.reach)


def _between(length: int, factor: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """Of each of ``length * factor`` finer cells the cells before and after it, and their weights."""
    at = (np.arange(length * factor, dtype=np.float32) + np.float32(0.5)) / np.float32(factor) - np.float32(0.5)
    at = np.maximum(at, np.float32(0))
    low = at.astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    high_weight = at - low.astype(np.float32)
    return low, high, np.float32(1) - high_weight, high_weight


def _peaks(maps: Floats, reach: int) -> Floats:
    """The sub-pixel peaks (K, 2) of maps (K, h, w), from 0 to 1."""
    count, height, width = maps.shape
    rows, columns = np.unravel_index(maps.reshape(count, -1).argmax(axis=1), (height, width))
    peak = maps[np.arange(count), rows, columns]
    step = np.arange(-reach, reach + 1)
    y, x = rows[:, None, None] + step[:, None], columns[:, None, None] + step
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    near = maps[np.arange(count)[:, None, None], y.clip(0, height - 1), x.clip(0, width - 1)]
    weights = np.where(inside, exp(near - peak[:, None, None]), np.float32(0)).reshape(count, -1)
    steps = step.astype(np.float32)
    across, down = (np.broadcast_to(each, (len(step), len(step))).reshape(-1) for each in (steps, steps[:, None]))
    total = _in_order(weights)
    moved = [_in_order(weights * each) / total for each in (across, down)]
    places = [
        (index.astype(np.float32) + by + np.float32(0.5)) / np.float32(length)
        for index, by, length in zip((columns, rows), moved, (width, height), strict=True)
    ]
    return np.stack(places, axis=1)


def _in_order(values: Floats) -> Floats:
    """Sums over the last axis from its first element on, which NumPy's sum leaves open."""
    total: Floats = np.add.accumulate(values, axis=-1)[..., -1]
    return total
