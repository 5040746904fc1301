"""What is evaluated: the pictures of one part of a data set, or close-ups made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import ANNOTATIONS, Picture, read_annotations
from edgeface.errors import DataError
from edgeface.evaluation.close_ups import as_picture, close_ups, evaluate_close_ups
from edgeface.evaluation.measure import measure, reasons_against, spread
from edgeface.evaluation.report import Measures
from edgeface.faces import Faces
from edgeface.images import read_image

Image = NDArray[np.uint8]


class Measure(Protocol):
    """From one ``Faces`` a picture to all that can be said of them, as ``measure.measure``."""

    def __call__(
        self, detections: Sequence[Faces], default_score: float, precision: float | None
    ) -> Measures: ...


@dataclass(frozen=True)
class Part:
    """``pictures`` out of the ``available`` ones of the ``split`` part of the set ``name``; ``read`` gives the pixels
    of a picture's path, uint8 (H, W, 3) BGR, and ``measure`` what detections of the pictures come to."""

    name: str
    split: str
    pictures: Sequence[Picture]
    available: int
    measure: Measure
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
    return Part(data.resolve().name, split, pictures, len(whole), partial(measure, pictures))


def close_up_part(sets: Sequence[Path], split: str, limit: int | None) -> Part:
    """Close-ups of the faces in the ``split`` part of the sets in the folders ``sets``, as ``close_ups`` makes them.

    Raises DataError as ``read_annotations`` and ``close_ups``.
    """
    made = close_ups([(data, read_annotations(data, split)) for data in sets])
    shown = spread(made, limit)
    by_name = {close_up.name: close_up for close_up in shown}

    def measured(detections: Sequence[Faces], default_score: float, precision: float | None) -> Measures:
        return Measures(close_ups=evaluate_close_ups(shown, detections, default_score))

    return Part(
        name="close-ups of " + ", ".join(data.resolve().name for data in sets),
        split=split,
        pictures=[as_picture(close_up, split) for close_up in shown],
        available=len(made),
        measure=measured,
        read=lambda path: by_name[path].draw(),
    )
