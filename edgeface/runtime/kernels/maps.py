"""Raw maps, pyramids and anchors as C structures: ef_maps.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.runtime.engines.registry import RawMap
from edgeface.runtime.kernels.arrays import address

if TYPE_CHECKING:
    from edgeface.runtime.decode import Anchors, Pyramid


class Map(ctypes.Structure):
    """ef_map."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("step_c", ctypes.c_int64), ("step_y", ctypes.c_int64), ("step_x", ctypes.c_int64),
        ("channels", ctypes.c_int32), ("height", ctypes.c_int32), ("width", ctypes.c_int32),
        ("is_int8", ctypes.c_int32), ("scale", ctypes.c_float),
    )  # fmt: skip


class PyramidC(ctypes.Structure):
    """ef_pyramid."""

    _fields_ = (
        ("levels", ctypes.c_int32), ("most_anchors", ctypes.c_int32),
        ("strides", ctypes.c_void_p), ("sides", ctypes.c_void_p),
        ("variance_centre", ctypes.c_float), ("variance_side", ctypes.c_float),
    )  # fmt: skip


class AnchorsC(ctypes.Structure):
    """ef_anchors."""

    _fields_ = (
        ("n", ctypes.c_int32),
        ("level", ctypes.c_void_p), ("anchor", ctypes.c_void_p), ("row", ctypes.c_void_p),
        ("column", ctypes.c_void_p), ("logits", ctypes.c_void_p),
    )  # fmt: skip


def maps_to_c(maps: Sequence[RawMap | None]) -> tuple[Any, list[Any]]:
    """An array of ef_map, without values where there is no map, and the arrays that must live as long."""
    described, held = (Map * len(maps))(), []
    for i, raw in enumerate(maps):
        if raw is None:
            continue
        values = raw.values
        size = values.itemsize
        step_c, step_y, step_x = values.strides
        # Steps become whole elements, and none leads backwards.
        if not values.flags.aligned or step_c % size or step_y % size or step_x % size or min(values.strides) < 0:
            values = np.ascontiguousarray(values)
            step_c, step_y, step_x = values.strides
        held.append(values)
        scale = raw.scale
        described[i] = (
            address(values), step_c // size, step_y // size, step_x // size, *values.shape,
            scale is not None, 0.0 if scale is None else scale,
        )  # fmt: skip
    return described, held


def pyramid_to_c(pyramid: Pyramid) -> PyramidC:
    """ef_pyramid of a pyramid that must live as long."""
    levels, most = pyramid.sides.shape
    return PyramidC(levels, most, address(pyramid.strides), address(pyramid.sides), *map(float, pyramid.variances))


def anchors_to_c(kept: Anchors) -> tuple[AnchorsC, list[Any]]:
    """ef_anchors, and the arrays that must live as long; raises ValueError where the arrays differ in length."""
    held = [np.ascontiguousarray(a, np.int64) for a in (kept.level, kept.anchor, kept.row, kept.column)]
    held.append(np.ascontiguousarray(kept.logits, np.float32))
    if any(array.shape != (len(kept),) for array in held):
        raise ValueError(f"anchors of different numbers: {', '.join(str(array.shape) for array in held)}")
    return AnchorsC(len(kept), *map(address, held)), held
