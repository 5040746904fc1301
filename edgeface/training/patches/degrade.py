"""Ways to spoil a patch as cameras do, each by its name: what T-CNN must still read, and what is of low quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

Patch = NDArray[np.uint8]


def seen_at(patch: Patch, size_px: int) -> Patch:
    """The patch as if its window had been ``size_px`` wide in the picture: brought down to that and up again."""
    side = len(patch)
    small = cv2.resize(patch, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def down_up_sampling(_rng: np.random.Generator, patch: Patch, strength: float) -> Patch:
    """As if the face had been small: a window of 40 down to 8 pixels."""
    return seen_at(patch, round(8 * 5 ** (1 - strength)))


def gaussian_blur(_rng: np.random.Generator, patch: Patch, strength: float) -> Patch:
    """Out of focus: sigma from 0.4 to 4 hundredths of 48 pixels."""
    return np.asarray(cv2.GaussianBlur(patch, (0, 0), (0.4 + 3.6 * strength) * len(patch) / 48), np.uint8)


def motion_blur(rng: np.random.Generator, patch: Patch, strength: float) -> Patch:
    """A line of 3 to 15 pixels of 48 in any direction."""
    length = max(3, round((3 + 12 * strength) * len(patch) / 48)) | 1
    angle, middle = rng.uniform(0, math.pi), length // 2
    kernel = np.zeros((length, length), np.float32)
    dx, dy = middle * math.cos(angle), middle * math.sin(angle)
    ends = (round(middle - dx), round(middle - dy)), (round(middle + dx), round(middle + dy))
    cv2.line(kernel, *ends, 1.0)
    return np.asarray(cv2.filter2D(patch, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8)


def jpeg(_rng: np.random.Generator, patch: Patch, strength: float) -> Patch:
    """JPEG's blocks, quality from 80 down to 8."""
    _, coded = cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, round(80 - 72 * strength)])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


def noise(rng: np.random.Generator, patch: Patch, strength: float) -> Patch:
    """A sensor's noise in the dark: sigma from 2 to 32 levels."""
    spoilt = patch + rng.normal(0, 2 + 30 * strength, patch.shape)
    return np.clip(np.rint(spoilt), 0, 255).astype(np.uint8)


# Each takes a generator, a patch (S, S, 3) and a strength from 0 (hardly seen) to 1 (a face hardly recognised).
DEGRADATIONS: Mapping[str, Callable[[np.random.Generator, Patch, float], Patch]] = {
    "down_up_sampling": down_up_sampling,
    "gaussian_blur": gaussian_blur,
    "motion_blur": motion_blur,
    "jpeg": jpeg,
    "noise": noise,
}
