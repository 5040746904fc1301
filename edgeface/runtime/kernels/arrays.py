"""Arrays on their way into C: what the wrappers of kernels share."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EngineError


def address(array: NDArray[Any]) -> int:
    """Where the first element lies; good for as long as the caller keeps ``array``."""
    flags = array.flags
    if flags.c_contiguous and flags.writeable and array.size:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))   # in a sixth of the time that ctypes.data takes
    pointer: int = array.ctypes.data
    return pointer


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """``array`` itself where it lies without gaps and at an address that its type asks for; otherwise a copy that does.
    """
    return array if array.flags.c_contiguous and array.flags.aligned else array.copy()


def rows_packed(array: NDArray[Any]) -> NDArray[Any]:
    """``array`` itself when each of its rows (all axes but the first) lies without gaps, as in a crop of whole pixels;
    otherwise a contiguous copy."""
    step = array.itemsize
    for axis in range(array.ndim - 1, 0, -1):
        if array.shape[axis] > 1 and array.strides[axis] != step:
            return np.ascontiguousarray(array)
        step *= array.shape[axis]
    return array


def done(result: int, name: str) -> int:
    """What a kernel returned; raises EngineError when it refused its arguments, which its wrapper should have seen."""
    if result < 0:
        raise EngineError(f"the C kernel {name} refused its arguments ({result}): please report this")
    return result
