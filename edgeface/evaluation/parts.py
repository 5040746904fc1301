"""What is evaluated: the pictures of one part of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import ANNOTATIONS, Picture, read_annotations
from edgeface.errors import DataError
from edgeface.evaluation.measure import reasons_against, spread
from edgeface.evaluation.report import Measures
from edgeface.images import read_image

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """``pictures`` out of the ``available`` ones of the ``split`` part of the set ``name``; ``read`` gives the pixels
    of a picture's path, uint8 (H, W, 3) BGR."""

    name: str
    split: str
    pictures: Sequence[Picture]
    available: int
    read: Callable[[Path], Image] = read_image


def data_part(data: Path, split: str, limit: int | None) -> Part:
    """The ``split`` part of the set in the folder ``data``, ``limit`` pictures of it at even distances.

    Raises DataError as ``read_annotations``, and where nothing of it can be measured.
    """
    whole = read_annotations(data, split)
    pictures = spread(whole, limit)
    reasons = reasons_against(pictures)
    if set(reasons) == Measures.names():
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise DataError(f"{data / ANNOTATIONS}: nothing to measure in its {split} part ({why}): choose another set")
    return Part(data.resolve().name, split, pictures, len(whole))
