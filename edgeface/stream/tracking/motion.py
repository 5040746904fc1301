"""How faces move: a Kalman filter of constant velocity, for all tracks together.

A box is (centre x, centre y, ln width, ln height); each of the four moves on its own with a velocity a second, so that
a track's covariance is four 2x2 matrices. Noise is in face sizes: a face twice as near moves twice as many pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_COORDINATES = 4
# In face sizes (and in ln units for width and height). A head turns round within a second or so; boxes of small faces
# wander by a twentieth of their side from frame to frame.
_ACCELERATION = np.array([4.0, 4.0, 1.0, 1.0])      # spectral density of the acceleration, per s^1.5
_MEASUREMENT = np.array([0.05, 0.05, 0.06, 0.06])
_FIRST_VELOCITY = np.array([2.0, 2.0, 0.5, 0.5])    # what may be expected of a face that was seen once, per s


@dataclass(frozen=True)
class Motion:
    """T tracks: ``mean`` (T, 4, 2) float64, value and velocity of each coordinate; ``covariance`` (T, 4, 2, 2)."""

    mean: Floats
    covariance: Floats

    @classmethod
    def none(cls) -> Motion:
        """No track."""
        return cls(np.zeros((0, _COORDINATES, 2)), np.zeros((0, _COORDINATES, 2, 2)))

    @classmethod
    def starting(cls, boxes: NDArray[np.floating]) -> Motion:
        """Tracks of faces seen for the first time, ``boxes`` (T, 4) x1 y1 x2 y2 in pixels."""
        values = _coordinates(boxes)
        mean = np.stack([values, np.zeros_like(values)], axis=-1)
        covariance = np.zeros((len(values), _COORDINATES, 2, 2))
        unit = _unit_px(mean)
        covariance[:, :, 0, 0] = (_MEASUREMENT * unit) ** 2
        covariance[:, :, 1, 1] = (_FIRST_VELOCITY * unit) ** 2
        return cls(mean, covariance)

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Motion:
        return Motion(self.mean[chosen], self.covariance[chosen])

    def joined(self, other: Motion) -> Motion:
        """These tracks, then those of ``other``."""
        return Motion(
            np.concatenate([self.mean, other.mean]), np.concatenate([self.covariance, other.covariance])
        )

    def predicted(self, elapsed_s: float, velocity_kept: Floats | float = 1.0) -> Motion:
        """Where the tracks are ``elapsed_s`` later. ``velocity_kept`` (T,) is the share of its velocity that a track
        still has then: a face that is not seen has stopped or turned more likely than it has gone on."""
        kept = np.broadcast_to(np.asarray(velocity_kept, np.float64), (len(self),))[:, None]
        step = np.zeros((len(self), _COORDINATES, 2, 2))
        step[:, :, 0, 0] = 1.0
        step[:, :, 0, 1] = elapsed_s
        step[:, :, 1, 1] = kept
        density = (_ACCELERATION * _unit_px(self.mean)) ** 2
        noise = np.array([[elapsed_s**3 / 3, elapsed_s**2 / 2], [elapsed_s**2 / 2, elapsed_s]])
        return Motion(
            (step @ self.mean[..., None])[..., 0],
            step @ self.covariance @ step.swapaxes(-1, -2) + density[..., None, None] * noise,
        )

    def corrected(self, boxes: NDArray[np.floating]) -> Motion:
        """After every track was seen as ``boxes`` (T, 4) x1 y1 x2 y2 in pixels."""
        seen = _coordinates(boxes)
        noise = (_MEASUREMENT * _unit_px(self.mean)) ** 2
        gain = self.covariance[..., 0] / (self.covariance[..., 0, 0] + noise)[..., None]      # (T, 4, 2)
        mean = self.mean + gain * (seen - self.mean[..., 0])[..., None]
        covariance = self.covariance - gain[..., :, None] * self.covariance[..., 0, None, :]
        return Motion(mean, covariance)

    def boxes(self) -> Floats:
        """Boxes (T, 4) x1 y1 x2 y2 in pixels."""
        centre, half = self.mean[:, :2, 0], np.exp(self.mean[:, 2:, 0]) / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def sizes_px(self) -> Floats:
        """Geometric means (T,) of width and height in pixels."""
        sizes: Floats = np.exp(self.mean[:, 2:, 0].mean(axis=1))
        return sizes

    def uncertainty_px(self) -> Floats:
        """Standard deviations (T,) of the centres, the larger of x and y, in pixels."""
        deviation: Floats = np.sqrt(self.covariance[:, :2, 0, 0].max(axis=1))
        return deviation


def _coordinates(boxes: NDArray[np.floating]) -> Floats:
    """(T, 4) x1 y1 x2 y2 -> centre x, centre y, ln width, ln height; sides under a pixel count as one."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return np.concatenate([(low + high) / 2, np.log(np.maximum(high - low, 1.0))], axis=1)


def _unit_px(mean: Floats) -> Floats:
    """One unit of noise in each coordinate (T, 4): the face's size in pixels for the centre, 1 for the sides."""
    size = np.exp(mean[:, 2:, 0].mean(axis=1, keepdims=True))
    one = np.ones_like(size)
    return np.concatenate([size, size, one, one], axis=1)
