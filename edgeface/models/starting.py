"""Published trunks that a new network starts from, as all five papers do: read by name, with source and licence.

A file is a NumPy archive (``.npz``) of a backbone's state dict, with or without ``backbone.`` before its names. Those
that are known are listed, by the hash of the file, in starting_weights.toml beside this file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgeface.bundle import sha256_of
from edgeface.errors import CheckpointError
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE

PREFIX = "backbone."
# A trunk of this project has tens of MB; more than this is another kind of file.
LARGEST_BYTES = 512 * 2**20
# What torchvision's weights were trained on: RGB from 0 to 1, less the mean and over the deviation of ImageNet.
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Origin(msgspec.Struct, frozen=True):
    """Where a published trunk comes from: what it is, what it was trained on, who published it, under which licence."""

    name: str
    trained_on: str
    source: str
    licence: str


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a NumPy archive, by what it holds; raises CheckpointError when it is not there."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


@torch.no_grad()
def load_backbone(net: nn.Module, path: Path) -> dict[str, str]:
    """Give the backbone of ``net`` the weights of a NumPy archive, and say where these come from.

    Every tensor of the backbone must be in the file, with its shape. Returns the hash, and the source and licence where
    the file is a known one. Raises CheckpointError when the file is damaged or of another trunk; ``net`` is unchanged
    then.
    """
    own = {name: tensor for name, tensor in net.state_dict().items() if name.startswith(PREFIX)}
    if path.stat().st_size > LARGEST_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes are no trunk's weights: give another file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            given = {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        raise CheckpointError(f"{path}: damaged, or not a NumPy archive of weights: copy it again") from None
    if not any(name.startswith(PREFIX) for name in given):
        given = {PREFIX + name: tensor for name, tensor in given.items()}
    for name, tensor in own.items():
        if name not in given:
            raise CheckpointError(f"{path}: has no {name}: another trunk's weights: choose those of the model's trunk")
        if given[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(given[name].shape)}, the model's is {tuple(tensor.shape)}: "
                "choose the weights of the same trunk and width"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(given[name]).all()):
            raise CheckpointError(f"{path}: {name} is not finite: copy the file again")
    net.load_state_dict({name: given[name] for name in own}, strict=False)
    digest = sha256_of(path)
    known = _known().get(digest)
    return {"sha256": digest} | ({"source": "unknown"} if known is None else msgspec.to_builtins(known))


@torch.no_grad()
def load_published(net: nn.Module, state: Mapping[str, object], where: str) -> None:
    """Give the backbone of ``net`` the weights of a trunk that was trained to classify, in torchvision's state dict.

    The first layer is changed to read pictures as edgeface's networks get them (``for_bgr``). Raises CheckpointError,
    which begins with ``where``, for weights that are missing or of another shape; the network is unchanged then.
    """
    backbone = net.backbone
    assert isinstance(backbone, nn.Module)
    kind = type(backbone).__name__
    new: dict[str, Tensor] = {}
    for name, tensor in backbone.state_dict().items():
        given = state.get(name)
        if not isinstance(given, Tensor):
            raise CheckpointError(f"{where}: has no {name}: give weights of {kind} in torchvision's names")
        if given.shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(given.shape)}, the model's is {tuple(tensor.shape)}: give weights of {kind}"
            )
        new[name] = given
    first: Any = backbone.first     # torch types a module's attributes as tensors and modules
    conv, norm = first
    weight, shift = for_bgr(new[f"{conv}.weight"])
    name = f"{conv}.bias" if norm is None else f"{norm}.running_mean"
    offset = new[name] + shift if norm is None else new[name] - shift
    backbone.load_state_dict({**new, f"{conv}.weight": weight, name: offset})


def for_bgr(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A first layer's weight (O, 3, k, k) for torchvision's RGB as one for x = (bgr - PIXEL_MEAN) * PIXEL_SCALE, and
    what is to be added to its outputs (O,): the same but for what lies outside the picture."""
    mean, deviation = (torch.tensor(v)[None, :, None, None] for v in (_IMAGENET_MEAN, _IMAGENET_DEVIATION))
    shift = (PIXEL_MEAN / 255 - mean) / deviation
    return (weight / (255 * PIXEL_SCALE * deviation)).flip(1), (weight * shift).sum((1, 2, 3))


def _known() -> dict[str, Origin]:
    """The published trunks, by the sha256 of their file."""
    content = (Path(__file__).parent / "starting_weights.toml").read_bytes()
    return msgspec.toml.decode(content, type=dict[str, Origin])
