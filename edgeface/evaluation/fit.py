"""How well predicted numbers follow the annotated ones, beside what a constant would give.

A mean error alone hides a head that always says the same: where the truth varies little, so does its error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Fit:
    """Predictions of ``count`` numbers against their truth, in the unit of the truth.

    ``error`` is the mean absolute error, ``constant_error`` that of the best constant, the truth's median;
    ``correlation`` is Pearson's, in -1..1, and ``slope`` that of the regression of the prediction on the truth: 1 for a
    prediction that follows the truth in full, 0 for one that does not move. Both are None where the truth does not
    vary, and the correlation also where the prediction does not.
    """

    count: int
    error: float
    constant_error: float
    correlation: float | None
    slope: float | None


def fit(predicted: Floats, truth: Floats) -> Fit:
    """The fit of ``predicted`` (N,) to ``truth`` (N,). Raises ValueError when the shapes differ or N is 0."""
    if predicted.shape != truth.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} are not two of (N,), N at least 1")
    said, true = predicted.astype(np.float64), truth.astype(np.float64)
    from_mean, said_from_mean = true - true.mean(), said - said.mean()
    shared = float(from_mean @ said_from_mean)
    spread, said_spread = float(from_mean @ from_mean), float(said_from_mean @ said_from_mean)
    return Fit(
        count=len(true),
        error=float(np.abs(said - true).mean()),
        constant_error=float(np.abs(true - np.median(true)).mean()),
        correlation=shared / float(np.sqrt(spread * said_spread)) if spread > 0 and said_spread > 0 else None,
        slope=shared / spread if spread > 0 else None,
    )
