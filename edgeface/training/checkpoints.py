"""The checkpoints that a detector's run writes while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, save_checkpoint
from edgeface.training.config import Config, plain
from edgeface.training.devices import Place
from edgeface.training.state import Progress, to_cpu


@dataclass(frozen=True)
class Checkpoints:
    """``MODEL.last.pt`` and ``MODEL.best.pt`` in ``folder``, with how they were ``made``."""

    folder: Path
    config: Config
    made: Mapping[str, Any]
    licence: str
    quantisation: Quantisation | None = None

    def path(self, name: str) -> Path:
        """Where "last" or "best" is."""
        return self.folder / f"{self.config.model}.{name}.pt"

    def write(
        self, name: str, net: nn.Module, figures: Mapping[str, float], progress: Progress, place: Place
    ) -> None:
        """Replace the checkpoint ``name``; raises OutputError and leaves the old one when the disk refuses."""
        made = {
            **self.made, "config": plain(self.config), "step": progress.step,
            "minutes": round(progress.spent_s / 60, 1), "precision": place.precision, "device": place.device.type,
            "processes": place.world,
        }
        save_checkpoint(self.path(name), Checkpoint(
            self.config.model, self.config.options, to_cpu(net.state_dict()), dict(figures), made, self.licence,
            self.quantisation,
        ))
