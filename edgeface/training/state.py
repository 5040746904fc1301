"""What a run leaves behind: its resumable state, its best weights, its log."""

from __future__ import annotations

import copy
import fcntl
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
    """Where a run stands: steps done, seconds spent training, stitched steps, best dev figure so far."""

    step: int = 0
    spent_s: float = 0.0
    stitched: int = 0
    best: float = -1.0


class RunDirectory:
    """The output folder of a run: ``state.pt`` to resume from, ``log.jsonl``, the weights, the plots."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None

    def make(self) -> None:
        """Make the folder where it is not there; raises OutputError when the disk refuses."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(self.path, error) from None

    def claim(self) -> None:
        """Make the folder, and keep other runs out of it until ``release``; raises TrainingError when one is in it."""
        self.make()
        try:
            lock = (self.path / LOCK).open("ab")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{self.path}: another run is using it: wait for it, or choose another --out") from None
        except OSError as error:
            raise TrainingError(f"{self.path / LOCK}: {error.strerror}: choose another --out") from None
        self._lock = lock

    def release(self) -> None:
        """Let other runs in again."""
        if self._lock is not None:
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
        return content

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one JSON line to log.jsonl; raises TrainingError when the disk refuses."""
        try:
            with (self.path / LOG).open("ab") as stream:
                stream.write(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise TrainingError(f"{self.path / LOG}: {error.strerror}: free some space and resume") from None


def to_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict's tensors, detached, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
