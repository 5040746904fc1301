"""S3FD's training step: scale-compensated matching, mined softmax, smooth L1 (mhcnn.txt, section 3.2)."""

from __future__ import annotations

import torch
from torch import nn

from edgeface.data.detection import Batch
from edgeface.errors import OptionError
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.s3fd import ANCHOR_SIZES, S3FD, STRIDES, VARIANCES
from edgeface.training.assign import BACKGROUND, anchor_grid, match_compensated
from edgeface.training.config import Loss
from edgeface.training.dense import DenseObjective, Matches, flat, objective_of
from edgeface.training.losses import mined_classification
from edgeface.training.objective import Losses


class S3FDObjective(DenseObjective):
    """Both losses with the weights that ``loss.start`` begins with, which stay; raises OptionError where they are to be
    learned."""

    tasks = ("score", "box")

    def __init__(self, net: nn.Module, loss: Loss, small_face_px: float) -> None:
        super().__init__(net, loss, small_face_px)
        if loss.learn_weights:
            raise OptionError("S3FD's losses have fixed weights: set loss.learn_weights=false")
        self._weights = torch.tensor(loss.start[: len(self.tasks)])

    def weights(self) -> dict[str, float]:
        return dict(zip(self.tasks, self._weights.tolist(), strict=True))

    def forward(self, batch: Batch) -> Losses:
        images = batch.images
        out = self.net((images.float() - PIXEL_MEAN) * PIXEL_SCALE)
        anchors = anchor_grid(images.shape[2], images.shape[3], STRIDES, ANCHOR_SIZES).anchors.to(images.device)
        assigned = match_compensated(
            anchors, [(face.boxes, face.ignore) for face in batch.faces.split(batch.counts)], batch.complete,
            positive_iou=self.loss.positive_iou, least_iou=self.loss.compensated_iou,
        )
        numbers = torch.stack(assigned).flatten()
        score = mined_classification(
            flat(out.score, 2).reshape(-1, 2), numbers >= 0, numbers == BACKGROUND, self.loss.negatives_per_positive
        )
        box, shares = self.box_loss(flat(out.box, 4), anchors, Matches.of(assigned, batch), VARIANCES)
        losses = torch.stack((score, box))
        return self.losses((losses * self._weights.to(losses.device)).sum(), losses, shares)


objective_of.register(S3FD)(S3FDObjective)
