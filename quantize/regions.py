"""The regions that a keypoint head's scales are calibrated on: about the faces of training pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edgeface.errors import DataError
from edgeface.models.family import Inputs
from edgeface.models.maskface import MaskFace
from edgeface.models.maskface_export import DENSE, KEYPOINTS, gather_of
from edgeface.training.regions import region_features

from .pictures import Progress, pictures_with_faces

_FACES = 8              # of a picture, the largest
_SMALLEST_FACE_PX = 12.0


def picture_and_region_inputs(net: MaskFace, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    """What the nets of ``net``, a deployed MaskFace in float, see on about ``pictures`` training pictures: "dense" the
    picture, "keypoints" the regions (P, C, 14, 14) of its faces. Raises DataError when there are no pictures, or no
    faces in them."""
    gather = gather_of(net.form, net.margin)
    found: list[Inputs] = []
    for x, boxes in pictures_with_faces(data, pictures, progress, net.multiple):
        side_px = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)
        boxes = boxes[np.argsort(-side_px)][: min(_FACES, int((side_px >= _SMALLEST_FACE_PX).sum()))]
        inputs = {DENSE: x}
        if len(boxes):
            with torch.no_grad():
                _, maps = net.all_maps(x)
            (inputs[KEYPOINTS],) = region_features([[each] for each in maps], net.form.region_strides, boxes, gather)
        found.append(inputs)
    if not any(KEYPOINTS in inputs for inputs in found):
        raise DataError(f"{data}: no faces in its training pictures to calibrate on: give --data another folder")
    return found
