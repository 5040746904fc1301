"""An untrained MaskFace whose maps are as lively as a trained one's and that finds some faces, for tests of what
follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from edgeface.quantize.calibrated import calibrated_on
from torch import Tensor, nn

from edgeface.int8.modules import set_mode
from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, finished, save_checkpoint
from edgeface.models.maskface import MaskFace, SharedHead, maskface
from edgeface.models.maskface_export import DENSE, KEYPOINTS
from edgeface.models.quantised import quantised
from lively_mos import scenes

SMALL: dict[str, Any] = {"width": 0.35, "channels": 8, "head_channels": 8, "head_depth": 2}
_FACE_LOGIT = 0.5


def pictures(height_px: int = 128, width_px: int = 192) -> Tensor:
    """Scenes as the network sees them, (4, 3, H, W)."""
    pixels = [cv2.resize(scene, (width_px, height_px)) for scene in scenes(4)]
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1)


def regions(net: MaskFace, x: Tensor) -> Tensor:
    """Some regions (12, C, 14, 14) of the features that a network has of pictures."""
    _, maps = net.all_maps(x)
    return torch.cat([nn.functional.interpolate(each, size=14, mode="bilinear") for each in maps[:3]])


def lively_maskface(**options: Any) -> MaskFace:
    """A seeded net in eval mode: batch norms that fit their inputs, and one anchor in 500 that is a face."""
    torch.manual_seed(0)
    net = maskface(**{**SMALL, **options})
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None      # the running figures become the plain mean of what is seen
            nn.init.constant_(module.bias, 1.0)
    x = pictures()
    (head,) = net.heads
    assert isinstance(head, SharedHead)
    with torch.no_grad():
        net.train()
        net.keypoints(regions(net, x))
        net.eval()
        keypoints: Any = net.keypoints
        for conv in (head.score, head.box, keypoints.maps):
            conv.weight.mul_(20)
        logits = torch.cat([maps["score"].flatten() for maps in net.maps(x)])
        assert head.score.bias is not None
        head.score.bias.add_(_FACE_LOGIT - torch.quantile(logits, 0.998))
    return net


def save_lively_maskface(path: Path, **options: Any) -> Path:
    """A checkpoint of it."""
    options = {**SMALL, **options}
    state = lively_maskface(**options).state_dict()
    save_checkpoint(path, Checkpoint("maskface", options, state, licence="tests only"))
    return path


def save_int8_maskface(path: Path, **options: Any) -> Path:
    """A quantised checkpoint of it, calibrated and not trained."""
    options = {**SMALL, **options}
    quantisation = Quantisation("absmax", trained=False, channel_multiple=1)
    net = quantised(lively_maskface(**options), quantisation).eval()
    assert isinstance(net, MaskFace)
    set_mode(net, "float")
    x = pictures()
    with torch.no_grad():
        inputs = {DENSE: x, KEYPOINTS: regions(net, x)}
    calibrated_on(net, [inputs], quantisation.method)
    checkpoint = Checkpoint("maskface", options, net.state_dict(), licence="tests only", quantisation=quantisation)
    save_checkpoint(path, finished(checkpoint, net))
    return path
