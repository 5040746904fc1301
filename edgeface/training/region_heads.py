"""The training of one of TFN's nets on regions that were computed once, everything else frozen (tfn.txt, section
IV.C)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.errors import TrainingError
from edgeface.evaluation.landmarks import nme68
from edgeface.models.maskface_export import heatmaps_of
from edgeface.models.tfn import POINTS
from edgeface.runtime.decode.heatmaps import heatmap_points
from edgeface.runtime.engines import RawMap
from edgeface.training.config import Optimiser
from edgeface.training.keypoint_samples import Drawing
from edgeface.training.region_losses import expected_years, region_losses
from edgeface.training.region_samples import Labels, Proposals, RegionSamples
from edgeface.training.schedule import build_optimiser, done_share, learning_rate
from edgeface.training.state import AveragedWeights, Progress, RunDirectory, to_cpu

LOG_EVERY_STEPS = 50
_DEV_BATCH = 128
Show = Callable[[str], None]


class RegionTraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How each net on regions is trained, and on what; a net of several tasks has the samples of all of them."""

    landmarks: Drawing
    attributes: Drawing
    proposals: Proposals
    optimiser: Optimiser
    steps: int = 6000
    batch: int = 128
    budget_minutes: float = 0.0         # > 0: each net's schedule ends when so many minutes were spent
    dev_every_steps: int = 250
    checkpoint_minutes: float = 2.0
    seed: int = 1


class RegionTrainer:
    """Trains ``net``, one on regions, in ``folder``; ``run`` goes on where an earlier run stopped. ``dev``, where there
    is one, chooses the best weights, by the sum of their losses."""

    def __init__(
        self, name: str, net: nn.Module, samples: RegionSamples, dev: RegionSamples | None, config: RegionTraining,
        folder: Path,
    ) -> None:
        self.name, self.net, self.config, self.directory = name, net, config, RunDirectory(folder)
        self._samples, self._dev = samples, dev
        self._average = AveragedWeights(net, config.optimiser.ema_decay)
        self._optimiser = build_optimiser(net, config.optimiser)
        self.progress = Progress()
        self.figures: dict[str, float] = {}
        self.done = False
        self.stop_requested = False
        self._least = np.inf
        self._best: dict[str, Tensor] = {}
        self._resume()

    def _resume(self) -> None:
        state = self.directory.load_state()
        if state is None:
            return
        try:
            self.net.load_state_dict(state["net"])
            self._average.net.load_state_dict(state["average"])
        except RuntimeError:
            raise TrainingError(
                f"{self.directory.path}: holds a run of another network: choose another --out"
            ) from None
        self._average.updates = state["average_updates"]
        self._optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])
        self.figures, self.done, self._best = state["figures"], state["done"], state["best"]
        self._least = state["least"]
        if self.done:
            self.net.load_state_dict(self._best)

    def _save(self) -> None:
        self.directory.save_state({
            "net": to_cpu(self.net.state_dict()), "average": to_cpu(self._average.net.state_dict()),
            "average_updates": self._average.updates, "optimiser": self._optimiser.state_dict(),
            "progress": asdict(self.progress), "figures": self.figures, "done": self.done, "best": self._best,
            "least": float(self._least),
        })

    def run(self, show: Show = lambda _line: None) -> bool:
        """Train until the steps or minutes are spent; False when ``stop_requested`` ended it before, state saved.

        Afterwards the net holds the best weights. Raises TrainingError when the loss is no longer a number, and
        OutputError when the disk refuses.
        """
        if self.done:
            return True
        self.directory.make()
        self.directory.log({"kind": "samples", "train": len(self._samples), "dev": len(self._dev or ())})
        if self.progress.step == 0:
            self._look()                # a net that has learned in the joint stage may be the best there is
        config, clock = self.config, time.monotonic()
        saved_at, losses = clock, []
        while (share := done_share(self.progress.step, self.progress.spent_s, config)) < 1:
            losses.append(self._step(share))
            self.progress.step += 1
            now = time.monotonic()
            self.progress.spent_s, clock = self.progress.spent_s + now - clock, now
            if self.progress.step % LOG_EVERY_STEPS == 0:
                means = {name: float(np.mean([each[name] for each in losses])) for name in losses[0]}
                losses = []
                self.directory.log({"kind": "train", "step": self.progress.step, **means})
                told = " ".join(f"{name} {value:.3f}" for name, value in means.items())
                dev = " ".join(f"{name} {value:g}" for name, value in self.figures.items())
                show(f"{self.name} {share:6.1%} step {self.progress.step}  {told}  {dev}")
            if self.progress.step % config.dev_every_steps == 0:
                self._look()
            if self.stop_requested or now - saved_at > 60 * config.checkpoint_minutes:
                self._save()
                saved_at = now
            if self.stop_requested:
                return False
        self._look()
        self.done = True
        self._save()
        self.net.load_state_dict(self._best)
        return True

    def _step(self, share: float) -> dict[str, float]:
        config = self.config
        rng = np.random.default_rng((config.seed, self.progress.step))
        rows = np.sort(rng.choice(len(self._samples), min(config.batch, len(self._samples)), replace=False))
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.progress.step, share, config.optimiser)
        self.net.train()
        regions, labels = batch_of(self._samples, rows)
        losses = region_losses(self.net(regions), labels)
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of {self.name} is {float(loss)} at step {self.progress.step}: lower "
                "regions.optimiser.learning_rate and resume"
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()     # type: ignore[no-untyped-call]  # torch leaves this one method untyped
        nn.utils.clip_grad_norm_(self.net.parameters(), config.optimiser.clip_norm)
        self._optimiser.step()
        self._average.update(self.net)
        return {name: float(each.detach()) for name, each in losses.items()}

    def _look(self) -> None:
        """Dev figures of the averaged net, which is kept where it is the best yet."""
        best = True
        if self._dev is not None:
            loss, figures = looked_at(self._average.net, self._dev)
            best = loss < self._least
            self.directory.log({"kind": "dev", "step": self.progress.step, "loss": loss, **figures})
            if best:
                self._least, self.figures = loss, figures
        if best or not self._best:
            self._best = to_cpu(self._average.net.state_dict())


