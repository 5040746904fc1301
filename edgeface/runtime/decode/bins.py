"""Head pose as the expectation over bins of angles (mos.txt, section 3.2.1).

``pose_degrees`` uses the C kernel where it is there; ``pose_degrees_reference`` is the specification in NumPy, and
gives the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bins
from edgeface.runtime.exponential import exp
from edgeface.runtime.kernels import decoding, library

Floats = NDArray[np.float32]


def pose_degrees(logits: Floats, output: Bins) -> Floats:
    """Pitch, yaw and roll in degrees (P, 3) from (3 * bins, 1, P): the expected bin centre (mos.txt, section 3.2.1)."""
    kernels = library()
    if kernels is None:
        return pose_degrees_reference(logits, output)
    bins = logits.reshape(3, output.bins, -1)
    return decoding.pose_degrees(kernels, bins, output.bins, output.bin_deg, output.first_centre_deg)


def pose_degrees_reference(logits: Floats, output: Bins) -> Floats:
    """``pose_degrees`` in NumPy."""
    bins = logits.reshape(3, output.bins, -1)
    weights = exp(bins - bins.max(axis=1, keepdims=True))
    index = np.arange(output.bins, dtype=np.float32)[None, :, None]
    expected = _sum_in_order(weights * index) / _sum_in_order(weights)
    degrees: Floats = (expected * np.float32(output.bin_deg) + np.float32(output.first_centre_deg)).T
    return np.ascontiguousarray(degrees)


def _sum_in_order(values: Floats) -> Floats:
    """Sums over axis 1 from its first element on, which NumPy's sum leaves open."""
    total: Floats = np.add.accumulate(values, axis=1)[:, -1]
    return total
