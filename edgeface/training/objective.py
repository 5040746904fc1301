"""MOS's training step: matching, classification, regressions, pose, and the tasks' weights (mos.txt, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.models.dense import DenseOutput
from edgeface.models.mos import (
    ANCHOR_SIZES,
    MOS,
    POSE_BIN_DEG,
    POSE_BINS,
    STRIDES,
    VARIANCES,
)
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.training.assign import BACKGROUND, AnchorGrid, anchor_grid, assign, decode_boxes, encode
from edgeface.training.atss import assign_atss
from edgeface.training.config import Loss
from edgeface.training.dense import Matches, Objective, flat, objective_of
from edgeface.training.losses import (
    TASKS,
    UncertaintyWeights,
    box_iou,
    distance_iou,
    mined_classification,
    pose_loss,
    quality_focal,
)

# A crowd can match thousands of anchors; the pose of so many a step is enough.
MAX_POSES = 512
LEAST_DERIVED_QUALITY = 0.8


class MOSObjective(Objective):
    """The four tasks' losses of a ``MOS``, trained in float or deployed, with weights that are learned along."""

    tasks = TASKS

    def __init__(self, net: nn.Module, loss: Loss, small_face_px: float) -> None:
        super().__init__(net, loss, small_face_px)
        self.uncertainty = UncertaintyWeights(loss.start, loss.learn_weights, loss.shares)

    def weights(self) -> Tensor:
        return self.uncertainty.weights()

    def forward(
        self, images: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        out = self.net((images.float() - PIXEL_MEAN) * PIXEL_SCALE)
        grid = anchor_grid(images.shape[2], images.shape[3], STRIDES, ANCHOR_SIZES)
        anchors = grid.anchors.to(images.device)
        score, box, landmarks = (flat(maps, c) for maps, c in ((out.score, 2), (out.box, 4), (out.landmarks, 10)))
        matches, negative = self._match(grid, anchors, faces, complete)
        rows = box[matches.image, matches.anchor].float()                   # (P, 4)
        decoded = decode_boxes(anchors[matches.anchor], rows, VARIANCES)    # (P, 4) px
        if self.loss.box == "diou":
            weight = _face_logit(score[matches.image, matches.anchor]).detach().sigmoid()
            box_loss, shares = self._diou_loss(decoded, matches, weight)
        else:
            box_loss, shares = self.box_loss(box, anchors, matches, VARIANCES)
        losses = torch.stack((
            self._classification(score, decoded.detach(), matches, negative), box_loss,
            self._landmark_loss(landmarks, anchors, matches),
            self._pose_loss(out, matches, grid.level_sizes, images.shape[3]),
        ))
        total: Tensor = self.uncertainty(losses)
        return total, losses.detach(), shares

    def _match(
        self, grid: AnchorGrid, anchors: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Matches, Tensor]:
        """The positives of a batch, and which anchors are background, (B, K) bool."""
        if self.loss.assignment == "atss":
            assigned = [
                assign_atss(
                    anchors, grid.level_sizes, face[:, :4], face[:, 17] > 0, whole,
                    candidates=self.loss.atss_positions * MOS.anchors_per_position,
                )
                for face, whole in zip(faces, complete, strict=True)
            ]
        else:
            assigned = [
                assign(
                    anchors, face[:, :4], face[:, 17] > 0, whole,
                    positive_iou=self.loss.positive_iou, negative_iou=self.loss.negative_iou,
                    min_anchors=self.loss.min_anchors,
                )
                for face, whole in zip(faces, complete, strict=True)
            ]
        return Matches.of(assigned, faces), torch.stack([numbers == BACKGROUND for numbers in assigned])

    def _classification(self, score: Tensor, decoded: Tensor, m: Matches, negative: Tensor) -> Tensor:
        """Loss of ``score`` (B, K, 2). ``decoded`` (P, 4) are the matches' boxes, ``negative`` (B, K) is background."""
        positive = torch.zeros_like(negative)
        positive[m.image, m.anchor] = True
        if self.loss.classification == "mined":
            return mined_classification(
                score.reshape(-1, 2), positive.flatten(), negative.flatten(), self.loss.negatives_per_positive
            )
        iou = box_iou(decoded, m.face[:, :4])
        # A box that was derived from points is about right only: it may not call a good detection a bad one.
        iou = torch.where(m.face[:, 18] > 0, iou, iou.clamp_min(LEAST_DERIVED_QUALITY))
        quality = torch.zeros_like(negative, dtype=torch.float32)
        quality[m.image, m.anchor] = iou
        return quality_focal(
            _face_logit(score).flatten(), quality.flatten(), (positive | negative).flatten(), len(iou),
            self.loss.focal_beta,
        )

    def _diou_loss(self, decoded: Tensor, m: Matches, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As ``box_loss``, of decoded boxes (P, 4), with a ``weight`` (P,) each: a sure detection's box counts more."""
        use = m.face[:, 18] > 0
        rows = m.face[use]
        each = distance_iou(decoded[use], rows[:, :4])
        area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
        small = each.detach()[area <= self.small_face_px**2].sum()
        mean = (each * weight[use]).sum() / weight[use].sum().clamp_min(1e-3)
        return mean, torch.stack((small, each.detach().sum()))

    def _landmark_loss(self, landmarks: Tensor, anchors: Tensor, m: Matches) -> Tensor:
        use = ~m.face[:, 4:14].isnan().any(1)
        rows = m.face[use]
        _, target = encode(anchors[m.anchor[use]], rows[:, :4], rows[:, 4:14], VARIANCES)
        each = self.smooth_l1(landmarks[m.image[use], m.anchor[use]], target)
        return each.sum() / max(1, len(each))

    def _pose_loss(self, out: DenseOutput, m: Matches, level_sizes: Sequence[int], width: int) -> Tensor:
        # A head that was turned beyond what the bins span has no right bin.
        known = torch.nonzero((m.face[:, 14:17].abs() < POSE_BINS * POSE_BIN_DEG / 2).any(1)).flatten()
        if len(known) > MAX_POSES:
            known = known[torch.randperm(len(known), device=known.device)[:MAX_POSES]]
        assert isinstance(self.net, MOS)
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
            angles = m.face[here, 14:17]
            spanned = angles.abs() < POSE_BINS * POSE_BIN_DEG / 2
            total = total + pose_loss(logits, torch.where(spanned, angles, torch.nan), self.loss.pose_mse_weight)
        return total / max(1, len(known))


def _face_logit(score: Tensor) -> Tensor:
    """Background and face logits (..., 2) -> (...): its sigmoid is the softmax's share of the face."""
    return score[..., 1] - score[..., 0]


objective_of.register(MOS)(MOSObjective)
