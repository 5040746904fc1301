"""Several trainings one after the other, as one run that can be stopped anywhere and gone on with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import torch
from torch import nn

from edgeface.bundle import sha256_of
from edgeface.data.pixels import ProgressBar, pixels_directory
from edgeface.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeface.training.config import Config
from edgeface.training.loop import Trainer
from edgeface.training.plots import plot_curves
from edgeface.training.state import STATE, RunDirectory

DETECTOR: Literal["detector"] = "detector"
Say = Callable[[str], None]


class Training(Protocol):
    """A run that can be stopped and gone on with. ``leads``: whether this process writes and speaks."""

    leads: bool

    def going_on(self) -> str | None:
        """Where an earlier run in the folder stopped, in words; None for a new run."""
        ...

    def stop(self) -> None:
        """Save after the step at hand, and end."""
        ...

    def run(self, show: Say) -> None:
        """Train; ``show`` takes a line of progress. Raises TrainingError, DataError and OutputError."""
        ...

    def result(self) -> Iterator[str]:
        """What came out, a line each: the figures, and where the weights are."""
        ...

    @property
    def weights(self) -> Path:
        """The checkpoint that ``edgeface convert`` takes; it is there when a run has ended."""
        ...


class PartsRun(ABC):
    """A run in the folder ``out``, with a folder of each of its ``parts``' names in it."""

    def __init__(self, model: str, parts: Sequence[str], out: Path) -> None:
        self.model, self.parts, self.out = model, tuple(parts), out
        self.leads = True
        self.stop_requested = False
        self.figures: dict[str, Any] = {}
        self._current: Trainer[Any] | Training | None = None

    @property
    def weights(self) -> Path:
        """Where the trained weights go."""
        return self.out / f"{self.model}.best.pt"

    def stop(self) -> None:
        """Save after the step at hand, and end."""
        self.stop_requested = True
        if self._current is not None:
            self._current.stop()

    def going_on(self) -> str | None:
        """The parts that an earlier run has done or begun, in words; None for a new run."""
        return ", ".join(part for part in self.parts if (self.out / part / STATE).exists()) or None

    def result(self) -> Iterator[str]:
        """What came out, a line each, or that it was stopped."""
        for log in sorted(self.out.glob("*/log.jsonl")):
            plot_curves(log.parent)
        if self.stop_requested:
            yield "stopped: the same command goes on"
            return
        yield from self._lines()
        yield f"weights: {self.weights}"

    def _train(self, trainer: Trainer[Any], part: str, show: Say) -> bool:
        """Run one part, whose net then has the best weights; False when ``stop`` ended it before, or had been called
        already."""
        self._current = trainer
        if self.stop_requested or not trainer.run(lambda report: show(f"{part} {report}")):
            return False
        trainer.take_best()
        return True

    @abstractmethod
    def run(self, show: Say = lambda _line: None) -> None:
        """Train part after part, or as far as ``stop`` lets it. Raises as ``Trainer.run``, and DataError."""

    @abstractmethod
    def _lines(self) -> Iterator[str]:
        """The figures, a line each."""


class StagedRun(PartsRun):
    """A detector on whole pictures, whose run is the part "detector", and then, with that frozen, nets on regions.

    ``detector`` makes the detector's run when it is a part; ``start`` is the checkpoint that the others begin with
    where it is none. ``data`` and ``cache`` are folders.
    """

    def __init__(
        self, config: Config, parts: Sequence[str], data: Path, out: Path, cache: Path | None, made: Mapping[str, Any],
        progress: ProgressBar, detector: Callable[[Path], Training], start: Path | None,
    ) -> None:
        super().__init__(config.model, [part for part in parts if part != DETECTOR], out)
        self.config, self._data = config, data
        self._cache, self._made, self._progress = cache or pixels_directory(), dict(made), progress
        self._start = start
        self._detector = detector(out / DETECTOR) if DETECTOR in parts else None
        self._current = self._detector
        self.leads = True if self._detector is None else self._detector.leads

    def going_on(self) -> str | None:
        return super().going_on() or (None if self._detector is None else self._detector.going_on())

    def run(self, show: Say = lambda _line: None) -> None:
        """As ``PartsRun``; raises CheckpointError too, for a detector that cannot be read."""
        started = self._start
        if self._detector is not None:
            self._detector.run(show)
            if self.stop_requested or not self.leads:
                return
            started = self._detector.weights
        assert started is not None
        if self.config.run.threads:
            torch.set_num_threads(self.config.run.threads)
        checkpoint = load_checkpoint(started)
        self.figures = dict(checkpoint.metrics) if checkpoint.model == self.model else {}
        trained = self._train_parts(started, checkpoint, show)
        if trained is None:
            return
        net, options = trained
        made = {**checkpoint.made, **self._made, "config": msgspec.to_builtins(self.config)}
        if self._detector is None:
            made["started_from"] = {"sha256": sha256_of(started), "model": checkpoint.model, "made": checkpoint.made}
        state = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
        save_checkpoint(self.weights, Checkpoint(self.model, options, state, self.figures, made, checkpoint.licence))

    def _train_on(
        self, part: str, show: Say, make: Callable[[RunDirectory], Trainer[Any]], dropped: Sequence[str] = ("choose",)
    ) -> bool:
        """Train the part that ``make`` gives the trainer of, in its folder, into which no other run comes meanwhile;
        False when ``stop`` ended that before. Its figures but for ``dropped`` are the run's."""
        directory = RunDirectory(self.out / part)
        directory.claim()
        try:
            trainer = make(directory)
            if not self._train(trainer, part, show):
                return False
        finally:
            directory.release()
        self.figures |= {name: value for name, value in trainer.figures.items() if name not in dropped}
        return True

    def _lines(self) -> Iterator[str]:
        told = {name: value for name, value in self.figures.items() if isinstance(value, float) and name != "choose"}
        yield ", ".join(f"{name} {value:g}" for name, value in told.items()) or "no dev part to measure on"

    @abstractmethod
    def _train_parts(self, path: Path, checkpoint: Checkpoint, show: Say) -> tuple[nn.Module, dict[str, Any]] | None:
        """Train all parts on the detector of the ``checkpoint`` from ``path``: the whole network and its options, None
        when ``stop`` ended that before. Raises TrainingError for another detector."""
