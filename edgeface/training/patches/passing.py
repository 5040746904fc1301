"""What MTCNN's nets in torch let through, which is what the later ones are trained and calibrated on.

The runtime's cascade does the same on an engine, of nets that are finished.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeface.models.patch_export import LEVEL_NMS_IOU, MERGE_NMS_IOU, PYRAMID_FACTOR
from edgeface.models.patch_nets import P_NET, Architecture, PatchOutput, normalised
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.runtime.crops import Squares, crops, offset_boxes
from edgeface.runtime.engines import RawMap
from edgeface.runtime.logistic import logit
from edgeface.runtime.nms import nms
from edgeface.runtime.pyramid import Canvas, canvas_planes, plan, windows

Floats = NDArray[np.float32]


class PatchMaps(Protocol):
    """A patch net, trained or deployed, in evaluation mode."""

    architecture: Architecture

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Every output by name, of a whole picture (1, 3, H, W)."""
        ...

    def __call__(self, x: Tensor) -> PatchOutput:
        """Normalised BGR patches (N, 3, S, S) -> PatchOutput."""
        ...


def pnet_input(picture: NDArray[np.uint8], smallest_face_px: float) -> tuple[Canvas, Tensor]:
    """The pyramid of a picture for P-Net: its plan, and the canvas as float32 (1, 3, H, W)."""
    height, width = picture.shape[:2]
    canvas = plan(width, height, P_NET.size_px, P_NET.stride, PYRAMID_FACTOR, smallest_face_px)
    return canvas, torch.from_numpy(canvas_planes(picture, canvas, mean=PIXEL_MEAN, scale=PIXEL_SCALE))[None]


def pnet_boxes(pnet: PatchMaps, canvas: Canvas, x: Tensor, probability: float, limit: int) -> Floats:
    """The boxes (n, 4) that P-Net lets through, at most ``limit``, best first, in pixels of the picture."""
    with torch.inference_mode():
        maps = pnet.maps(x)
    score, box = (RawMap(maps[name][0].numpy()) for name in ("score", "box"))
    boxes, _ = windows(score, box, canvas, logit(probability), limit, LEVEL_NMS_IOU, MERGE_NMS_IOU)
    return boxes


def patches_of(picture: NDArray[np.uint8], squares: Squares, size_px: int) -> Tensor:
    """Crops of a picture as a net takes them, float32 (N, 3, size_px, size_px)."""
    return normalised(torch.from_numpy(crops(picture, squares, size_px)), PIXEL_MEAN, PIXEL_SCALE)


def refined_boxes(net: PatchMaps, patches: Tensor, squares: Squares, probability: float, nms_iou: float) -> Floats:
    """The boxes (n, 4) that a net on crops lets through and has moved, best first, of the ``patches`` of ``squares``;
    a ``nms_iou`` of 1 keeps all."""
    with torch.inference_mode():
        out = net(patches)
    scores = out.score.numpy()
    keep = scores >= logit(probability)
    moved = offset_boxes(squares[keep], out.box.numpy()[keep])
    return moved[nms(moved, np.ascontiguousarray(scores[keep]), nms_iou)]