def batch_of(samples: RegionSamples, rows: NDArray[np.int64]) -> tuple[Tensor, dict[str, Tensor]]:
    """Regions (B, C, S, S) float32 and what is known of them."""
    return torch.from_numpy(np.array(samples.regions[rows])).float(), samples.labels.rows(rows)


def looked_at(net: nn.Module, samples: RegionSamples) -> tuple[float, dict[str, float]]:
    """The sum of a net's losses on samples in eval mode, and its figures for people, in the samples' own boxes."""
    net.eval()
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(samples), _DEV_BATCH):
        with torch.inference_mode():
            parts.append(net(batch_of(samples, np.arange(start, min(start + _DEV_BATCH, len(samples))))[0]))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    labels = samples.labels.rows(np.arange(len(samples)))
    loss = float(torch.stack(list(region_losses(found, labels).values())).sum())
    return loss, {name: round(value, 4) for name, value in _figures(found, samples.labels, samples.size_px).items()}


def _figures(found: dict[str, Tensor], labels: Labels, size_px: NDArray[np.float32]) -> dict[str, float]:
    figures: dict[str, float] = {}
    known = np.isfinite(labels.points).all((1, 2))
    points: NDArray[np.float32] | None = None
    if "landmarks" in found and known.any():
        points = found["landmarks"][:, :, 0, 0].numpy().reshape(-1, POINTS, 2)[known] + np.float32(0.5)
    elif "heatmaps" in found and known.any():
        maps = found["heatmaps"].numpy()[known]
        points = np.stack([heatmap_points(RawMap(each), heatmaps_of(POINTS)) for each in maps])
    if points is not None:
        unit = size_px[known][:, None]
        figures["nme68_percent"] = 100 * float(nme68(points * unit, labels.points[known] * unit).mean())
    for name in ("gender", "ethnicity"):
        truth = getattr(labels, name)
        if name in found and np.isfinite(truth).any():
            right = found[name][:, :, 0, 0].argmax(1).numpy() == truth
            figures[f"{name}_accuracy"] = float(right[np.isfinite(truth)].mean())
    exact = labels.age[:, 0] == labels.age[:, 1]
    if "age" in found and exact.any():
        years = expected_years(found["age"][:, :, 0, 0]).numpy()
        figures["age_error_years"] = float(np.abs(years - labels.age[:, 0])[exact].mean())
    judged = np.isfinite(labels.score)
    if "score" in found and judged.any():
        said, face = found["score"][:, 0, 0, 0].numpy()[judged] > 0, labels.score[judged] > 0
        shares = [float((said == face)[face == each].mean()) for each in (True, False) if (face == each).any()]
        figures["face_accuracy"] = float(np.mean(shares))
    boxed = np.isfinite(labels.box).all(1)
    if "box" in found and boxed.any():
        figures["edge_error_percent"] = 100 * float(
            np.abs(found["box"][:, :, 0, 0].numpy()[boxed] - labels.box[boxed]).mean()
        )
    return figures
