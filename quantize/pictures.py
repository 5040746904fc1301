"""The pictures that scales are calibrated on: a few of the training part, as the network sees them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeface.data.annotations import Picture
from edgeface.data.pixels import read_pixels
from edgeface.data.sets import SetDescription, open_data
from edgeface.data.targets import targets_of
from edgeface.errors import DataError
from edgeface.models.mos import STRIDES
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.runtime.preprocess import letterbox

# The longest side of scenes as they come, and of crops, whose one face then fills the anchors of the large levels.
_SCENE_PX, _CROP_PX = 640, 256


class Progress(Protocol):
    """Wraps a loop over pictures to show how far it is: (items, label, total) -> the same items."""

    def __call__(self, items: Iterable[Picture], label: str, total: int, /) -> Iterable[Picture]: ...


def calibration_batches(
    data: Path, count: int, progress: Progress = lambda items, _label, _total: items
) -> list[Tensor]:
    """About ``count`` training pictures, as ``calibration_pictures``, each float32 (1, 3, H, W).

    Raises DataError when there is none, or a picture cannot be read.
    """
    return [batch for batch, _ in pictures_with_faces(data, count, progress, max(STRIDES))]


def pictures_with_faces(
    data: Path, count: int, progress: Progress, multiple: int
) -> list[tuple[Tensor, NDArray[np.float32]]]:
    """As ``calibration_batches``, sides multiples of ``multiple``, each with the boxes (n, 4) of its faces in its own
    pixels; raises as that."""
    chosen = calibration_pictures(data, count)
    regress = {picture.path: description.regress for picture, description in chosen}
    found = []
    for picture in progress([picture for picture, _ in chosen], "reading", len(chosen)):
        size_px = _SCENE_PX if picture.complete else _CROP_PX
        boxed = letterbox(read_pixels(picture), size_px, multiple)
        planes = torch.from_numpy(boxed.pixels).permute(2, 0, 1)[None].float()
        targets = targets_of(picture, regress_boxes=regress[picture.path])
        scale = np.array([boxed.scale_x, boxed.scale_y] * 2, np.float32)
        found.append(((planes - PIXEL_MEAN) * PIXEL_SCALE, targets.boxes[~targets.ignore] * scale))
    return found


def calibration_pictures(data: Path, count: int) -> list[tuple[Picture, SetDescription]]:
    """About ``count`` training pictures, each with what its set is, evenly spread over the sets of ``data`` that are
    for measuring.

    Scenes come before crops. Raises DataError when none of the sets is there.
    """
    chosen: list[tuple[Picture, SetDescription]] = []
    folder = open_data(data)
    measured = [name for name, what in folder.sets.items() if what.measure and folder.has_part(name, "train")]
    parts = [(folder.pictures(name, "train"), folder.sets[name]) for name in measured]
    parts.sort(key=lambda part: not part[0][0].complete)
    for pictures, description in parts:
        wanted = min(len(pictures), -(-count // len(parts)))
        chosen += [(pictures[i * len(pictures) // wanted], description) for i in range(wanted)]
    if not chosen:
        detected = [name for name, what in folder.sets.items() if not what.measure]
        step = "give --data another folder" if not detected else (
            f"a detector labelled {', '.join(detected)}: once a person has corrected that, write measure = true into "
            "its set.toml"
        )
        raise DataError(f"{data}: no training pictures to calibrate on in {', '.join(folder.sets)}: {step}")
    return chosen
