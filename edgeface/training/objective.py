"""One training step of MOS as one module: network, assignment, losses. Several GPUs wrap exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.models.mos import ANCHOR_SIZES, MOS, PIXEL_MEAN, PIXEL_SCALE, STRIDES, VARIANCES, DenseOutput
from edgeface.models.mos_folded import FoldedMOS
from edgeface.training.assign import BACKGROUND, anchor_grid, assign, encode
from edgeface.training.config import Loss
from edgeface.training.losses import UncertaintyWeights, mined_classification, pose_loss

# A crowd can match thousands of anchors; the pose of so many a step is enough.
MAX_POSES = 512


@dataclass(frozen=True)
class Matches:
    """Positive anchors of a batch, P of them: picture, anchor number in the grid, and the face's row (P, 19)."""

    image: Tensor
    anchor: Tensor
    face: Tensor


class MOSObjective(nn.Module):
    """(images, faces, complete) -> total loss, the four tasks' losses, and the small faces' share of the box loss."""

    def __init__(self, net: MOS | FoldedMOS, loss: Loss, small_face_px: float) -> None:
        super().__init__()
        self.net = net
        self.uncertainty = UncertaintyWeights(loss.start, loss.learn_weights, loss.shares)
        self.loss = loss
        self.small_face_px = small_face_px

    def forward(
        self, images: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``images`` uint8 (B, 3, S, S); ``faces`` B tensors as ``Batch`` has them.

        Returns the total (), the losses (4,) of score, box, landmarks, pose, and the box loss (2,) of small faces and
        of all.
        """
        out = self.net((images.float() - PIXEL_MEAN) * PIXEL_SCALE)
        grid = anchor_grid(images.shape[2], images.shape[3], STRIDES, ANCHOR_SIZES)
        anchors = grid.anchors.to(images.device)
        score, box, landmarks = (_flat(maps, c) for maps, c in ((out.score, 2), (out.box, 4), (out.landmarks, 10)))
        matches, negative = self._match(anchors, faces, complete)
        positive = torch.zeros_like(negative)
        positive[matches.image, matches.anchor] = True
        classification = mined_classification(
            score.reshape(-1, 2), positive.flatten(), negative.flatten(), self.loss.negatives_per_positive
        )
        box_loss, shares = self._box_loss(box, anchors, matches)
        losses = torch.stack((
            classification, box_loss, self._landmark_loss(landmarks, anchors, matches),
            self._pose_loss(out, matches, grid.level_sizes, images.shape[3]),
        ))
        total: Tensor = self.uncertainty(losses)
        return total, losses.detach(), shares

    def _match(
        self, anchors: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Matches, Tensor]:
        images, indices, rows, negative = [], [], [], []
        for i, (face, whole) in enumerate(zip(faces, complete, strict=True)):
            assigned = assign(
                anchors, face[:, :4], face[:, 17] > 0, whole,
                positive_iou=self.loss.positive_iou, negative_iou=self.loss.negative_iou,
                min_anchors=self.loss.min_anchors,
            )
            taken = torch.nonzero(assigned >= 0).flatten()
            images.append(torch.full_like(taken, i))
            indices.append(taken)
            rows.append(face[assigned[taken]])
            negative.append(assigned == BACKGROUND)
        return Matches(torch.cat(images), torch.cat(indices), torch.cat(rows)), torch.stack(negative)

    def _smooth_l1(self, predicted: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(predicted.float(), target, beta=self.loss.smooth_l1_beta, reduction="none").sum(1)

    def _box_loss(self, box: Tensor, anchors: Tensor, m: Matches) -> tuple[Tensor, Tensor]:
        use = m.face[:, 18] > 0
        rows = m.face[use]
        target, _ = encode(anchors[m.anchor[use]], rows[:, :4], rows[:, 4:14], VARIANCES)
        each = self._smooth_l1(box[m.image[use], m.anchor[use]], target)
        area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
        small = each.detach()[area <= self.small_face_px**2].sum()
        return each.sum() / max(1, len(each)), torch.stack((small, each.detach().sum()))

    def _landmark_loss(self, landmarks: Tensor, anchors: Tensor, m: Matches) -> Tensor:
        use = ~m.face[:, 4:14].isnan().any(1)
        rows = m.face[use]
        _, target = encode(anchors[m.anchor[use]], rows[:, :4], rows[:, 4:14], VARIANCES)
        each = self._smooth_l1(landmarks[m.image[use], m.anchor[use]], target)
        return each.sum() / max(1, len(each))

    def _pose_loss(self, out: DenseOutput, m: Matches, level_sizes: Sequence[int], width: int) -> Tensor:
        known = torch.nonzero(~m.face[:, 14:17].isnan().all(1)).flatten()
        if len(known) > MAX_POSES:
            known = known[torch.randperm(len(known), device=known.device)[:MAX_POSES]]
        total = out.features[0].sum() * 0.0
        start = 0
        for level, (size, stride) in enumerate(zip(level_sizes, STRIDES, strict=True)):
            place = m.anchor[known] - start
            here = known[(place >= 0) & (place < size)]
            start += size
            if len(here) == 0:
                continue
            position = (m.anchor[here] - start + size) // MOS.anchors_per_position
            cols = width // stride
            logits = self.net.pose(out.features[level], level, m.image[here], position // cols, position % cols)
            total = total + pose_loss(logits, m.face[here, 14:17], self.loss.pose_mse_weight)
        return total / max(1, len(known))


def _flat(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Level maps (B, A * channels, H, W) -> (B, K, channels) in the grid's order."""
    parts = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(parts, 1)
