"""S3FD's training step: scale-compensated matching, mined softmax, smooth L1 (mhcnn.txt, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.s3fd import ANCHOR_SIZES, S3FD, STRIDES, VARIANCES
from edgeface.training.assign import BACKGROUND, anchor_grid, match_compensated
from edgeface.training.config import Loss
from edgeface.training.dense import Matches, Objective, flat, objective_of
from edgeface.training.losses import mined_classification


class S3FDObjective(Objective):
    """Both losses with the weights that ``loss.start`` begins with, which stay; raises OptionError where they are to be
    learned."""

    tasks = ("score", "box")

    def __init__(self, net: nn.Module, loss: Loss, small_face_px: float) -> None:
        super().__init__(net, loss, small_face_px)
        if loss.learn_weights:
            raise OptionError("S3FD's losses have fixed weights: set loss.learn_weights=false")
        self._weights = torch.tensor(loss.start[: len(self.tasks)])

    def weights(self) -> Tensor:
        return self._weights

    def forward(
        self, images: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        out = self.net((images.float() - PIXEL_MEAN) * PIXEL_SCALE)
        anchors = anchor_grid(images.shape[2], images.shape[3], STRIDES, ANCHOR_SIZES).anchors.to(images.device)
        assigned = match_compensated(
            anchors, [(face[:, :4], face[:, 17] > 0) for face in faces], complete,
            positive_iou=self.loss.positive_iou, least_iou=self.loss.compensated_iou,
        )
        numbers = torch.stack(assigned).flatten()
        score = mined_classification(
            flat(out.score, 2).reshape(-1, 2), numbers >= 0, numbers == BACKGROUND, self.loss.negatives_per_positive
        )
        box, shares = self.box_loss(flat(out.box, 4), anchors, Matches.of(assigned, faces), VARIANCES)
        losses = torch.stack((score, box))
        return (losses * self._weights.to(losses.device)).sum(), losses.detach(), shares


objective_of.register(S3FD)(S3FDObjective)
