"""The training of one of TFN's nets on regions that were computed once, everything else frozen (tfn.txt, section
IV.C)."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.evaluation.landmarks import nme68
from edgeface.models.maskface_export import heatmaps_of
from edgeface.models.tfn import POINTS
from edgeface.runtime.decode.heatmaps import heatmap_points
from edgeface.runtime.engines import RawMap
from edgeface.training.batches import RandomRows
from edgeface.training.config import Count, Optimiser
from edgeface.training.keypoint_samples import Drawing
from edgeface.training.loop import Schedule, Trainer
from edgeface.training.objective import Losses, Objective, summed
from edgeface.training.probes import PlainProbe
from edgeface.training.region_losses import expected_years, region_losses
from edgeface.training.region_samples import Labels, Proposals, RegionSamples
from edgeface.training.state import RunDirectory

_DEV_BATCH = 128
RegionBatch = tuple[Tensor, dict[str, Tensor]]      # as ``batch_of`` gives it


class RegionTraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How each net on regions is trained, and on what; a net of several tasks has the samples of all of them."""

    landmarks: Drawing
    attributes: Drawing
    proposals: Proposals
    optimiser: Optimiser
    steps: Count = 6000
    batch: Count = 128
    budget_minutes: float = 0.0         # > 0: each net's schedule ends when so many minutes were spent
    dev_every_steps: Count = 250
    checkpoint_minutes: float = 2.0
    seed: int = 1


class RegionObjective(Objective[RegionBatch]):
    """The losses of a net on regions, by the names of its outputs (tfn.txt, eq. 3 to 6)."""

    def forward(self, batch: RegionBatch) -> Losses:
        regions, labels = batch
        return summed(region_losses(self.net(regions), labels))


def region_trainer(
    net: nn.Module, samples: RegionSamples, dev: RegionSamples | None, config: RegionTraining, directory: RunDirectory
) -> Trainer[RegionBatch]:
    """The trainer of ``net``, one on regions, resumed where the directory holds an earlier run. ``dev``, where there is
    one, chooses the best weights, by the sum of their losses; those that it begins with may be from the joint stage,
    and are looked at too."""

    def figures(averaged: nn.Module) -> dict[str, float]:
        assert dev is not None
        loss, found = looked_at(averaged, dev)
        return {"choose": -loss, "loss": loss, **found}

    trainer = Trainer(
        RegionObjective(net),
        RandomRows(len(samples), len(dev or ()), config.batch, config.seed, lambda rows: batch_of(samples, rows)),
        Schedule.of(config, "regions."), directory, probe=None if dev is None else PlainProbe(figures),
        looks_first=True,
    )
    trainer.resume()
    return trainer


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
