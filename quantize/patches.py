"""The windows that a cascade's scales are calibrated on: those that its own earlier nets pass, and some about faces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.pixels import read_pixels
from edgeface.data.targets import targets_of
from edgeface.errors import DataError
from edgeface.models.family import Inputs
from edgeface.models.patch_nets import R_NET, PatchNet
from edgeface.runtime.crops import square_crops
from edgeface.training.patches.passing import patches_of, pnet_boxes, pnet_input, refined_boxes
from edgeface.training.patches.windows import near_squares, random_squares

from .pictures import Progress, calibration_pictures

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Of a picture: the best windows of P-Net, and faces that windows are drawn about.
_CANDIDATES, _FACES = 32, 8
_SMALLEST_FACE_PX = 14.0
# As far off as an earlier net leaves a face.
_SHIFT, _SCALE = 0.14, 0.22
_BACKGROUND = 4
# Lower than a detector's: what is calibrated must hold for whatever may come, overlapping or not.
_PNET_PROBABILITY, _RNET_PROBABILITY = 0.3, 0.2
_KEEP_ALL = 1.0


def cascade_inputs(nets: Mapping[str, PatchNet], data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    """What MTCNN's nets, in float, see on about ``pictures`` training pictures: P-Net each one's pyramid (1, 3, H, W),
    R-Net the windows (N, 3, 24, 24) that P-Net passes and some about faces, O-Net (N, 3, 48, 48) those of R-Net.

    Raises DataError when there are no pictures, or no windows in them.
    """
    rng = np.random.default_rng(0)
    found: list[Inputs] = []
    for boxes, image in _read(data, pictures, progress):
        canvas, whole = pnet_input(image, _SMALLEST_FACE_PX)
        inputs = {"pnet": whole}
        faces = near_squares(rng, boxes, 1, _SHIFT, _SCALE)
        passed = pnet_boxes(nets["pnet"], canvas, whole, _PNET_PROBABILITY, _CANDIDATES)
        first = np.concatenate((square_crops(passed, 1.0), faces))
        if len(first):
            inputs["rnet"] = patches = patches_of(image, first, R_NET.size_px)
            moved = refined_boxes(nets["rnet"], patches, first, _RNET_PROBABILITY, _KEEP_ALL)
            second = np.concatenate((square_crops(moved, 1.0), faces))
            if len(second):
                inputs["onet"] = patches_of(image, second, nets["onet"].architecture.size_px)
        found.append(inputs)
    _require(found, "onet", data)
    return found


def face_inputs(stem: str, size_px: int, margin: float, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    """Windows (N, 3, size_px, size_px) about faces, ``margin`` times as large, and a few beside them, of about
    ``pictures`` training pictures: what a net sees that refines a detector's faces. Raises DataError as above."""
    rng = np.random.default_rng(0)
    found: list[Inputs] = []
    for boxes, image in _read(data, pictures, progress):
        squares = near_squares(rng, boxes, 1, _SHIFT / 2, _SCALE / 2)
        side = np.rint(squares[:, 2] * margin).astype(np.int64)
        corner = squares[:, :2] + (squares[:, 2:] - side[:, None]) // 2
        height, width = image.shape[:2]
        beside = random_squares(rng, width, height, _BACKGROUND, size_px // 2)
        found.append({stem: patches_of(image, np.concatenate((np.column_stack((corner, side)), beside)), size_px)})
    _require(found, stem, data)
    return found


def _read(data: Path, count: int, progress: Progress) -> Iterator[tuple[Floats, Image]]:
    """The boxes (n, 4) of some faces of each picture, and the picture."""
    chosen = calibration_pictures(data, count)
    regress = {picture.path: description.regress for picture, description in chosen}
    for picture in progress([picture for picture, _ in chosen], "reading", len(chosen)):
        targets = targets_of(picture, regress_boxes=regress[picture.path])
        boxes = targets.boxes[~targets.ignore]
        large = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= _SMALLEST_FACE_PX]
        yield large[:_FACES], read_pixels(picture)


def _require(found: list[Inputs], stem: str, data: Path) -> None:
    if not any(stem in inputs and len(inputs[stem]) for inputs in found):
        raise DataError(f"{data}: no faces in its training pictures to calibrate {stem} on: give --data another folder")
