"""The C kernels: where the library is, and whether it is used. ``docs/kernels.md`` says how it is built.

The ways to call them are the functions of ``edgeface.runtime.preprocess``, ``align``, ``decode``, ``nms`` and ``roi``,
which use NumPy and OpenCV where the library is not there, with the same bits.
"""

from edgeface.runtime.kernels.library import Status, library, mark_begin, mark_end, status

__all__ = ["Status", "library", "mark_begin", "mark_end", "status"]
