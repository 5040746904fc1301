"""Published trunks that a new network starts from, as all five papers do: read by name, with source and licence.

A file is a NumPy archive (``.npz``) of a backbone's state dict, its names beginning with ``backbone.``. Those that are
known are listed, by the hash of the file, in starting_weights.toml beside this file.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from edgeface.bundle import sha256_of
from edgeface.errors import CheckpointError

PREFIX = "backbone."
# A trunk of this project has tens of MB; more than this is another kind of file.
LARGEST_BYTES = 512 * 2**20


class Source(msgspec.Struct, frozen=True):
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


def _known() -> dict[str, Source]:
    """The published trunks, by the sha256 of their file."""
    content = (Path(__file__).parent / "starting_weights.toml").read_bytes()
    return msgspec.toml.decode(content, type=dict[str, Source])
