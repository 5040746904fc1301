"""The training loop of every network: resumable, on one device or several, for so many steps or minutes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from edgeface.errors import OptionError, TrainingError
from edgeface.training.batches import BatchSource
from edgeface.training.checkpoints import Checkpoints
from edgeface.training.config import Optimiser
from edgeface.training.devices import ALONE, Place
from edgeface.training.freezing import ALL, Trained
from edgeface.training.objective import BatchKind, Losses, Objective
from edgeface.training.probes import LookCost, Probe
from edgeface.training.schedule import Length, build_optimiser, done_share, learning_rate
from edgeface.training.state import AveragedWeights, Progress, RunDirectory, to_cpu

LOG_EVERY_STEPS = 50
# Of a run's minutes dev figures may take no more each time.
_MOST_OF_BUDGET = 0.25


class Settings(Length, Protocol):
    """What the configuration of every training has; ``budget_minutes`` above 0 ends it, whatever the steps."""

    @property
    def checkpoint_minutes(self) -> float: ...

    @property
    def dev_every_steps(self) -> int: ...

    @property
    def optimiser(self) -> Optimiser: ...


@dataclass(frozen=True)
class Schedule:
    """How long a network is trained, and how often it is looked at and saved; ``section`` is where the configuration
    says it, such as ``keypoints.``, for what an error says. Raises OptionError for less than a step."""

    steps: int
    budget_minutes: float
    checkpoint_minutes: float
    dev_every_steps: int
    optimiser: Optimiser
    section: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "dev_every_steps"):
            if getattr(self, name) < 1:
                raise OptionError(f"{self.section}{name} must be 1 or more, not {getattr(self, name)}")

    @classmethod
    def of(cls, settings: Settings, section: str) -> Schedule:
        """That of a part of a configuration."""
        return cls(
            settings.steps, settings.budget_minutes, settings.checkpoint_minutes, settings.dev_every_steps,
            settings.optimiser, section,
        )


@dataclass(frozen=True)
class StepReport:
    """What a progress line shows: done share 0 to 1, mean losses by task, samples a second, the last dev figures."""

    step: int
    share: float
    losses: Mapping[str, float]
    unit: str
    per_s: float
    dev: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        losses = " ".join(f"{task} {value:.3f}" for task, value in self.losses.items())
        dev = " ".join(f"{name} {value:g}" for name, value in self.dev.items() if name != "choose")
        return f"{self.share:6.1%} step {self.step}  {losses}  {self.per_s:.0f} {self.unit}/s  {dev}"


class Trainer(Generic[BatchKind]):
    """Trains what ``patterns`` name of an objective's network; ``run`` goes on where an earlier run stopped.

    ``probe`` looks at the averaged weights, and the best are kept; without one the last weights are. ``checkpoints``
    writes them to files as well. With ``looks_first`` the weights that a new run begins with may be the best. ``about``
    goes into the log. ``identity`` names the network in the state, where its layers' shapes do not. ``began_s``:
    ``time.monotonic()`` when the run began to read its data, which counts as its time.
    """

    def __init__(
        self, objective: Objective[BatchKind], source: BatchSource[BatchKind], schedule: Schedule,
        directory: RunDirectory, *, probe: Probe | None = None, patterns: tuple[str, ...] = ALL, place: Place = ALONE,
        checkpoints: Checkpoints | None = None, looks_first: bool = False, about: Mapping[str, Any] | None = None,
        identity: Mapping[str, Any] | None = None, began_s: float | None = None,
    ) -> None:
        self.schedule, self.source, self.directory, self.place = schedule, source, directory, place
        self.probe, self.checkpoints, self._looks_first = probe, checkpoints, looks_first
        self.objective, self.net = objective.to(place.device), objective.net
        self._trained = Trained(self.net, patterns)
        self.optimiser = build_optimiser(objective, schedule.optimiser)
        self.average = AveragedWeights(self.net, schedule.optimiser.ema_decay)
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=place.precision == "fp16")
        self.progress = Progress()
        self.dev: dict[str, float] = {}         # the last dev figures
        self.figures: dict[str, float] = {}     # those of the best weights
        self.done = False
        self.stop_requested = False
        self._best: dict[str, Tensor] = {}
        self._about, self._identity = dict(about or {}), dict(identity or {})
        self._clock = time.monotonic() if began_s is None else began_s
        self._cost = LookCost()

    def resume(self) -> bool:
        """Take up the state of an earlier run in the directory; False when there is none.

        A run that had ended is done, but goes on where its steps or minutes are others now. Raises TrainingError when
        it was made with another network or optimiser.
        """
        state = self.directory.load_state()
        if state is None:
            return False
        if any(state[name] != value for name, value in self._identity.items()):
            raise TrainingError(
                f"{self.directory.path}: holds a run of {state['model']} {state['options']}: choose another --out"
            )
        try:
            self.objective.load_state_dict(state["objective"])
            self.average.net.load_state_dict(state["average"])
        except RuntimeError:
            raise TrainingError(
                f"{self.directory.path}: holds a run of another network: choose another --out"
            ) from None
        self.average.updates = state["average_updates"]
        self._load_optimiser(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.figures, self.dev, self._best = state["figures"], state["dev"], state["best"]
        self.done = state["done"] and state.get("length", self._length()) == self._length()
        self.source.load_state(state)
        return True

    def _load_optimiser(self, state: dict[str, Any]) -> None:
        own = self.optimiser.state_dict()
        kinds = [[("betas" in group, len(group["params"])) for group in each["param_groups"]] for each in (state, own)]
        if kinds[0] != kinds[1]:
            section = self.schedule.section
            raise TrainingError(
                f"{self.directory.path}: holds a run with another {section}optimiser.name, or with other parts of the "
                "network frozen: set them as they were, or choose another --out"
            )
        self.optimiser.load_state_dict(state)

    def _length(self) -> list[float]:
        return [self.schedule.steps, self.schedule.budget_minutes]

    def _save(self) -> None:
        if not self.place.leads:
            return
        self.directory.save_state({
            **self._identity, "objective": to_cpu(self.objective.state_dict()),
            "average": to_cpu(self.average.net.state_dict()), "average_updates": self.average.updates,
            "optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress), "figures": self.figures, "dev": self.dev, "best": self._best,
            "done": self.done, "length": self._length(), **self.source.state(),
        })
        self._write("last")

    def _write(self, name: str) -> None:
        if self.checkpoints is not None:
            self.checkpoints.write(name, self.average.net, self.dev, self.progress, self.place)

    def stop(self) -> None:
        """Save after the step at hand, and end."""
        self.stop_requested = True

    def take_best(self) -> None:
        """Give the network the best weights, those that were looked at or else the last ones."""
        self._trained.release()
        self.net.load_state_dict(self._best or self.average.net.state_dict())

    def run(self, on_step: Callable[[StepReport], None] = lambda _report: None) -> bool:
        """Train until the steps are done or, the last dev figures included, the minutes are spent; False when
        ``stop_requested`` ended it before, state saved.

        Raises TrainingError when the loss is no longer a number, and OutputError when the disk refuses.
        """
        if self.done:
            return True
        if self.place.leads:
            self.directory.claim()
        try:
            self._log({"kind": "start", "step": self.progress.step, **self._about})
            counts = self.source.counts()
            if counts:
                self._log({"kind": "samples", **counts})
            self._foresee()
            if self._looks_first and not self.progress.step:
                self._look()
            self._train(on_step)
            self._save()            # before anything that takes time: who asked to stop may not wait for it
            if self.stop_requested:
                return False
            if self.progress.looked != self.progress.step:
                self._look()
            self.done = True
            self._save()
        finally:
            self.directory.release()
        return True

    def _train(self, on_step: Callable[[StepReport], None]) -> None:
        module: nn.Module = self.objective
        if self.place.world > 1:
            ids = [self.place.device] if self.place.device.type == "cuda" else None
            module = DistributedDataParallel(self.objective, device_ids=ids, find_unused_parameters=True)
        window, unit = _Window(), self.source.unit
        saved_at = time.monotonic()
        share = 0.0
        for batch in self.source.batches(self.progress.step):
            share = self._share()
            if share >= 1 or self.stop_requested:
                break
            window.add(self._step(module, batch, share), self.source.size(batch) * self.place.world)
            self.progress.step += 1
            on_step(StepReport(self.progress.step, share, window.losses(), unit, window.rate(), self.dev))
            if self.progress.step % LOG_EVERY_STEPS == 0:
                self._log(self._entry(window, share))
                window = _Window()
            if self.progress.step % self.schedule.dev_every_steps == 0:
                began_s = time.monotonic()
                self._look_between()
                window.leave_out(time.monotonic() - began_s)
            if time.monotonic() - saved_at > 60 * self.schedule.checkpoint_minutes:
                self._save()
                saved_at = time.monotonic()
            self._follow_leader()
        if self.progress.step % LOG_EVERY_STEPS and window.steps:
            self._log(self._entry(window, share))

    def _foresee(self) -> None:
        """What the looks will cost, where the run has a time to end at."""
        minutes = self.schedule.budget_minutes
        if minutes > 0 and self.probe is not None and self.place.leads:
            self._cost = self.probe.foreseen(self.average.net, _MOST_OF_BUDGET * 60 * minutes)
        self._follow_leader()

    def _left_s(self) -> float:
        """Seconds until the run has to end; endless without a budget."""
        minutes = self.schedule.budget_minutes
        return 60 * minutes - self.progress.spent_s if minutes > 0 else math.inf

    def _share(self) -> float:
        """How much of the run is done: the last look belongs to its time."""
        schedule = self.schedule
        if schedule.budget_minutes > 0:
            minutes = max(1e-3, schedule.budget_minutes - self._cost.dev_s / 60)
            schedule = dataclasses.replace(schedule, budget_minutes=minutes)
        return done_share(self.progress.step, self.progress.spent_s, schedule)

    def _step(self, module: nn.Module, batch: BatchKind, share: float) -> Losses:
        optimiser = self.schedule.optimiser
        rate = learning_rate(self.progress.step, share, optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self._trained.training_mode()
        with self.place.autocast():
            losses: Losses = module(batch)
        if not bool(torch.isfinite(losses.total)):
            raise TrainingError(
                f"{self.directory.path}: the loss is {float(losses.total.detach())} at step {self.progress.step}: "
                f"lower {self.schedule.section}optimiser.learning_rate and resume"
            )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(losses.total))
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.objective.parameters(), optimiser.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.objective.after_step()
        self.average.update(self.net)
        self.source.feed_back(losses.feedback)
        return losses

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

    def _log(self, entry: Mapping[str, Any]) -> None:
        if self.place.leads:
            self.directory.log(entry)

    def _where(self) -> dict[str, Any]:
        return {"step": self.progress.step, "minutes": round(self.progress.spent_s / 60, 2)}

    def _entry(self, window: _Window, share: float) -> dict[str, Any]:
        return {
            "kind": "train", **self._where(), "share": round(share, 4),
            "learning_rate": self.optimiser.param_groups[0]["lr"], "loss": window.total(), "losses": window.losses(),
            "weights": self.objective.weights(), **self.source.entry(),
            f"{self.source.unit}_per_s": round(window.rate(), 2),
        }

    def _look_between(self) -> None:
        # The last look comes soon, or is all that there is time for.
        spare_s = self._left_s() - 2 * self._cost.dev_s
        if spare_s > 0:
            self._look()
            looked = self.progress.step // self.schedule.dev_every_steps
            renewed = self.source.renew(self.average.net, looked, spare_s > self._cost.hard_s)
            if renewed:
                self._log({"kind": "hard", "step": self.progress.step, **renewed})

    def _look(self) -> None:
        """Dev figures, on the leader; the weights are kept where they are the best yet, of equal ones the later."""
        self.progress.looked = self.progress.step
        if not self.place.leads:
            return
        if self.probe is not None:
            began_s = time.monotonic()
            self.dev = self.probe.dev(self.average.net.eval())
            self._cost = dataclasses.replace(self._cost, dev_s=time.monotonic() - began_s)
            self._log({"kind": "dev", **self._where(), **self.dev})
        chosen = self.dev.get("choose", 0.0)
        if chosen >= self.progress.best:
            self.progress.best, self.figures = chosen, self.dev
            self._best = {name: tensor.clone() for name, tensor in to_cpu(self.average.net.state_dict()).items()}
            if self.probe is not None:
                self._write("best")


class _Window:
    """Running means since the last log line, and how fast samples went by, waiting for them included."""

    def __init__(self) -> None:
        self.steps, self._samples, self._sum = 0, 0, 0.0
        self._losses: dict[str, float] = {}
        self._began = time.monotonic()

    def add(self, losses: Losses, samples: int) -> None:
        self.steps += 1
        self._samples += samples
        self._sum += float(losses.total.detach())
        for task, loss in zip(losses.tasks, torch.stack(list(losses.tasks.values())).tolist(), strict=True):
            self._losses[task] = self._losses.get(task, 0.0) + loss

    def leave_out(self, seconds: float) -> None:
        """Time that was no training."""
        self._began += seconds

    def total(self) -> float:
        return round(self._sum / max(1, self.steps), 4)

    def losses(self) -> dict[str, float]:
        return {task: round(loss / max(1, self.steps), 4) for task, loss in self._losses.items()}

    def rate(self) -> float:
        return self._samples / max(1e-6, time.monotonic() - self._began)
