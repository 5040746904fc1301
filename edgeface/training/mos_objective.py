"""MOS's training step: matching, classification, regressions, pose, and the tasks' weights (mos.txt, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.data.detection import Batch
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
from edgeface.training.anchored import AnchoredObjective
from edgeface.training.assign import anchor_grid, encode
from edgeface.training.config import Loss
from edgeface.training.dense import Matches, flat, objective_of
from edgeface.training.losses import TASKS, UncertaintyWeights, pose_loss
from edgeface.training.objective import Losses

# A crowd can match thousands of anchors; the pose of so many a step is enough.
MAX_POSES = 512


class MOSObjective(AnchoredObjective):
    """The four tasks' losses of a ``MOS``, trained in float or deployed, with weights that are learned along."""

    tasks = TASKS
    anchors_per_position = MOS.anchors_per_position

    def __init__(self, net: nn.Module, loss: Loss, small_face_px: float) -> None:
        super().__init__(net, loss, small_face_px)
        self.uncertainty = UncertaintyWeights(loss.start, loss.learn_weights, loss.shares)

    def weights(self) -> dict[str, float]:
        return dict(zip(TASKS, self.uncertainty.weights().tolist(), strict=True))

    def forward(self, batch: Batch) -> Losses:
        images = batch.images
        out = self.net((images.float() - PIXEL_MEAN) * PIXEL_SCALE)
        grid = anchor_grid(images.shape[2], images.shape[3], STRIDES, ANCHOR_SIZES)
        anchors = grid.anchors.to(images.device)
        score, box, landmarks = (flat(maps, c) for maps, c in ((out.score, 2), (out.box, 4), (out.landmarks, 10)))
        matches, negative = self.match(grid, anchors, batch)
        score_loss, box_loss, shares = self.found(score, box, anchors, matches, negative, VARIANCES)
        losses = torch.stack((
            score_loss, box_loss, self._landmark_loss(landmarks, anchors, matches),
            self._pose_loss(out, matches, grid.level_sizes, images.shape[3]),
        ))
        return self.losses(self.uncertainty(losses), losses, shares)

    def _landmark_loss(self, landmarks: Tensor, anchors: Tensor, m: Matches) -> Tensor:
        use = ~m.face.landmarks.isnan().any(1)
        face = m.face.select(use)
        _, target = encode(anchors[m.anchor[use]], face.boxes, face.landmarks, VARIANCES)
        each = self.smooth_l1(landmarks[m.image[use], m.anchor[use]], target)
        return each.sum() / max(1, len(each))

    def _pose_loss(self, out: DenseOutput, m: Matches, level_sizes: Sequence[int], width: int) -> Tensor:
        # A head that was turned beyond what the bins span has no right bin.
        known = torch.nonzero((m.face.pose.abs() < POSE_BINS * POSE_BIN_DEG / 2).any(1)).flatten()
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
            angles = m.face.pose[here]
            spanned = angles.abs() < POSE_BINS * POSE_BIN_DEG / 2
            total = total + pose_loss(logits, torch.where(spanned, angles, torch.nan), self.loss.pose_mse_weight)
        return total / max(1, len(known))


objective_of.register(MOS)(MOSObjective)
