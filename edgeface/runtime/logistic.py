"""The logistic function and its inverse."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.exponential import sigmoid_reference
from edgeface.runtime.kernels import decoding, library

Floats = NDArray[np.float32]


def logit(probability: float) -> float:
    """log(p / (1 - p)) for p in 0..1, infinite at the ends."""
    if probability <= 0.0:
        return -math.inf
    if probability >= 1.0:
        return math.inf
    return math.log(probability / (1.0 - probability))


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), float32 -> float32, without overflow at either end, by the specification in exponential.py."""
    kernels = library()
    return sigmoid_reference(logits) if kernels is None else decoding.sigmoid(kernels, logits)
