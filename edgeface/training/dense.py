"""The losses of dense detectors: what they share, and which objective trains which network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.data.detection import Batch, FaceTargets
from edgeface.errors import TrainingError
from edgeface.training.assign import encode
from edgeface.training.config import Loss
from edgeface.training.objective import Losses, Objective


@dataclass(frozen=True)
class Matches:
    """Positive anchors of a batch, P of them: picture (P,), anchor number in the grid (P,), and what is known of the
    P faces."""

    image: Tensor
    anchor: Tensor
    face: FaceTargets

    @classmethod
    def of(cls, assigned: Sequence[Tensor], batch: Batch) -> Matches:
        """From what each picture's anchors (K,) were assigned to."""
        images, indices, rows = [], [], []
        first = 0
        for i, (numbers, count) in enumerate(zip(assigned, batch.counts, strict=True)):
            taken = torch.nonzero(numbers >= 0).flatten()
            images.append(torch.full_like(taken, i))
            indices.append(taken)
            rows.append(numbers[taken] + first)
            first += count
        return cls(torch.cat(images), torch.cat(indices), batch.faces.select(torch.cat(rows)))


class DenseObjective(Objective[Batch]):
    """The losses of a detector on whole pictures, by ``tasks``; it tells the box loss of small faces and of all, by
    which feedback sampling is steered."""

    tasks: tuple[str, ...]      # the losses' names, in their order

    def __init__(self, net: nn.Module, loss: Loss, small_face_px: float) -> None:
        super().__init__(net)
        self.loss = loss
        self.small_face_px = small_face_px

    def losses(self, total: Tensor, losses: Tensor, shares: Tensor) -> Losses:
        """From the total (), the losses (T,) of the first ``tasks``, and the box loss (2,) of small faces and all."""
        by_task = dict(zip(self.tasks, losses.detach().unbind(), strict=False))
        return Losses(total, by_task, {"small_boxes": shares[0], "boxes": shares[1]})

    def smooth_l1(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Smooth L1 of rows (P, C), summed over the columns: (P,)."""
        return F.smooth_l1_loss(predicted.float(), target, beta=self.loss.smooth_l1_beta, reduction="none").sum(1)

    def box_loss(self, box: Tensor, anchors: Tensor, m: Matches, variances: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Mean loss of ``box`` (B, K, 4) over the matches with a box of their own, and its sums (2,) over small faces
        and all."""
        use = m.face.regress
        face = m.face.select(use)
        target, _ = encode(anchors[m.anchor[use]], face.boxes, face.landmarks, variances)
        each = self.smooth_l1(box[m.image[use], m.anchor[use]], target)
        return each.sum() / max(1, len(each)), self.small_share(each.detach(), face.boxes)

    def small_share(self, each: Tensor, boxes: Tensor) -> Tensor:
        """Of losses (P,) the sums (2,) over small faces, by their ``boxes`` (P, 4), and over all."""
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return torch.stack((each[area <= self.small_face_px**2].sum(), each.sum()))


def flat(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Level maps (B, A * channels, H, W) -> (B, K, channels) in the order of ``assign.anchor_grid``."""
    parts = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(parts, 1)


@singledispatch
def objective_of(net: nn.Module, loss: Loss, small_face_px: float) -> DenseObjective:
    """The objective that trains ``net``, by its type; faces are small up to a side of ``small_face_px``.

    Raises TrainingError for a network that is no dense detector, and OptionError for a ``loss`` that it cannot have.
    """
    raise TrainingError(f"a {type(net).__name__} is no dense detector, and has no losses on whole pictures")
