"""An untrained MOS whose maps are as lively as a trained one's and that finds some faces, for tests of what follows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.models import checkpoint
from edgeface.models.mos import MOS
from edgeface.models.multitask import MultiTaskHead
from edgeface.models.zoo.mos import mos_s

DEFAULT_SCORE_LOGIT = 0.85      # of 0.7


def scenes(count: int) -> list[NDArray[np.uint8]]:
    """Blurred noise of different shapes, uint8 (H, W, 3)."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        height, width = (int(v) for v in rng.integers(80, 240, 2))
        noise = cv2.GaussianBlur(rng.uniform(0, 255, (height, width, 3)), (0, 0), 3)
        noise = (noise - noise.min()) / (noise.max() - noise.min())
        pictures.append((noise * 255).astype(np.uint8))
    return pictures


def lively_mos(width: str = "0.5x", channels: int = 64) -> MOS:
    """A seeded net in eval mode: batch norms that fit their inputs, and one anchor in 200 above the default score."""
    torch.manual_seed(0)
    return made_lively(mos_s(width, channels))


def made_lively(net: MOS) -> MOS:
    """A new net in eval mode, as ``lively_mos`` says."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None      # the running figures become the plain mean of what is seen
            # Activations that are mostly on keep the net from blowing up rounding, as a trained one does not either.
            nn.init.constant_(module.bias, 1.0)
    pixels = [cv2.resize(scene, (192, 160)) for scene in scenes(4)]
    x = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1)
    with torch.no_grad():
        net.train()(x)
        net.eval()
        for head in net.heads:
            assert isinstance(head, MultiTaskHead)
            for final in head.final.values():
                assert isinstance(final, nn.Conv2d)
                assert final.bias is not None
                final.weight.mul_(20)
                final.bias.normal_(0, 0.1)
        for head, maps in zip(net.heads, net(x).score, strict=True):
            assert isinstance(head, MultiTaskHead)
            final = head.final["score"]
            assert isinstance(final.bias, torch.Tensor)
            logits = maps[:, 1::2] - maps[:, 0::2]
            for anchor in range(logits.shape[1]):
                final.bias[2 * anchor] += torch.quantile(logits[:, anchor], 0.995) - DEFAULT_SCORE_LOGIT
    return net


def save_lively_mos(path: Path, width: str = "0.5x") -> Path:
    """A checkpoint of ``lively_mos``, with figures and a licence of its own."""
    net = lively_mos(width)
    checkpoint.save_checkpoint(
        path,
        checkpoint.Checkpoint(
            "mos_s", {"width": width}, net.state_dict(), metrics={"ap_easy": 0.5}, made={"step": 0},
            licence="tests only",
        ),
    )
    return path
