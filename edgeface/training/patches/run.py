"""Several patch trainings one after the other, as one run that can be stopped anywhere and gone on with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import nn

from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, finished, save_checkpoint
from edgeface.training.parts import PartsRun, Say
from edgeface.training.state import RunDirectory


class RunConfig(Protocol):
    """What every run's configuration has: the model, and the threads of torch, 0 for its own number."""

    @property
    def model(self) -> str: ...

    @property
    def threads(self) -> int: ...


class PatchRun(PartsRun):
    """A run of patch nets.

    ``net`` holds the weights that it starts from, and the trained ones afterwards; ``options`` are its builder's. With
    its ``quantisation`` it is a calibrated network, which is then trained with its rounding.
    """

    def __init__(
        self, net: nn.Module, config: RunConfig, options: Mapping[str, Any], parts: Sequence[str], out: Path,
        made: Mapping[str, Any], licence: str, quantisation: Quantisation | None = None,
    ) -> None:
        super().__init__(config.model, parts, out)
        self.net, self.config, self.options = net, config, dict(options)
        self.made, self.licence, self.quantisation = dict(made), licence, quantisation

    def run(self, show: Say = lambda _line: None) -> None:
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        directory = RunDirectory(self.out)
        directory.claim()
        made = {**self.made, "config": msgspec.to_builtins(self.config)}
        try:
            if not self._train_parts(show):
                return
            directory.log({"kind": "done", **made, **self._metrics()})
        finally:
            directory.release()
        state = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        save_checkpoint(
            self.weights,
            self._finished(Checkpoint(self.model, self.options, state, self._metrics(), made, self.licence)),
        )

    def _metrics(self) -> dict[str, Any]:
        """What the checkpoint says of the weights."""
        return dict(self.figures)

    def _finished(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint as it is saved: of a quantised net with its final scales."""
        if self.quantisation is None:
            return checkpoint
        return finished(replace(checkpoint, quantisation=replace(self.quantisation, trained=True)), self.net)

    @abstractmethod
    def _train_parts(self, show: Say) -> bool:
        """Train all parts; False when ``stop`` ended that before."""
