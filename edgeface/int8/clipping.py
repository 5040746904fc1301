"""Which absolute value becomes 127: absmax, percentile, or least squared error, by what was seen on pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import UnknownNameError
from edgeface.int8.scales import Q_MAX
from edgeface.registry import Registry

BINS = 2048
PERCENTILE = 99.99
# Of the absolute maximum: clipping harder than the first loses every outlier, and the last clips nothing.
_CLIPS = np.linspace(0.05, 1.0, 96)
LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class Seen:
    """What a point held: ``largest`` absolute value, and ``counts`` (BINS,) of the absolute values from 0 to it."""

    largest: float
    counts: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middles of the bins (BINS,)."""
        return np.linspace(0, self.largest, BINS, endpoint=False) + self.largest / BINS / 2


class UnknownCalibrationError(UnknownNameError):
    """No calibration method has this name."""


# A method gives the absolute value that becomes 127.
method: Registry[Callable[[Seen], float]] = Registry("calibration", UnknownCalibrationError)


@method("absmax")
def absmax(seen: Seen) -> float:
    """The largest absolute value: nothing is clipped."""
    return seen.largest


@method("percentile")
def percentile(seen: Seen) -> float:
    """The absolute value that PERCENTILE % of the values stay under."""
    share = np.cumsum(seen.counts) / max(1.0, float(seen.counts.sum()))
    above = int(np.searchsorted(share, PERCENTILE / 100))
    return float(seen.largest * (min(above, BINS - 1) + 1) / BINS)


@method("mse")
def mse(seen: Seen) -> float:
    """The clip with the least squared error between the values and their int8 form."""
    values = seen.centres
    best, least = seen.largest, np.inf
    for clip in _CLIPS * seen.largest:
        scale = clip / Q_MAX
        rounded = np.rint(values / scale).clip(0, Q_MAX) * scale
        error = float((seen.counts * (rounded - values) ** 2).sum())
        if error < least:
            best, least = float(clip), error
    return best


def squared_error(seen: Seen, scale: float) -> float:
    """Share of a point's signal power that rounding to ``scale`` loses; 0 where there is no signal."""
    values = seen.centres
    rounded = np.rint(values / scale).clip(0, Q_MAX) * scale
    power = float((seen.counts * values**2).sum())
    return float((seen.counts * (rounded - values) ** 2).sum()) / power if power else 0.0
