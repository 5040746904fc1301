"""What a run leaves behind: its resumable state, its best weights, its log."""

from __future__ import annotations

import copy
import fcntl
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import torch
from torch import Tensor, nn

from edgeface.atomic import refused
from edgeface.errors import CheckpointError, TrainingError
from edgeface.models.checkpoint import read_untrusted, write_atomically

STATE = "state.pt"
LOG = "log.jsonl"
LOCK = ".lock"
FORMAT = "edgeface-training-state"


class AveragedWeights:
    """Exponential moving average of a network's parameters and buffers; short runs gain most from it."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards ``net``; the decay grows from 0.1 so that the first steps are soon forgotten."""
        self.updates += 1
        keep = min(self.decay, self.updates / (9.0 + self.updates))
        pairs = list(zip(self.net.state_dict().values(), net.state_dict().values(), strict=True))
        floats = [(mine, other.to(mine.dtype)) for mine, other in pairs if mine.dtype.is_floating_point]
        torch._foreach_lerp_([mine for mine, _ in floats], [other for _, other in floats], 1 - keep)
        for mine, other in pairs:
            if not mine.dtype.is_floating_point:
                mine.copy_(other)


@dataclass
class Progress:
    """Where a run stands: steps done, seconds spent training, the best choice so far, the step of the last look."""

    step: int = 0
    spent_s: float = 0.0
    best: float = -math.inf
    looked: int = -1


class RunDirectory:
    """The output folder of a run: ``state.pt`` to resume from, ``log.jsonl``, the weights, the plots."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None
        self._claims = 0

    def make(self) -> None:
        """Make the folder where it is not there; raises OutputError when the disk refuses."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(self.path, error) from None

    def claim(self) -> None:
        """Make the folder, and keep other runs out of it until ``release`` was called as often as this; raises
        TrainingError when one is in it."""
        if self._claims:
            self._claims += 1
            return
        self.make()
        try:
            lock = (self.path / LOCK).open("ab")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{self.path}: another run is using it: wait for it, or choose another --out") from None
        except OSError as error:
            raise TrainingError(f"{self.path / LOCK}: {error.strerror}: choose another --out") from None
        self._lock, self._claims = lock, 1

    def release(self) -> None:
        """Let other runs in again."""
        self._claims = max(0, self._claims - 1)
        if self._lock is not None and not self._claims:
            self._lock.close()
            self._lock = None

    def save_state(self, content: Mapping[str, Any]) -> None:
        """Replace state.pt; raises OutputError and leaves the old one when the disk refuses."""
        write_atomically(self.path / STATE, {"format": FORMAT, **content})

    def load_state(self) -> dict[str, Any] | None:
        """The state of an earlier run here, None when there is none; raises CheckpointError when it is damaged."""
        path = self.path / STATE
        if not path.exists():
            return None
        content = read_untrusted(path)
        if content.get("format") != FORMAT:
            raise CheckpointError(f"{path}: not a training state: choose another --out, or remove the file")
        return brought_up(content)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one JSON line to log.jsonl; raises TrainingError when the disk refuses."""
        try:
            with (self.path / LOG).open("ab") as stream:
                stream.write(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise TrainingError(f"{self.path / LOG}: {error.strerror}: free some space and resume") from None


def brought_up(state: dict[str, Any]) -> dict[str, Any]:
    """A training state as runs leave it now, of one that an earlier version left.

    Those of patch nets and of nets on regions had the network without its objective; the best choice of the latter was
    a loss or an error, the less the better.
    """
    if "progress" not in state or "looked" in state["progress"]:
        return state
    new = {"scaler": {}, "figures": {}, "best": {}, "done": False, **state}
    progress = {"stitched": 0, **state["progress"]}
    new["stitched"] = progress.pop("stitched")
    if "net" in state:
        new["objective"] = {f"net.{name}": tensor for name, tensor in new.pop("net").items()}
        if "choose" not in new["figures"]:
            progress["best"] = -new.pop("least", new["figures"].get("keypoint_nme_percent", math.inf))
    progress["looked"] = progress["step"] if new["done"] else -1
    return {**new, "dev": new["figures"], "progress": progress}


def to_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict's tensors, detached, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
