"""Probabilities of classes from their logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.exponential import exp

Floats = NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Probabilities (N, K) that add up to 1 a row, from logits (N, K), without overflow. Raises FloatingPointError when
    a logit is not finite."""
    if not np.isfinite(logits).all():
        raise FloatingPointError("a class's logit is not finite")
    weights = exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares
