"""Scales of activations from what a float network shows on pictures, by the methods of ``edgeface.int8.clipping``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edgeface.errors import DataError
from edgeface.freed_memory import keep_freed_memory
from edgeface.int8.clipping import BINS, LEAST_SCALE, Seen, method
from edgeface.int8.modules import Point, points, set_mode
from edgeface.int8.scales import Q_MAX

Given = TypeVar("Given")


class Passes(Protocol):
    """Wraps a loop over what a network is shown, to say how far it is: (items, label, total) -> the same items."""

    def __call__(self, items: Iterable[Any], label: str, total: int, /) -> Iterable[Any]: ...


def observe(
    net: nn.Module, batches: Sequence[Given], run: Callable[[Given], object],
    progress: Passes = lambda items, _label, _total: items,
) -> dict[str, Seen]:
    """What every point of ``net`` holds in float while ``run`` takes it through ``batches``, by the point's name.

    Goes through the batches twice: the histograms need the ranges. The net's mode afterwards is "float". Raises
    DataError when there are no batches.
    """
    if not batches:
        raise DataError("no calibration pictures: give --data a folder whose sets have a train part")
    keep_freed_memory()
    set_mode(net, "float")
    named = dict(points(net))
    passes = (progress(batches, f"calibrating, pass {number} of 2", len(batches)) for number in (1, 2))
    largest = _watch(named, next(passes), run, _Largest)
    counts = _watch(named, next(passes), run, lambda name: _Histogram(largest[name].value))
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
            self.counts += histogram(x.detach().abs().float(), self.largest).double().cpu().numpy()


def histogram(x: Tensor, largest: float) -> Tensor:
    """How many of the values of ``x``, float32 from 0 to ``largest``, lie in each of BINS equal bins: int64 (BINS,).

    It is what torch.histc says, in a third of its time.
    """
    bins = (x.flatten() / largest).mul_(BINS).to(torch.int32).clamp_(max=BINS - 1)
    return torch.bincount(bins, minlength=BINS)


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
        point.set_scale(max(min(clip(seen[name]), point.limit) / Q_MAX, LEAST_SCALE))
