"""MOS's training step: matching, mined classification, regressions, pose, learned weights (mos.txt, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.models.mos import ANCHOR_SIZES, MOS, PIXEL_MEAN, PIXEL_SCALE, STRIDES, VARIANCES, DenseOutput
from edgeface.models.mos_folded import FoldedMOS
from edgeface.training.assign import BACKGROUND, anchor_grid, assign, encode
from edgeface.training.config import Loss
from edgeface.training.dense import Matches, Objective, Recipe, flat, recipe
from edgeface.training.losses import TASKS, UncertaintyWeights, mined_classification, pose_loss

# A crowd can match thousands of anchors; the pose of so many a step is enough.
MAX_POSES = 512


class MOSObjective(Objective):
    """The four tasks' losses of a ``MOS`` or a ``FoldedMOS``, with weights that are learned along."""

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
        matches, negative = self._match(anchors, faces, complete)
        positive = torch.zeros_like(negative)
        positive[matches.image, matches.anchor] = True
        classification = mined_classification(
            score.reshape(-1, 2), positive.flatten(), negative.flatten(), self.loss.negatives_per_positive
        )
        box_loss, shares = self.box_loss(box, anchors, matches, VARIANCES)
        losses = torch.stack((
            classification, box_loss, self._landmark_loss(landmarks, anchors, matches),
            self._pose_loss(out, matches, grid.level_sizes, images.shape[3]),
        ))
        total: Tensor = self.uncertainty(losses)
        return total, losses.detach(), shares

    def _match(
        self, anchors: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Matches, Tensor]:
        assigned = [
            assign(
                anchors, face[:, :4], face[:, 17] > 0, whole,
                positive_iou=self.loss.positive_iou, negative_iou=self.loss.negative_iou,
                min_anchors=self.loss.min_anchors,
            )
            for face, whole in zip(faces, complete, strict=True)
        ]
        return Matches.of(assigned, faces), torch.stack([numbers == BACKGROUND for numbers in assigned])

    def _landmark_loss(self, landmarks: Tensor, anchors: Tensor, m: Matches) -> Tensor:
        use = ~m.face[:, 4:14].isnan().any(1)
        rows = m.face[use]
        _, target = encode(anchors[m.anchor[use]], rows[:, :4], rows[:, 4:14], VARIANCES)
        each = self.smooth_l1(landmarks[m.image[use], m.anchor[use]], target)
        return each.sum() / max(1, len(each))

    def _pose_loss(self, out: DenseOutput, m: Matches, level_sizes: Sequence[int], width: int) -> Tensor:
        known = torch.nonzero(~m.face[:, 14:17].isnan().all(1)).flatten()
        if len(known) > MAX_POSES:
            known = known[torch.randperm(len(known), device=known.device)[:MAX_POSES]]
        assert isinstance(self.net, (MOS, FoldedMOS))
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


recipe("mos_s")(Recipe(MOSObjective, multiple=2 * max(STRIDES)))    # a stitched canvas has crops of half its size
