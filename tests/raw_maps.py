"""Raw maps in every layout and type that engines give, for hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeface.runtime.engines import RawMap

# Few different ones, so that ties and values at a threshold are common, and the ends of what float32 holds.
TAME = st.sampled_from([-8.0, -1.5, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.75, 8.0])
WILD = TAME | st.floats(width=32, allow_nan=False) | st.sampled_from([np.inf, -np.inf, 3e38, 1e-45])
SCALES = st.sampled_from([2.0**-6, 0.0499901399, 1.0, 3.7])


def channels_last(values: NDArray[Any]) -> NDArray[Any]:
    """The same values, lying (H, W, C)."""
    return np.ascontiguousarray(values.transpose(1, 2, 0)).transpose(2, 0, 1)


def padded(values: NDArray[Any]) -> NDArray[Any]:
    """The same values with gaps between rows and channels, as ncnn may leave them, and a NaN or -1 in each gap."""
    gap = np.full([n + 3 for n in values.shape], np.nan if values.dtype == np.float32 else -1, values.dtype)
    inner = gap[: values.shape[0], : values.shape[1], : values.shape[2]]
    inner[...] = values
    return inner


def backwards(values: NDArray[Any]) -> NDArray[Any]:
    """The same values with strides below 0, which no kernel takes as they are."""
    return np.ascontiguousarray(values[:, ::-1, ::-1])[:, ::-1, ::-1]


def unaligned(values: NDArray[Any]) -> NDArray[Any]:
    """The same values, beginning one byte after where they should."""
    room = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    room[...] = values
    return room


LAYOUTS: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
    np.ascontiguousarray, channels_last, padded, backwards, unaligned,
]  # fmt: skip


@st.composite
def raw_map(
    draw: st.DrawFn, channels: int, elements: st.SearchStrategy[float] = TAME, most: tuple[int, int] = (6, 40)
) -> RawMap:
    """A map (channels, 1 to most, 1 to most) of float32 ``elements`` or of any int8."""
    shape = (channels, draw(st.integers(1, most[0])), draw(st.integers(1, most[1])))
    layout = draw(st.sampled_from(LAYOUTS))
    if draw(st.booleans()):
        return RawMap(layout(draw(arrays(np.int8, shape, elements=st.integers(-128, 127)))), draw(SCALES))
    return RawMap(layout(draw(arrays(np.float32, shape, elements=elements))))
