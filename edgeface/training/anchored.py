"""What detectors with anchors at every position share in training: assignment, classification and box losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeface.data.detection import Batch
from edgeface.training.assign import BACKGROUND, AnchorGrid, assign, decode_boxes
from edgeface.training.atss import assign_atss
from edgeface.training.dense import DenseObjective, Matches
from edgeface.training.losses import box_iou, distance_iou, focal, mined_classification, quality_focal

LEAST_DERIVED_QUALITY = 0.8


class AnchoredObjective(DenseObjective):
    """The losses of score and box as the configuration's ``Loss`` chooses them."""

    anchors_per_position: int

    def found(
        self, score: Tensor, box: Tensor, anchors: Tensor, matches: Matches, negative: Tensor,
        variances: Sequence[float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of ``score`` (B, K, 2) and of ``box`` (B, K, 4), and the box loss (2,) of small faces and of all.

        ``negative`` (B, K) is background; ``matches`` are the positives.
        """
        rows = box[matches.image, matches.anchor].float()                   # (P, 4)
        decoded = decode_boxes(anchors[matches.anchor], rows, variances)    # (P, 4) px
        if self.loss.box == "diou":
            weight = face_logit(score[matches.image, matches.anchor]).detach().sigmoid()
            box_loss, shares = self._diou_loss(decoded, matches, weight)
        else:
            box_loss, shares = self.box_loss(box, anchors, matches, variances)
        return self._classification(score, decoded.detach(), matches, negative), box_loss, shares

    def match(self, grid: AnchorGrid, anchors: Tensor, batch: Batch) -> tuple[Matches, Tensor]:
        """The positives of a batch, and which anchors are background, (B, K) bool."""
        pictures = list(zip(batch.faces.split(batch.counts), batch.complete, strict=True))
        if self.loss.assignment == "atss":
            assigned = [
                assign_atss(
                    anchors, grid.level_sizes, face.boxes, face.ignore, whole,
                    candidates=self.loss.atss_positions * self.anchors_per_position,
                )
                for face, whole in pictures
            ]
        else:
            assigned = [
                assign(
                    anchors, face.boxes, face.ignore, whole,
                    positive_iou=self.loss.positive_iou, negative_iou=self.loss.negative_iou,
                    min_anchors=self.loss.min_anchors,
                )
                for face, whole in pictures
            ]
        return Matches.of(assigned, batch), torch.stack([numbers == BACKGROUND for numbers in assigned])

    def _classification(self, score: Tensor, decoded: Tensor, m: Matches, negative: Tensor) -> Tensor:
        """Loss of ``score`` (B, K, 2). ``decoded`` (P, 4) are the matches' boxes, ``negative`` (B, K) is background."""
        positive = torch.zeros_like(negative)
        positive[m.image, m.anchor] = True
        if self.loss.classification == "mined":
            return mined_classification(
                score.reshape(-1, 2), positive.flatten(), negative.flatten(), self.loss.negatives_per_positive
            )
        if self.loss.classification == "focal":
            counted = positive | negative
            return focal(face_logit(score)[counted], positive[counted])
        iou = box_iou(decoded, m.face.boxes)
        # A box that was derived from points is about right only: it may not call a good detection a bad one.
        iou = torch.where(m.face.regress, iou, iou.clamp_min(LEAST_DERIVED_QUALITY))
        quality = torch.zeros_like(negative, dtype=torch.float32)
        quality[m.image, m.anchor] = iou
        return quality_focal(
            face_logit(score).flatten(), quality.flatten(), (positive | negative).flatten(), len(iou),
            self.loss.focal_beta,
        )

    def _diou_loss(self, decoded: Tensor, m: Matches, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As ``box_loss``, of decoded boxes (P, 4), with a ``weight`` (P,) each: a sure detection's box counts more."""
        use = m.face.regress
        boxes = m.face.boxes[use]
        each = distance_iou(decoded[use], boxes)
        mean = (each * weight[use]).sum() / weight[use].sum().clamp_min(1e-3)
        return mean, self.small_share(each.detach(), boxes)


def face_logit(score: Tensor) -> Tensor:
    """Background and face logits (..., 2) -> (...): its sigmoid is the softmax's share of the face."""
    return score[..., 1] - score[..., 0]
