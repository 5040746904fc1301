"""Untrained patch nets whose outputs are as lively as a trained one's, float and quantised, for tests of what follows.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from edgeface.quantize.calibrated import calibrated_on
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, finished, save_checkpoint
from edgeface.models.family import families
from edgeface.models.patch_nets import MTCNN, PatchNet
from edgeface.models.patch_units import Output
from edgeface.models.quantised import quantised
from lively_mos import scenes

_SHARE_OVER_EVEN = 0.1      # of the patches, those that a net takes for a face


def patches(count: int, size_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Windows of blurred noise, uint8 (count, size_px, size_px, 3)."""
    rng, found = np.random.default_rng(seed), []
    pictures = scenes(4)
    for i in range(count):
        picture = pictures[i % len(pictures)]
        side = int(rng.integers(24, min(picture.shape[:2])))
        y, x = (int(rng.integers(0, n - side + 1)) for n in picture.shape[:2])
        found.append(cv2.resize(picture[y : y + side, x : x + side], (size_px, size_px)))
    return np.stack(found).astype(np.uint8)


def as_input(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) as a net takes it: float32 (N, 3, H, W)."""
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 128) / 128


def nets_of(net: nn.Module) -> dict[str, PatchNet]:
    """The patch nets of MTCNN or of T-CNN, by stem."""
    if isinstance(net, MTCNN):
        return net.nets()
    assert isinstance(net, PatchNet)
    return {"tcnn": net}


def lively(name: str, activation: str = "prelu") -> nn.Module:
    """A seeded "mtcnn" or "tcnn" in eval mode: batch norms that fit their inputs, and one patch in ten a face."""
    torch.manual_seed(0)
    whole = families.get(name).build(activation=activation)
    for net in nets_of(whole).values():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None      # the running figures become the plain mean of what is seen
                nn.init.uniform_(module.bias, 0.0, 1.0)
            if isinstance(module, nn.PReLU):
                nn.init.uniform_(module.weight, 0.0, 0.5)
        x = as_input(patches(64, net.architecture.size_px))
        with torch.no_grad():
            net.train()(x)
            net.eval()
            out = net(x)
            for name, values in (("score", out.score), ("box", out.box), ("landmarks", out.landmarks)):
                head = net.heads[name]
                assert isinstance(head, Output)
                head.weight.mul_(2.0 if name == "score" else 0.2 / float(values.std()))
            net.bias_of("score").sub_(torch.quantile(net(x).score, 1 - _SHARE_OVER_EVEN) - 1.0)
    return whole.eval()


def save_lively(path: Path, name: str, activation: str = "prelu") -> Path:
    """A checkpoint of ``lively``."""
    net = lively(name, activation)
    thresholds = {"pnet": 0.5, "rnet": 0.5, "tcnn": 0.3, "mask": 0.4}
    save_checkpoint(
        path,
        Checkpoint(
            name, {"activation": activation}, net.state_dict(), metrics={"thresholds": thresholds},
            licence="tests only",
        ),
    )
    return path


def int8_checkpoint(name: str) -> Checkpoint:
    """``lively`` with ReLU, quantised and calibrated on patches, P-Net on one larger picture."""
    quantisation = Quantisation("absmax", trained=False, channel_multiple=1)
    net = quantised(lively(name, "relu"), quantisation)
    sides = {stem: each.shape[2] for stem, each in families.get(name).example().items()}
    inputs = {stem: as_input(patches(48, 96 if stem == "pnet" else side)) for stem, side in sides.items()}
    calibrated_on(net, [inputs], quantisation.method)
    checkpoint = Checkpoint(
        name, {"activation": "relu"}, net.state_dict(), licence="tests only", quantisation=quantisation
    )
    return finished(checkpoint, net)


def save_int8(path: Path, name: str) -> Path:
    """A quantised checkpoint, calibrated and not trained."""
    save_checkpoint(path, int8_checkpoint(name))
    return path
