"""Scales of activations from what a float network shows on pictures: absmax, percentile, or least squared error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.errors import DataError, UnknownNameError
from edgeface.int8.modules import Point, points, set_mode
from edgeface.int8.scales import Q_MAX
from edgeface.registry import Registry

BINS = 2048
PERCENTILE = 99.99
# Of the absolute maximum: clipping harder than the first loses every outlier, and the last clips nothing.
_CLIPS = np.linspace(0.05, 1.0, 96)
_LEAST_SCALE = 1e-6


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


Given = TypeVar("Given")


def observe(net: nn.Module, batches: Sequence[Given], run: Callable[[Given], object]) -> dict[str, Seen]:
    """What every point of ``net`` holds in float while ``run`` takes it through ``batches``, by the point's name.

    Goes through the batches twice: the histograms need the ranges. The net's mode afterwards is "float". Raises
    DataError when there are no batches.
    """
    if not batches:
        raise DataError("no calibration pictures: give --data a folder whose sets have a train part")
    set_mode(net, "float")
    named = dict(points(net))
    largest = _watch(named, batches, run, _Largest)
    counts = _watch(named, batches, run, lambda name: _Histogram(largest[name].value))
    return {name: Seen(largest[name].value, counts[name].counts) for name in named}


Observer = TypeVar("Observer", bound=Callable[[Tensor], None])


class _Largest:
    def __init__(self, name: str) -> None:
        self.name, self.value = name, 0.0

    def __call__(self, x: Tensor) -> None:
        largest = float(x.abs().max())
        if not np.isfinite(largest):        # Python's max would drop a NaN
            raise DataError(
                f"{self.name}: holds values that are not numbers on the calibration pictures: check the weights"
            )
        self.value = max(self.value, largest)


class _Histogram:
    def __init__(self, largest: float) -> None:
        self.largest = largest
        self.counts = np.zeros(BINS)

    def __call__(self, x: Tensor) -> None:
        if self.largest > 0:
            self.counts += torch.histc(x.detach().abs().float(), BINS, 0, self.largest).double().cpu().numpy()


def _watch(
    named: dict[str, Point], batches: Iterable[Given], run: Callable[[Given], object], make: Callable[[str], Observer]
) -> dict[str, Observer]:
    observers = {name: make(name) for name in named}
    try:
        for name, point in named.items():
            point.observer = observers[name]
        with torch.no_grad():
            for batch in batches:
                run(batch)
    finally:
        for point in named.values():
            point.observer = None
    return observers


def calibrate(net: nn.Module, seen: dict[str, Seen], how: str) -> None:
    """Give every point of ``net`` whose scale is free one by the method ``how``.

    Raises UnknownCalibrationError, and DataError for a point that held nothing but zeros or values that are no numbers.
    """
    clip = method.get(how)
    for name, point in points(net):
        if not point.log_scale.requires_grad:
            continue
        point.set_scale(max(min(clip(seen[name]), point.limit) / Q_MAX, _LEAST_SCALE))
