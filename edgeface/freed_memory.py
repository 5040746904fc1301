"""What the C library does with the memory of large tensors and arrays that are no longer used."""

from __future__ import annotations

import ctypes

# Of malloc.h, and the most that mallopt takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _KEPT_BYTES = -1, -3, (1 << 31) - 1


def keep_freed_memory() -> None:
    """Let the C library keep the memory of large tensors, where it is glibc.

    By default it gives it back to the system at once, which clears every page of the next tensor: 1.6 times slower.
    """
    gnu = getattr(ctypes.CDLL(None), "mallopt", None)
    if gnu is not None:
        for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            gnu(parameter, _KEPT_BYTES)
