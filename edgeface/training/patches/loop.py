"""The training loop of one patch net on one set of samples: resumable, with an averaged net as its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.errors import TrainingError
from edgeface.freed_memory import keep_freed_memory
from edgeface.models.patch_nets import PatchOutput, normalised
from edgeface.models.patch_units import ConvUnit
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.training.config import Optimiser
from edgeface.training.patches.losses import Weights, patch_losses
from edgeface.training.patches.samples import Batches, Samples, load_batch
from edgeface.training.schedule import build_optimiser, done_share, learning_rate
from edgeface.training.state import AveragedWeights, Progress, RunDirectory, to_cpu

_DEV_BATCH = 1024
LOG_EVERY_STEPS = 100


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one net is trained on one set of samples; ``shares`` are the kinds' parts of a batch (mtcnn.txt, section
    III.A: 3:1:1:2), ``hard_share`` and ``beta`` as ``patch_losses`` takes them."""

    steps: int
    batch: int
    shares: dict[str, float]
    weights: dict[str, float]
    optimiser: Optimiser
    hard_share: float = 0.7
    beta: float = 0.0
    colour: float = 0.5
    budget_minutes: float = 0.0         # > 0: the schedule ends when so many minutes were spent, whatever the steps
    checkpoint_minutes: float = 2.0
    dev_every_steps: int = 1000
    seed: int = 1


class Net(Protocol):
    """A patch net, or its deployed form with fake quantisation."""

    def __call__(self, x: Tensor) -> PatchOutput:
        """Normalised BGR patches (N, 3, S, S) -> PatchOutput."""
        ...


@dataclass(frozen=True)
class PatchReport:
    """What a progress line shows: the step, the done share 0 to 1, mean losses by task since the last report."""

    step: int
    share: float
    losses: Mapping[str, float]
    patches_per_s: float

    def __str__(self) -> str:
        losses = " ".join(f"{task} {value:.3f}" for task, value in self.losses.items() if value)
        return f"{self.share:6.1%} step {self.step}  {losses}  {self.patches_per_s:.0f} patches/s"


class PatchTrainer:
    """Trains ``net`` on ``samples`` in a folder of its own; ``run`` goes on where an earlier run stopped.

    ``dev`` looks at the averaged net and gives figures, of which ``choose`` says which weights are best; without it the
    last weights are. ``trainable`` narrows what is trained; other modules then stay in evaluation mode, so that their
    batch norms keep their statistics too.
    """

    def __init__(
        self,
        net: nn.Module,
        samples: Samples,
        config: Step,
        folder: Path,
        *,
        dev: Callable[[nn.Module], dict[str, float]] | None = None,
        trainable: nn.Module | None = None,
    ) -> None:
        self.net, self.config, self.directory = _channels_last(net), config, RunDirectory(folder)
        self.samples, self.dev = samples, dev
        self._trainable = net if trainable is None else trainable
        self.average = AveragedWeights(net, config.optimiser.ema_decay)
        self._optimiser = build_optimiser(self._trainable, config.optimiser)
        self.progress = Progress()
        self.figures: dict[str, float] = {}
        self.done = False
        self.stop_requested = False
        self._best: dict[str, Tensor] = {}
        self._resume()

    def _resume(self) -> None:
        state = self.directory.load_state()
        if state is None:
            return
        try:
            self.net.load_state_dict(state["net"])
            self.average.net.load_state_dict(state["average"])
        except RuntimeError:
            raise TrainingError(
                f"{self.directory.path}: holds a run of another network: choose another --out"
            ) from None
        self.average.updates = state["average_updates"]
        self._optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])
        self.figures, self.done, self._best = state["figures"], state["done"], state["best"]

    def _save(self) -> None:
        self.directory.save_state({
            "net": to_cpu(self.net.state_dict()), "average": to_cpu(self.average.net.state_dict()),
            "average_updates": self.average.updates, "optimiser": self._optimiser.state_dict(),
            "progress": asdict(self.progress), "figures": self.figures, "done": self.done, "best": self._best,
        })

    def run(self, on_step: Callable[[PatchReport], None] = lambda _report: None) -> bool:
        """Train until the steps or minutes are spent; False when ``stop_requested`` ended it before, state saved.

        Afterwards the net holds the best weights. Raises TrainingError when the loss is no longer a number, and
        OutputError when the disk refuses.
        """
        keep_freed_memory()
        self.directory.make()
        self.directory.log({"kind": "samples", **self.samples.counts()})
        config = self.config
        batches = Batches(self.samples, config.shares, config.batch, config.seed)
        clock = saved_at = time.monotonic()
        sums: dict[str, float] = {}
        seen = 0
        began = clock
        while not self.done and not self.stop_requested:
            share = done_share(self.progress.step, self.progress.spent_s, config)
            if share >= 1:
                self._look()
                self.done = True
                break
            for task, loss in self._step(batches, share).items():
                sums[task] = sums.get(task, 0.0) + loss
            seen += config.batch
            self.progress.step += 1
            now = time.monotonic()
            self.progress.spent_s, clock = self.progress.spent_s + now - clock, now
            if self.progress.step % LOG_EVERY_STEPS == 0:
                means = {task: round(loss / LOG_EVERY_STEPS, 5) for task, loss in sums.items()}
                report = PatchReport(self.progress.step, share, means, seen / max(1e-6, now - began))
                on_step(report)
                self.directory.log({"kind": "train", "minutes": round(self.progress.spent_s / 60, 2), **asdict(report)})
                sums, seen, began = {}, 0, now
            if self.progress.step % config.dev_every_steps == 0:
                self._look()        # which counts as time of the run
                began = time.monotonic()
            if now - saved_at > 60 * config.checkpoint_minutes:
                self._save()
                saved_at = now
        self._save()
        if self.done:
            self.net.load_state_dict(self._best)
        return self.done

    def _step(self, batches: Batches, share: float) -> dict[str, float]:
        config, step = self.config, self.progress.step
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(step, share, config.optimiser)
        self.net.eval()
        self._trainable.train()
        rng = np.random.default_rng((config.seed, step, 1))
        batch = load_batch(batches.samples, batches.draw(step), rng, config.colour)
        output = self.net(normalised(batch.patches, PIXEL_MEAN, PIXEL_SCALE))
        losses = patch_losses(output, batch, Weights(**config.weights), config.hard_share, config.beta)
        if not bool(torch.isfinite(losses.total)):
            raise TrainingError(
                f"{self.directory.path}: the loss is {float(losses.total.detach())} at step {step}: "
                "lower optimiser.learning_rate and resume"
            )
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        nn.utils.clip_grad_norm_(self._trainable.parameters(), config.optimiser.clip_norm)
        self._optimiser.step()
        for module in self.net.modules():
            if isinstance(module, ConvUnit):
                module.keep_slopes_positive()
        self.average.update(self.net)
        return {task: float(loss) for task, loss in losses.by_task.items()}

    def _look(self) -> None:
        """Figures of the averaged net; it is kept when they are the best so far."""
        chosen = 0.0
        if self.dev is not None:
            self.figures = self.dev(self.average.net.eval())
            chosen = self.figures["choose"]
            self.directory.log({"kind": "dev", "step": self.progress.step, **self.figures})
        if self.dev is None or chosen >= self.progress.best or not self._best:
            self.progress.best = chosen
            self._best = {name: tensor.clone() for name, tensor in to_cpu(self.average.net.state_dict()).items()}


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
