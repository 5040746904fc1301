"""The losses of dense detectors: what they share, and which objective trains which network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.errors import TrainingError
from edgeface.training.assign import encode
from edgeface.training.config import Loss


@dataclass(frozen=True)
class Matches:
    """Positive anchors of a batch, P of them: picture, anchor number in the grid, and the face's row (P, 19)."""

    image: Tensor
    anchor: Tensor
    face: Tensor

    @classmethod
    def of(cls, assigned: Sequence[Tensor], faces: Sequence[Tensor]) -> Matches:
        """From what each picture's anchors (K,) were assigned to, and its faces, as ``Batch`` has them."""
        images, indices, rows = [], [], []
        for i, (numbers, face) in enumerate(zip(assigned, faces, strict=True)):
            taken = torch.nonzero(numbers >= 0).flatten()
            images.append(torch.full_like(taken, i))
            indices.append(taken)
            rows.append(face[numbers[taken]])
        return cls(torch.cat(images), torch.cat(indices), torch.cat(rows))


class Objective(nn.Module, ABC):
    """One training step of ``net`` as one module: network, assignment, losses. Several GPUs wrap exactly this."""

    tasks: tuple[str, ...]      # the losses' names, in their order

    def __init__(self, net: nn.Module, loss: Loss, small_face_px: float) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.small_face_px = small_face_px

    @abstractmethod
    def forward(
        self, images: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``images`` uint8 (B, 3, S, S); ``faces`` B tensors as ``Batch`` has them.

        Returns the total (), the losses of ``tasks`` (T,), and the box loss (2,) of small faces and of all.
        """

    @abstractmethod
    def weights(self) -> Tensor:
        """What each task's loss is multiplied by, (T,)."""

    def smooth_l1(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Smooth L1 of rows (P, C), summed over the columns: (P,)."""
        return F.smooth_l1_loss(predicted.float(), target, beta=self.loss.smooth_l1_beta, reduction="none").sum(1)

    def box_loss(self, box: Tensor, anchors: Tensor, m: Matches, variances: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Mean loss of ``box`` (B, K, 4) over the matches with a box of their own, and its sums (2,) over small faces
        and all."""
        use = m.face[:, 18] > 0
        rows = m.face[use]
        target, _ = encode(anchors[m.anchor[use]], rows[:, :4], rows[:, 4:14], variances)
        each = self.smooth_l1(box[m.image[use], m.anchor[use]], target)
        area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
        small = each.detach()[area <= self.small_face_px**2].sum()
        return each.sum() / max(1, len(each)), torch.stack((small, each.detach().sum()))


def flat(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Level maps (B, A * channels, H, W) -> (B, K, channels) in the order of ``assign.anchor_grid``."""
    parts = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(parts, 1)


@singledispatch
def objective_of(net: nn.Module, loss: Loss, small_face_px: float) -> Objective:
    """The objective that trains ``net``, by its type; faces are small up to a side of ``small_face_px``.

    Raises TrainingError for a network that is no dense detector, and OptionError for a ``loss`` that it cannot have.
    """
    raise TrainingError(f"a {type(net).__name__} is no dense detector, and has no losses on whole pictures")
