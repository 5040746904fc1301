"""What turns model cycles into time: a factor from published figures, judged on networks that had no part in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
# From terms (N, K) and published times (N,) to K coefficients.
Fit = Callable[[Values, Values], Values]


def one_factor(terms: Values, published_ms: Values) -> Values:
    """The geometric mean of published over modelled time: too high and too low by a half count alike.

    ``terms`` (N, 1), the modelled times in ms, and ``published_ms`` (N,), all positive; gives (1,).
    """
    factor: Values = np.exp(np.mean(np.log(published_ms / terms[:, 0]), keepdims=True))
    return factor


def no_less_than_zero(terms: Values, published_ms: Values) -> Values:
    """A coefficient a term, none below 0, by least squares of the relative error.

    ``terms`` (N, K) and ``published_ms`` (N,), positive; gives (K,). A term that would count negatively is left out.
    """
    relative = terms / published_ms[:, None]
    kept = np.ones(terms.shape[1], bool)
    coefficients = np.zeros(terms.shape[1])
    while kept.any():
        found = np.linalg.lstsq(relative[:, kept], np.ones(len(published_ms)), rcond=None)[0]
        if (found >= 0).all():
            coefficients[kept] = found
            break
        kept[np.flatnonzero(kept)[found.argmin()]] = False
    return coefficients


def left_out(terms: Values, published_ms: Values, fit: Fit) -> Values:
    """Each network's time by a ``fit`` to all others: (N,) ms from ``terms`` (N, K); N is at least 2."""
    estimates = np.empty(len(published_ms))
    for index in range(len(published_ms)):
        others = np.arange(len(published_ms)) != index
        estimates[index] = terms[index] @ fit(terms[others], published_ms[others])
    return estimates


def mean_error(estimates_ms: Values, published_ms: Values) -> float:
    """The mean of |estimate / published - 1|."""
    return float(np.mean(np.abs(estimates_ms / published_ms - 1)))
