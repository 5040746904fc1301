"""Landmarks and pose without jitter and without visible lag: the one-euro filter (Casiez and others, CHI 2012).

A low-pass filter whose cut-off frequency rises with speed: what rests is smoothed, what moves is followed. Landmarks
are filtered in face sizes and pose in units of 60 degrees, so that one set of figures serves faces at every distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import OptionError
from edgeface.faces import Faces

Floats = NDArray[np.float64]

_DEGREES_A_UNIT = 60.0


@dataclass(frozen=True)
class SmoothingOptions:
    """``rest_hz``: the cut-off for what does not move; ``per_speed``: what a unit a second adds to it, in Hz (a unit is
    a face size, or 60 degrees); ``speed_hz``: the cut-off of the speed itself. Raises OptionError for values below 0.
    """

    rest_hz: float = 2.0
    per_speed: float = 15.0
    speed_hz: float = 2.0

    def __post_init__(self) -> None:
        if self.rest_hz <= 0 or self.per_speed < 0 or self.speed_hz <= 0:
            raise OptionError("smoothing: the cut-off frequencies must be over 0 and their rise not negative")


class OneEuroFilter:
    """The filter for arrays of one shape, sampled at any times that rise; the first sample comes out as it is."""

    def __init__(self, options: SmoothingOptions, value: Floats, time_s: float) -> None:
        self._options = options
        self._value = value
        self._speed = np.zeros_like(value)
        self._time_s = time_s

    def __call__(self, value: Floats, time_s: float, unit: float = 1.0) -> Floats:
        """The smoothed value at ``time_s``; a time that has been is answered with what it was answered with.

        ``unit`` is what the options call a unit, in those of ``value``: a face's size in pixels."""
        elapsed_s = time_s - self._time_s
        if elapsed_s > 0:
            options = self._options
            speed = (value - self._value) / elapsed_s
            self._speed = self._speed + _share(options.speed_hz, elapsed_s) * (speed - self._speed)
            cut_off_hz = options.rest_hz + options.per_speed * np.abs(self._speed) / unit
            self._value = self._value + _share(cut_off_hz, elapsed_s) * (value - self._value)
            self._time_s = time_s
        return self._value


class Smoother:
    """One-euro filters for the points and the pose of every number that a tracker gives."""

    def __init__(self, options: SmoothingOptions) -> None:
        self._options = options
        self._filters: dict[tuple[str, int], OneEuroFilter] = {}

    def __call__(self, faces: Faces, ids: NDArray[np.int64], time_s: float) -> Faces:
        """``faces`` with points and pose smoothed for their numbers ``ids``, int64 (N,), or passed on where they are
        not finite."""
        sides = np.maximum(faces.boxes[:, 2:] - faces.boxes[:, :2], 1.0)
        sizes = np.sqrt(sides.prod(axis=1))
        units = {"landmarks": sizes, "landmarks68": sizes, "pose": np.full(len(ids), _DEGREES_A_UNIT)}
        known = faces.arrays()
        smoothed: dict[str, Any] = {
            name: self._smoothed(name, known[name], unit, ids, time_s) for name, unit in units.items() if name in known
        }
        return replace(faces, **smoothed) if smoothed else faces

    def keep(self, ids: Iterable[int]) -> None:
        """Forget every number that is not among ``ids``."""
        kept = set(ids)
        self._filters = {key: entry for key, entry in self._filters.items() if key[1] in kept}

    def _smoothed(
        self, name: str, values: NDArray[np.float32], units: NDArray[np.floating], ids: NDArray[np.int64], time_s: float
    ) -> NDArray[np.float32]:
        out = np.empty_like(values)
        for i, number in enumerate(ids.tolist()):
            unit = float(units[i])
            value = values[i].astype(np.float64)
            if not np.isfinite(value).all():
                # It would stay in the filter for good.
                out[i] = value
                continue
            known = self._filters.get((name, number))
            if known is None:
                known = self._filters[name, number] = OneEuroFilter(self._options, value, time_s)
            out[i] = known(value, time_s, unit)
        return out


def _share(cut_off_hz: Floats | float, elapsed_s: float) -> Floats | float:
    """How much of a new sample enters a first-order low-pass filter."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cut_off_hz * elapsed_s))
