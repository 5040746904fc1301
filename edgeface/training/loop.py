"""The training loop of a dense detector: resumable, on one device or several, with online feedback sampling."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from edgeface.data.detection import Batch, DetectionSet, Draw
from edgeface.errors import TrainingError
from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, save
from edgeface.training.config import Config, plain
from edgeface.training.dense import Objective
from edgeface.training.devices import Place
from edgeface.training.schedule import build_optimiser, done_share, learning_rate
from edgeface.training.state import AveragedWeights, Progress, RunDirectory, to_cpu

LOG_EVERY_STEPS = 50
# Of a run's minutes dev figures may take no more each time.
_MOST_OF_BUDGET = 0.25


@dataclass(frozen=True)
class LookCost:
    """How long a ``Probe`` is foreseen to take, in seconds: for dev figures, and for the set S."""

    dev_s: float = 0.0
    hard_s: float = 0.0


class Probe(Protocol):
    """What looks at the network between epochs, on the leading process."""

    def foreseen(self, net: nn.Module, most_dev_s: float) -> LookCost:
        """How long it takes; from then on dev figures are of so few pictures that they take no more than that."""
        ...

    def dev(self, net: nn.Module) -> dict[str, float]:
        """Figures on the dev parts; ``choose`` among them decides which weights are best."""
        ...

    def hard(self, net: nn.Module, hard: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        """The set S after a test: a mark for every picture of every set, from the marks that it has now."""
        ...


@dataclass(frozen=True)
class StepReport:
    """What a progress line shows: done share 0 to 1, mean losses by task, pictures a second, the last dev figures."""

    step: int
    share: float
    losses: Mapping[str, float]
    pictures_per_s: float
    dev: Mapping[str, float] = field(default_factory=dict)


class StepBatches(Sampler[list[Draw]]):
    """Endless batches from ``start`` on; each step's canvas and samples depend on the seed and the step alone."""

    def __init__(self, config: Config, start: int, rank: int, world: int) -> None:
        self.config, self.start, self.rank, self.world = config, start, rank, world

    def __iter__(self) -> Iterator[list[Draw]]:
        canvases = self.config.canvases
        shares = np.array([c.share for c in canvases])
        most = max(c.batch for c in canvases)
        step = self.start
        while True:
            rng = np.random.default_rng((self.config.run.seed, step, 0))
            canvas = canvases[int(rng.choice(len(canvases), p=shares / shares.sum()))]
            yield [Draw(step * most + i, canvas.size_px) for i in range(self.rank, canvas.batch, self.world)]
            step += 1


