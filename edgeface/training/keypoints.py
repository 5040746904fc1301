"""The training of MaskFace's keypoint head on regions that were computed once (maskface.txt, section 3.1, eq. 4)."""

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
from edgeface.evaluation.landmarks import nme, nme68
from edgeface.models.keypoints import keypoint_loss
from edgeface.models.maskface import FIVE, MaskFace
from edgeface.models.maskface_export import heatmaps_of
from edgeface.runtime.decode.heatmaps import heatmap_points
from edgeface.runtime.engines import RawMap
from edgeface.training.config import Optimiser
from edgeface.training.keypoint_samples import Drawing, KeypointSamples, batch_of
from edgeface.training.schedule import build_optimiser, done_share, learning_rate
from edgeface.training.state import AveragedWeights, Progress, RunDirectory, to_cpu

LOG_EVERY_STEPS = 50
_DEV_BATCH = 128


class Keypoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the keypoint head is trained, and on what."""

    drawing: Drawing
    optimiser: Optimiser
    steps: int = 6000
    batch: int = 64
    budget_minutes: float = 0.0         # > 0: the schedule ends when so many minutes were spent, whatever the steps
    dev_every_steps: int = 500
    checkpoint_minutes: float = 2.0
    seed: int = 1


class HeadNet(nn.Module):
    """What of a MaskFace is trained on regions: its keypoint head and, in the light pyramid, the 1x1 of the finest map.
    The modules are the network's own."""

    def __init__(self, net: MaskFace) -> None:
        super().__init__()
        self.detail, self.keypoints = net.detail, net.keypoints

    def forward(self, trunk: Tensor, detail: Tensor) -> Tensor:
        """(N, C, 14, 14) and (N, D, 14, 14) -> heatmaps (N, points * 4, 14, 14)."""
        maps: Tensor = self.keypoints(trunk if self.detail is None else trunk + self.detail(detail))
        return maps


class KeypointTrainer:
    """Trains the head of ``net`` on ``samples`` in ``folder``; ``run`` goes on where an earlier run stopped. ``dev``,
    where there is one, chooses the best weights, by their NME."""

    def __init__(
        self, net: MaskFace, points: int, samples: KeypointSamples, dev: KeypointSamples | None, config: Keypoints,
        folder: Path,
    ) -> None:
        self.head, self.points, self.config, self.directory = HeadNet(net), points, config, RunDirectory(folder)
        self._samples, self._dev = samples, dev
        self._average = AveragedWeights(self.head, config.optimiser.ema_decay)
        self._optimiser = build_optimiser(self.head, config.optimiser)
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
            self.head.load_state_dict(state["net"])
            self._average.net.load_state_dict(state["average"])
        except RuntimeError:
            raise TrainingError(
                f"{self.directory.path}: holds a run of another network: choose another --out"
            ) from None
        self._average.updates = state["average_updates"]
        self._optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])
        self.figures, self.done, self._best = state["figures"], state["done"], state["best"]
        if self.done:
            self.head.load_state_dict(self._best)

    def _save(self) -> None:
        self.directory.save_state({
            "net": to_cpu(self.head.state_dict()), "average": to_cpu(self._average.net.state_dict()),
            "average_updates": self._average.updates, "optimiser": self._optimiser.state_dict(),
            "progress": asdict(self.progress), "figures": self.figures, "done": self.done, "best": self._best,
        })

    def run(self, show: Callable[[str], None] = lambda _line: None) -> bool:
        """Train until the steps or minutes are spent; False when ``stop_requested`` ended it before, state saved.

        Afterwards the head holds the best weights. Raises TrainingError when the loss is no longer a number, and
        OutputError when the disk refuses.
        """
        if self.done:
            return True
        self.directory.make()
        self.directory.log({"kind": "samples", "train": len(self._samples), "dev": len(self._dev or ())})
        config, clock = self.config, time.monotonic()
        saved_at, losses = clock, []
        while (share := done_share(self.progress.step, self.progress.spent_s, config)) < 1:
            losses.append(self._step(share))
            self.progress.step += 1
            now = time.monotonic()
            self.progress.spent_s, clock = self.progress.spent_s + now - clock, now
            if self.progress.step % LOG_EVERY_STEPS == 0:
                loss, losses = float(np.mean(losses)), []
                faces_a_minute = 60 * self.progress.step * config.batch / max(1e-9, self.progress.spent_s)
                self.directory.log({"kind": "train", "step": self.progress.step, "loss": loss})
                show(f"{share:6.1%} step {self.progress.step}  keypoints {loss:.3f}  {faces_a_minute:.0f} faces/min  "
                     + " ".join(f"{name} {value:g}" for name, value in self.figures.items()))
            if self.progress.step % config.dev_every_steps == 0:
                self._look()
            if self.stop_requested or now - saved_at > 60 * config.checkpoint_minutes:
                self._save()
                saved_at = now
            if self.stop_requested:
                return False
        if self.progress.step % config.dev_every_steps or not self._best:       # else it was just looked at
            self._look()
        self.done = True
        self._save()
        self.head.load_state_dict(self._best)
        return True

    def _step(self, share: float) -> float:
        config = self.config
        rng = np.random.default_rng((config.seed, self.progress.step))
        rows = rng.choice(len(self._samples), min(config.batch, len(self._samples)), replace=False)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.progress.step, share, config.optimiser)
        self.head.train()
        trunk, detail, points = batch_of(self._samples, np.sort(rows))
        loss = keypoint_loss(self.head(trunk, detail), points)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.progress.step}: lower keypoints.optimiser.learning_rate and resume"
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()     # type: ignore[no-untyped-call]  # torch leaves this one method untyped
        nn.utils.clip_grad_norm_(self.head.parameters(), config.optimiser.clip_norm)
        self._optimiser.step()
        self._average.update(self.head)
        return value

    def _look(self) -> None:
        """Dev figures of the averaged head, which is kept where it is the best yet."""
        best = True
        if self._dev is not None:
            assert isinstance(self._average.net, HeadNet)
            percent = round(100 * float(errors(self._average.net, self._dev, self.points).mean()), 3)
            best = percent < self.figures.get("keypoint_nme_percent", np.inf)
            self.directory.log({"kind": "dev", "step": self.progress.step, "keypoint_nme_percent": percent})
            if best:
                self.figures = {"keypoint_nme_percent": percent}
        if best or not self._best:
            self._best = to_cpu(self._average.net.state_dict())


def errors(head: HeadNet, samples: KeypointSamples, points: int) -> NDArray[np.float64]:
    """The NME (M,) of a head in eval mode on samples, as ``nme`` and ``nme68`` have it, in their own boxes."""
    decode, found = heatmaps_of(points), []
    head.eval()
    for start in range(0, len(samples), _DEV_BATCH):
        rows = np.arange(start, min(start + _DEV_BATCH, len(samples)))
        trunk, detail, _ = batch_of(samples, rows)
        with torch.inference_mode():
            maps = head(trunk, detail)
        found += [heatmap_points(RawMap(each.numpy()), decode) for each in maps]
    size_px = samples.size_px[:, None]
    predicted, truth = np.stack(found) * size_px, samples.points * size_px
    return nme(predicted, truth) if points == FIVE else nme68(predicted, truth)
