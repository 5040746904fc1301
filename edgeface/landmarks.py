"""The five landmarks and the 68 of 300-W: how they belong together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEFT_EYE, _RIGHT_EYE = slice(36, 42), slice(42, 48)
_NOSE_AND_MOUTH = [30, 48, 54]


def five_of_68(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """The five landmarks of ``Faces``, float32 (N, 5, 2), of 68 points (N, 68, 2) in the order of 300-W: the middle of
    each eye's outline, the nose tip and the mouth's corners."""
    eyes = [points[:, eye].mean(axis=1, keepdims=True) for eye in (_LEFT_EYE, _RIGHT_EYE)]
    found: NDArray[np.float32] = np.concatenate([*eyes, points[:, _NOSE_AND_MOUTH]], axis=1).astype(np.float32)
    return found
