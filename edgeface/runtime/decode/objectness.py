"""One score from two logits, a class and whether there is an object at all: YOLOv5, and YuNet (its geometric mean)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.engines import RawMap

Floats = NDArray[np.float32]
_LEAST_LOG = -80.0      # of a probability, which float32 still holds


def joined_score(score: RawMap, objectness: RawMap, power: float) -> RawMap:
    """The logit (A, H, W) of the probability (sigmoid(score) * sigmoid(objectness)) ** power, of two logits (A, H, W).

    Worked out in logarithms, so that nothing is lost near 0 and 1. Raises ValueError for maps of different shapes.
    """
    a, b = score.real(), objectness.real()
    if a.shape != b.shape:
        raise ValueError(f"a score {a.shape} and its objectness {b.shape} have different shapes")
    log_p = np.minimum((_log_sigmoid(a) + _log_sigmoid(b)) * power, -1e-30).clip(_LEAST_LOG)
    logits: Floats = (log_p - np.log(-np.expm1(log_p))).astype(np.float32)
    return RawMap(logits)


def _log_sigmoid(logits: Floats) -> NDArray[np.float64]:
    real = logits.astype(np.float64)
    return np.minimum(real, 0.0) - np.log1p(np.exp(-np.abs(real)))