class Trainer:
    """Trains one network from a configuration into a run directory; ``run`` goes on where an earlier run stopped."""

    def __init__(
        self, net: nn.Module, objective: Objective, config: Config, dataset: DetectionSet, out: Path, place: Place,
        probe: Probe | None, made: Mapping[str, Any], licence: str, quantisation: Quantisation | None = None,
        began_s: float | None = None,
    ) -> None:
        """``began_s``: ``time.monotonic()`` when the run began to read its data, which counts as its time."""
        self.config, self.place, self.probe = config, place, probe
        self.dataset, self.directory = dataset, RunDirectory(out)
        self.made, self.licence, self.quantisation = dict(made), licence, quantisation
        self.objective = objective.to(place.device)
        self.net = net
        self.memory_format = torch.channels_last if config.run.channels_last else torch.contiguous_format
        net.to(memory_format=self.memory_format)    # type: ignore[call-overload]  # torch types the other overloads alone
        self.optimiser = build_optimiser(self.objective, config.optimiser)
        self.average = AveragedWeights(net, config.optimiser.ema_decay)
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=place.precision == "fp16")
        self.progress = Progress()
        self.dev: dict[str, float] = {}
        self.stop_requested = False
        self._clock = time.monotonic() if began_s is None else began_s
        self._cost = LookCost()

    def resume(self) -> bool:
        """Take up the state of an earlier run in the directory; False when there is none.

        Raises TrainingError when it was made with another network.
        """
        state = self.directory.load_state()
        if state is None:
            return False
        if (state["model"], state["options"]) != (self.config.model, self.config.options):
            raise TrainingError(
                f"{self.directory.path}: holds a run of {state['model']} {state['options']}: choose another --out"
            )
        self.objective.load_state_dict(state["objective"])
        self.average.net.load_state_dict(state["average"])
        self.average.updates = state["average_updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.dataset.feedback.stitch.copy_(state["stitch"])
        for name, hard in state["hard"].items():
            if name in self.dataset.feedback.hard and len(hard) == len(self.dataset.feedback.hard[name]):
                self.dataset.feedback.hard[name].copy_(hard)
        return True

    def _save(self) -> None:
        if not self.place.leads:
            return
        feedback = self.dataset.feedback
        self.directory.save_state({
            "model": self.config.model, "options": self.config.options,
            "objective": to_cpu(self.objective.state_dict()), "average": to_cpu(self.average.net.state_dict()),
            "average_updates": self.average.updates, "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(), "progress": asdict(self.progress),
            "stitch": feedback.stitch.clone(), "hard": {k: v.clone() for k, v in feedback.hard.items()},
        })
        self._save_weights("last")

    def _save_weights(self, name: str) -> None:
        made = {
            **self.made, "config": plain(self.config), "step": self.progress.step,
            "minutes": round(self.progress.spent_s / 60, 1), "precision": self.place.precision,
            "device": self.place.device.type, "processes": self.place.world,
        }
        checkpoint = Checkpoint(
            self.config.model, self.config.options, to_cpu(self.average.net.state_dict()), dict(self.dev), made,
            self.licence, self.quantisation,
        )
        save(self.directory.path / f"{self.config.model}.{name}.pt", checkpoint)

    def run(self, on_step: Callable[[StepReport], None] = lambda _report: None) -> None:
        """Train until the steps are done or, the last dev figures included, the minutes are spent, or until
        ``stop_requested`` is set (state is saved then).

        Raises TrainingError when the loss is no longer a number, and OutputError when the disk refuses.
        """
        if self.place.leads:
            self.directory.claim()
            self.directory.log({"kind": "start", "step": self.progress.step, "config": plain(self.config), **self.made})
        module: nn.Module = self.objective
        if self.place.world > 1:
            ids = [self.place.device] if self.place.device.type == "cuda" else None
            module = DistributedDataParallel(self.objective, device_ids=ids, find_unused_parameters=True)
        batches = StepBatches(self.config, self.progress.step, self.place.rank, self.place.world)
        workers = self.config.data.workers
        # Whoever has used OpenCV before has started its threads. A forked loader has the pool without them, and waits
        # for ever when it gives the pool up; so it is given up here.
        cv2.setNumThreads(1)
        loader = DataLoader(
            self.dataset, batch_sampler=batches, num_workers=workers, collate_fn=self.dataset.collate,
            persistent_workers=False, pin_memory=self.place.device.type == "cuda",
            prefetch_factor=4 if workers else None, worker_init_fn=_start_worker,
        )
        window = _Window(self.objective.tasks)
        saved_at = time.monotonic()
        try:
            self._foresee()
            for batch in loader:
                share = self._share()
                if share >= 1 or self.stop_requested:
                    break
                window.add(*self._step(module, batch, share), len(batch.faces) * self.place.world)
                self.progress.step += 1
                on_step(StepReport(self.progress.step, share, window.losses(), window.rate(), self.dev))
                if self.progress.step % LOG_EVERY_STEPS == 0 and self.place.leads:
                    self.directory.log(self._entry(window, share))
                    window.reset()
                if self.progress.step % self.config.run.epoch_steps == 0:
                    self._between_epochs()
                if time.monotonic() - saved_at > 60 * self.config.run.checkpoint_minutes:
                    self._save()
                    saved_at = time.monotonic()
                self._follow_leader()
            self._save()            # before anything that takes time: who asked to stop may not wait for it
            if not self.stop_requested:
                self._look(renew_hard=False)
                self._save()
        finally:
            self.directory.release()

    def _foresee(self) -> None:
        """What the looks will cost, where the run has a time to end at."""
        minutes = self.config.run.budget_minutes
        if minutes > 0 and self.probe is not None and self.place.leads:
            self._cost = self.probe.foreseen(self.average.net, _MOST_OF_BUDGET * 60 * minutes)
        self._follow_leader()

    def _left_s(self) -> float:
        """Seconds until the run has to end; endless without a budget."""
        minutes = self.config.run.budget_minutes
        return 60 * minutes - self.progress.spent_s if minutes > 0 else math.inf

    def _share(self) -> float:
        """How much of the run is done: the last look belongs to its time."""
        run = self.config.run
        if run.budget_minutes > 0:
            run = replace(run, budget_minutes=max(1e-3, run.budget_minutes - self._cost.dev_s / 60))
        return done_share(self.progress.step, self.progress.spent_s, run)

    def _step(self, module: nn.Module, batch: Batch, share: float) -> tuple[float, Tensor]:
        device = self.place.device
        rate = learning_rate(self.progress.step, share, self.config.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        module.train()
        images = batch.images.to(device, non_blocking=True, memory_format=self.memory_format)
        faces = [f.to(device, non_blocking=True) for f in batch.faces]
        known = [{name: t.to(device, non_blocking=True) for name, t in batch.known.items()}] if batch.known else []
        with self.place.autocast():
            total, losses, boxes = module(images, faces, batch.complete.tolist(), *known)
        if not bool(torch.isfinite(total)):
            raise TrainingError(
                f"the loss is {float(total.detach())} at step {self.progress.step}: "
                "lower optimiser.learning_rate and resume"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.optimiser.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update(self.net)
        self._feed_back(boxes)
        return float(total.detach()), losses

    def _feed_back(self, boxes: Tensor) -> None:
        """Stitch the next crops while small faces give less than T of the box loss (mos.txt, section 3.3)."""
        if self.place.world > 1:
            distributed.all_reduce(boxes)
        small, every = boxes.tolist()
        stitch = every > 0 and small / every < self.config.feedback.stitch_below
        self.dataset.feedback.stitch[0] = int(stitch)
        self.progress.stitched += int(stitch)

    def _follow_leader(self) -> None:
        """Count the time since the last call. All processes take the leader's clock and its wish to stop."""
        now = time.monotonic()
        spent_s, self._clock = self.progress.spent_s + now - self._clock, now
        if self.place.world > 1:
            own = [spent_s, float(self.stop_requested), self._cost.dev_s, self._cost.hard_s]
            shared = torch.tensor(own, dtype=torch.float64, device=self.place.device)
            distributed.broadcast(shared, 0)
            spent_s, self.stop_requested = float(shared[0]), bool(shared[1])
            self._cost = LookCost(float(shared[2]), float(shared[3]))
        self.progress.spent_s = spent_s

    def _entry(self, window: _Window, share: float) -> dict[str, Any]:
        weights = self.objective.weights().detach().tolist()
        return {
            "kind": "train", "step": self.progress.step, "share": round(share, 4),
            "minutes": round(self.progress.spent_s / 60, 2), "learning_rate": self.optimiser.param_groups[0]["lr"],
            "loss": window.total(), "losses": window.losses(),
            "weights": dict(zip(self.objective.tasks, weights, strict=True)),
            "stitched": self.progress.stitched, "pictures_per_s": round(window.rate(), 2),
        }

    def _between_epochs(self) -> None:
        epoch = self.progress.step // self.config.run.epoch_steps
        every = self.config.feedback.every_epochs
        # The last look comes soon, or is all that there is time for.
        spare_s = self._left_s() - 2 * self._cost.dev_s
        if spare_s > 0:
            self._look(renew_hard=bool(every) and epoch % every == 0 and spare_s > self._cost.hard_s)

    def _look(self, renew_hard: bool) -> None:
        """Dev figures and the set S, on the leader."""
        if self.probe is not None and self.place.leads:
            began_s = time.monotonic()
            self.dev = self.probe.dev(self.average.net)
            self._cost = dataclasses.replace(self._cost, dev_s=time.monotonic() - began_s)
            entry = {"kind": "dev", "step": self.progress.step, "minutes": round(self.progress.spent_s / 60, 2)}
            self.directory.log({**entry, **self.dev})
            if self.dev["choose"] > self.progress.best:
                self.progress.best = self.dev["choose"]
                self._save_weights("best")
            if renew_hard:
                self._renew_hard(self.probe)
        if self.place.world > 1:
            for hard in self.dataset.feedback.hard.values():
                shared = hard.to(self.place.device)
                distributed.broadcast(shared, 0)
                hard.copy_(shared.cpu())

    def _renew_hard(self, probe: Probe) -> None:
        hard = self.dataset.feedback.hard
        found = probe.hard(self.average.net, {name: marks.numpy() for name, marks in hard.items()})
        for name, marks in found.items():
            hard[name].copy_(torch.from_numpy(marks))
        counts = {name: int(marks.sum()) for name, marks in found.items()}
        self.directory.log({"kind": "hard", "step": self.progress.step, "pictures": counts})


class _Window:
    """Running means since the last log line, and how fast pictures went by, waiting for the loader included."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self._tasks = tasks
        self.reset()

    def reset(self) -> None:
        self._steps, self._pictures, self._sum, self._losses = 0, 0, 0.0, torch.zeros(len(self._tasks))
        self._began = time.monotonic()

    def add(self, total: float, losses: Tensor, pictures: int) -> None:
        self._steps += 1
        self._pictures += pictures
        self._sum += total
        self._losses += losses.cpu()

    def total(self) -> float:
        return round(self._sum / max(1, self._steps), 4)

    def losses(self) -> dict[str, float]:
        means = (self._losses / max(1, self._steps)).tolist()
        return {task: round(mean, 4) for task, mean in zip(self._tasks, means, strict=True)}

    def rate(self) -> float:
        return self._pictures / max(1e-6, time.monotonic() - self._began)


def _start_worker(_worker: int) -> None:
    # Ctrl-C and a service manager signal the whole group: the loaders go on until the trainer has saved.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
