"""Which faces of two sides are the same ones, and how far apart those are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces
from edgeface.runtime.nms import iou


class Pair(NamedTuple):
    """Box ``one`` of the one side and box ``other`` of the other, by index, and their ``iou``."""

    one: int
    other: int
    iou: float


def match(one: NDArray[np.floating], other: NDArray[np.floating], iou_least: float) -> list[Pair]:
    """Pairs of boxes (N, 4) and (M, 4), x1 y1 x2 y2, that overlap by at least ``iou_least``: one to one, the best
    overlap first; of equal ones the first in ``one``, then in ``other``."""
    if not len(one) or not len(other):
        return []
    overlap = iou(one, other)
    pairs = np.argwhere(overlap >= iou_least)
    pairs = pairs[np.argsort(-overlap[pairs[:, 0], pairs[:, 1]], kind="stable")]
    taken_one: set[int] = set()
    taken_other: set[int] = set()
    chosen = []
    for i, j in pairs.tolist():
        if i not in taken_one and j not in taken_other:
            taken_one.add(i)
            taken_other.add(j)
            chosen.append(Pair(i, j, float(overlap[i, j])))
    return chosen


def differences(one: Faces, other: Faces, pairs: list[Pair]) -> dict[str, NDArray[Any]]:
    """``one`` less ``other`` for P pairs, in everything that both predict: an array (P, ...) for each name of
    ``Faces.arrays``."""
    mine, theirs = [pair.one for pair in pairs], [pair.other for pair in pairs]
    here, there = one.select(mine).arrays(), other.select(theirs).arrays()
    return {name: here[name] - there[name] for name in here if name in there}
