"""Raw maps and pyramids as the C structures of ef_maps.h."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.engines.registry import RawMap
from edgeface.runtime.kernels.arrays import address

_MAP, _PYRAMID = Struct("@P3q4if4x"), Struct("@2i2P2f")
_NO_MAP = bytes(_MAP.size)


def packed_maps(maps: Sequence[RawMap | None]) -> tuple[bytes, list[Any]]:
    """An array of ef_map, without values where there is no map, and the arrays that must live as long."""
    packed, held = [], []
    for raw in maps:
        if raw is None:
            packed.append(_NO_MAP)
            continue
        values, scale = raw.values, raw.scale
        size = values.itemsize
        step_c, step_y, step_x = values.strides
        # Steps become whole elements, and none leads backwards.
        if not values.flags.aligned or (step_c | step_y | step_x) % size or min(step_c, step_y, step_x) < 0:
            values = values.copy()
            step_c, step_y, step_x = values.strides
        held.append(values)
        packed.append(
            _MAP.pack(
                address(values if step_x <= step_c else values.transpose(1, 2, 0)),
                step_c // size, step_y // size, step_x // size, *values.shape,
                scale is not None, 0.0 if scale is None else scale,
            )
        )  # fmt: skip
    return b"".join(packed), held


def packed_pyramid(strides: NDArray[np.float32], sides: NDArray[np.float32], variances: Sequence[float]) -> bytes:
    """ef_pyramid of ``strides`` (L,) and ``sides`` (L, A), which must live as long."""
    levels, most = sides.shape
    return _PYRAMID.pack(levels, most, address(strides), address(sides), *variances)
