"""The regions that the scales of nets on regions are calibrated on: about the faces of training pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeface.errors import DataError
from edgeface.models.family import Inputs
from edgeface.models.maskface import MaskFace
from edgeface.models.maskface_export import DENSE, KEYPOINTS, gather_of
from edgeface.models.tfn import TFN
from edgeface.runtime.gather.regions import widened
from edgeface.training.region_samples import regions_of
from edgeface.training.regions import region_features

from .pictures import Progress, pictures_with_faces

_FACES = 8              # of a picture, the largest
_SMALLEST_FACE_PX = 12.0


def picture_and_region_inputs(net: MaskFace, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    """What the nets of ``net``, a deployed MaskFace in float, see on about ``pictures`` training pictures: "dense" the
    picture, "keypoints" the regions (P, C, 14, 14) of its faces. Raises DataError when there are no pictures, or no
    faces in them."""
    gather = gather_of(net.form, net.margin)

    def regions(x: Tensor, boxes: NDArray[np.float32]) -> dict[str, Tensor]:
        _, maps = net.all_maps(x)
        (own,) = region_features([[each] for each in maps], net.form.region_strides, boxes, gather)
        return {KEYPOINTS: own}

    return _with_regions(data, pictures, progress, net.multiple, regions)


def picture_and_joined_inputs(net: TFN, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    """As ``picture_and_region_inputs`` of a deployed TFN: the regions of every group under its name."""

    def regions(x: Tensor, boxes: NDArray[np.float32]) -> dict[str, Tensor]:
        maps = net.trunk_maps(x)
        return {
            group.name: torch.from_numpy(regions_of(maps, group, widened(boxes, group.margin)))
            for group in net.design.groups
        }

    return _with_regions(data, pictures, progress, net.multiple, regions)


def _with_regions(
    data: Path, pictures: int, progress: Progress, multiple: int,
    regions: Callable[[Tensor, NDArray[np.float32]], dict[str, Tensor]],
) -> list[Inputs]:
    found: list[Inputs] = []
    any_faces = False
    for x, boxes in pictures_with_faces(data, pictures, progress, multiple):
        side_px = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)
        boxes = boxes[np.argsort(-side_px)][: min(_FACES, int((side_px >= _SMALLEST_FACE_PX).sum()))]
        inputs = {DENSE: x}
        if len(boxes):
            any_faces = True
            with torch.no_grad():
                inputs |= regions(x, boxes)
        found.append(inputs)
    if not any_faces:
        raise DataError(f"{data}: no faces in its training pictures to calibrate on: give --data another folder")
    return found
