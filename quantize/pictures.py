"""The pictures that scales are calibrated on: a few of the training part, as the network sees them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edgeface.data.annotations import Picture, read_annotations
from edgeface.data.pixels import read_pixels
from edgeface.errors import DataError
from edgeface.models.export import Progress
from edgeface.models.mos import PIXEL_MEAN, PIXEL_SCALE, STRIDES
from edgeface.runtime.preprocess import letterbox

# By set, the longest side: scenes as they come, and crops, whose one face then fills the anchors of the large levels.
_SIZES_PX = {"wider": 640, "landmarks68": 256}


def calibration_batches(
    data: Path, count: int, progress: Progress = lambda items, _label, _total: items
) -> list[Tensor]:
    """About ``count`` training pictures, as ``calibration_pictures``, each float32 (1, 3, H, W).

    Raises DataError when there is none, or a picture cannot be read.
    """
    chosen = calibration_pictures(data, count)
    sizes = {picture.path: _SIZES_PX[name] for picture, name in chosen}
    batches = []
    for picture in progress([picture for picture, _ in chosen], "reading", len(chosen)):
        pixels = letterbox(read_pixels(picture), sizes[picture.path], max(STRIDES)).pixels
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        batches.append((planes - PIXEL_MEAN) * PIXEL_SCALE)
    return batches


def calibration_pictures(data: Path, count: int) -> list[tuple[Picture, str]]:
    """About ``count`` training pictures, each with its set's name, evenly spread over the sets that ``data`` has.

    Raises DataError when none of the sets is there.
    """
    chosen: list[tuple[Picture, str]] = []
    parts = [(read_annotations(data / name, "train"), name) for name in _SIZES_PX if (data / name).is_dir()]
    for pictures, name in parts:
        wanted = min(len(pictures), -(-count // len(parts)))
        chosen += [(pictures[i * len(pictures) // wanted], name) for i in range(wanted)]
    if not chosen:
        names = " or ".join(_SIZES_PX)
        raise DataError(f"{data}: no training pictures in {names} to calibrate on: give --data another folder")
    return chosen
