"""The training of one patch net on one set of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.freed_memory import keep_freed_memory
from edgeface.models.patch_nets import PatchOutput, normalised
from edgeface.models.patch_units import ConvUnit
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.training.batches import BatchSource
from edgeface.training.config import Count, Optimiser
from edgeface.training.freezing import ALL
from edgeface.training.loop import Schedule, Trainer
from edgeface.training.objective import Losses, Objective
from edgeface.training.patches.losses import Task, Weights, patch_losses
from edgeface.training.patches.samples import Batch, Kind, Mixture, Samples, load_batch
from edgeface.training.probes import PlainProbe
from edgeface.training.state import RunDirectory

_DEV_BATCH = 1024


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one net is trained on one set of samples; ``shares`` are the kinds' parts of a batch (mtcnn.txt, section
    III.A: 3:1:1:2), ``hard_share`` and ``beta`` as ``patch_losses`` takes them."""

    steps: Count
    batch: Count
    shares: dict[Kind, float]
    weights: dict[Task, float]
    optimiser: Optimiser
    hard_share: float = 0.7
    beta: float = 0.0
    colour: float = 0.5
    budget_minutes: float = 0.0         # > 0: the schedule ends when so many minutes were spent, whatever the steps
    checkpoint_minutes: float = 2.0
    dev_every_steps: Count = 1000
    seed: int = 1


class PatchObjective(Objective[Batch]):
    """The losses of ``net``, a patch net or its deployed form with fake quantisation."""

    def __init__(self, net: nn.Module, step: Step) -> None:
        super().__init__(net)
        self._weights, self._hard_share, self._beta = Weights(**step.weights), step.hard_share, step.beta

    def forward(self, batch: Batch) -> Losses:
        output = self.net(normalised(batch.patches, PIXEL_MEAN, PIXEL_SCALE))
        return patch_losses(output, batch, self._weights, self._hard_share, self._beta)

    def weights(self) -> dict[str, float]:
        return asdict(self._weights)

    def after_step(self) -> None:
        for module in self.net.modules():
            if isinstance(module, ConvUnit):
                module.keep_slopes_positive()


class PatchBatches(BatchSource[Batch]):
    """Batches of ``samples``, in the mixture that ``step`` asks for, varied."""

    unit = "patches"

    def __init__(self, samples: Samples, step: Step) -> None:
        self._samples, self._step = samples, step
        self._mixture = Mixture(samples, step.shares, step.batch, step.seed)

    def batches(self, start: int) -> Iterator[Batch]:
        number = start
        while True:
            rng = np.random.default_rng((self._step.seed, number, 1))
            yield load_batch(self._samples, self._mixture.draw(number), rng, self._step.colour)
            number += 1

    def size(self, batch: Batch) -> int:
        return len(batch.patches)

    def counts(self) -> dict[str, int]:
        return self._samples.counts()


def patch_trainer(
    net: nn.Module, samples: Samples, step: Step, folder: Path, *,
    dev: Callable[[nn.Module], dict[str, float]] | None = None, patterns: tuple[str, ...] = ALL,
) -> Trainer[Batch]:
    """The trainer of ``net`` on ``samples`` in a folder of its own, resumed where that holds an earlier run.

    ``dev`` looks at the averaged net and gives figures, of which ``choose`` says which weights are best; without it the
    last weights are. ``patterns`` as of ``Trainer``. Raises TrainingError for samples that cannot be trained on and for
    a run of another network.
    """
    keep_freed_memory()
    trainer = Trainer(
        PatchObjective(_channels_last(net), step), PatchBatches(samples, step),
        Schedule.of(step, f"{folder.name}."), RunDirectory(folder), probe=None if dev is None else PlainProbe(dev),
        patterns=patterns,
    )
    trainer.resume()
    return trainer


def _channels_last(net: nn.Module) -> nn.Module:
    """The net with its weights in the order in which the patches lie, which saves reordering them every step."""
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def predict(net: nn.Module, patches: NDArray[np.uint8]) -> PatchOutput:
    """What ``net``, put into evaluation mode, says of uint8 patches (N, S, S, 3), without gradients."""
    parts = []
    net.eval()
    with torch.inference_mode():
        for start in range(0, max(1, len(patches)), _DEV_BATCH):
            batch = torch.from_numpy(np.array(patches[start : start + _DEV_BATCH]))
            parts.append(net(normalised(batch, PIXEL_MEAN, PIXEL_SCALE)))

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    known = [name for name in ("attributes", "quality") if getattr(parts[0], name) is not None]
    return PatchOutput(joined("score"), joined("box"), joined("landmarks"), **{name: joined(name) for name in known})
