"""The training of MaskFace's keypoint head on regions that were computed once (maskface.txt, section 3.1, eq. 4)."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.evaluation.landmarks import nme, nme68
from edgeface.models.keypoints import keypoint_loss
from edgeface.models.maskface import FIVE, MaskFace
from edgeface.models.maskface_export import heatmaps_of
from edgeface.runtime.decode.heatmaps import heatmap_points
from edgeface.runtime.engines import RawMap
from edgeface.training.batches import RandomRows
from edgeface.training.config import Count, Optimiser
from edgeface.training.keypoint_samples import Drawing, KeypointSamples, batch_of
from edgeface.training.loop import Schedule, Trainer
from edgeface.training.objective import Losses, Objective, summed
from edgeface.training.probes import PlainProbe
from edgeface.training.state import RunDirectory

_DEV_BATCH = 128
KeypointBatch = tuple[Tensor, Tensor, Tensor]       # as ``batch_of`` gives it


class Keypoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the keypoint head is trained, and on what."""

    drawing: Drawing
    optimiser: Optimiser
    steps: Count = 6000
    batch: Count = 64
    budget_minutes: float = 0.0         # > 0: the schedule ends when so many minutes were spent, whatever the steps
    dev_every_steps: Count = 500
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


class KeypointObjective(Objective[KeypointBatch]):
    """The loss of a head's heatmaps (maskface.txt, eq. 4)."""

    def forward(self, batch: KeypointBatch) -> Losses:
        trunk, detail, points = batch
        return summed({"keypoints": keypoint_loss(self.net(trunk, detail), points)})


def keypoint_trainer(
    net: MaskFace, points: int, samples: KeypointSamples, dev: KeypointSamples | None, config: Keypoints,
    directory: RunDirectory,
) -> Trainer[KeypointBatch]:
    """The trainer of ``net``'s head of ``points`` on ``samples``, resumed where the directory holds an earlier run.
    ``dev``, where there is one, chooses the best weights, by their NME."""

    def figures(head: nn.Module) -> dict[str, float]:
        assert dev is not None
        assert isinstance(head, HeadNet)
        percent = round(100 * float(errors(head, dev, points).mean()), 3)
        return {"choose": -percent, "keypoint_nme_percent": percent}

    trainer = Trainer(
        KeypointObjective(HeadNet(net)),
        RandomRows(len(samples), len(dev or ()), config.batch, config.seed, lambda rows: batch_of(samples, rows)),
        Schedule.of(config, "keypoints."), directory, probe=None if dev is None else PlainProbe(figures),
    )
    trainer.resume()
    return trainer


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
