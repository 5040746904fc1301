"""Several patch trainings one after the other, as one run that can be stopped anywhere and gone on with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import nn

from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, finished, save
from edgeface.training.patches.loop import PatchTrainer
from edgeface.training.state import STATE, RunDirectory

Say = Callable[[str], None]


class RunConfig(Protocol):
    """What every run's configuration has: the model, and the threads of torch, 0 for its own number."""

    @property
    def model(self) -> str: ...

    @property
    def threads(self) -> int: ...


class PatchRun(ABC):
    """A run in the folder ``out``, with a folder of each of its ``parts``' names in it.

    ``net`` holds the weights that it starts from, and the trained ones afterwards; ``options`` are its builder's. With
    its ``quantisation`` it is a calibrated network, which is then trained with its rounding.
    """

    def __init__(
        self, net: nn.Module, config: RunConfig, options: Mapping[str, Any], parts: Sequence[str], out: Path,
        made: Mapping[str, Any], licence: str, quantisation: Quantisation | None = None,
    ) -> None:
        self.net, self.config, self.out = net, config, out
        self.options, self.parts = dict(options), tuple(parts)
        self.made, self.licence, self.quantisation = dict(made), licence, quantisation
        self.leads = True
        self.stop_requested = False
        self.figures: dict[str, float] = {}
        self._current: PatchTrainer | None = None

    @property
    def weights(self) -> Path:
        """Where the trained weights go."""
        return self.out / f"{self.config.model}.best.pt"

    def stop(self) -> None:
        """Save after the step at hand, and end."""
        self.stop_requested = True
        if self._current is not None:
            self._current.stop_requested = True

    def going_on(self) -> str | None:
        """The parts that an earlier run has done or begun, in words; None for a new run."""
        return ", ".join(part for part in self.parts if (self.out / part / STATE).exists()) or None

    def result(self) -> Iterator[str]:
        """What came out, a line each, or that it was stopped."""
        if self.stop_requested:
            yield "stopped: the same command goes on"
            return
        yield from self._lines()
        yield f"weights: {self.weights}"

    def run(self, show: Say = lambda _line: None) -> None:
        """Train part after part, or as far as ``stop`` lets it. Raises as ``PatchTrainer.run``, and DataError."""
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
        save(
            self.weights,
            self._finished(
                Checkpoint(self.config.model, self.options, state, self._metrics(), made, self.licence)
            ),
        )

    def _train(self, trainer: PatchTrainer, part: str, show: Say) -> bool:
        """Run one part; False when ``stop`` ended it before, or had been called already."""
        self._current = trainer
        return not self.stop_requested and trainer.run(lambda report: show(f"{part} {report}"))

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

    @abstractmethod
    def _lines(self) -> Iterator[str]:
        """The figures, a line each."""
