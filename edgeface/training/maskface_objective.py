"""MaskFace's training step on whole pictures, and TFN's, whose dense stage is the same: score and box (maskface.txt,
section 3.1). What looks at regions is trained after that, on regions (``edgeface/training/keypoints``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.models.dense import DenseOutput
from edgeface.models.maskface import VARIANCES, MaskFace
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.tfn import TFN
from edgeface.training.anchored import AnchoredObjective
from edgeface.training.assign import anchor_grid
from edgeface.training.config import Loss
from edgeface.training.dense import flat, objective_of

# Of the smallest anchor's area and of the largest one's: a face beyond has no anchor that would not be harmed by it.
SMALLEST_AREA, LARGEST_AREA = 0.4, 2.5
_IGNORE = 17        # of a face's columns, as ``edgeface.data.detection.Batch`` has them


class MaskFaceObjective(AnchoredObjective):
    """Both losses with the weights that ``loss.start`` begins with, which stay; raises OptionError where they are to be
    learned."""

    tasks: tuple[str, ...] = ("score", "box")

    def __init__(self, net: nn.Module, loss: Loss, small_face_px: float) -> None:
        super().__init__(net, loss, small_face_px)
        if loss.learn_weights:
            raise OptionError("MaskFace's losses have fixed weights: set loss.learn_weights=false")
        assert isinstance(net, (MaskFace, TFN))
        self.form = net.form
        self.anchors_per_position = len(net.form.sides[0])
        self._weights = torch.tensor(loss.start[: len(self.tasks)])

    def weights(self) -> Tensor:
        return self._weights

    def forward(
        self, images: Tensor, faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        out = self.net((images.float() - PIXEL_MEAN) * PIXEL_SCALE)
        return self.of_output(out, (images.shape[2], images.shape[3]), faces, complete)

    def of_output(
        self, out: DenseOutput, size_px: tuple[int, int], faces: Sequence[Tensor], complete: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, of what the network gives for pictures of ``size_px``, height and width."""
        grid = anchor_grid(*size_px, self.form.strides, self.form.sides)
        anchors = grid.anchors.to(out.score[0].device)
        if self.loss.assignment == "iou":
            faces = [self._filtered(face) for face in faces]
        matches, negative = self.match(grid, anchors, faces, complete)
        score, box, shares = self.found(flat(out.score, 2), flat(out.box, 4), anchors, matches, negative, VARIANCES)
        losses = torch.stack((score, box))
        return (losses * self._weights.to(losses.device)).sum(), losses.detach(), shares

    def _filtered(self, face: Tensor) -> Tensor:
        """The faces of a picture, those ignored whose area no anchor comes near (maskface.txt, section 3.3)."""
        area = (face[:, 2] - face[:, 0]) * (face[:, 3] - face[:, 1])
        low, high = SMALLEST_AREA * self.form.sides[0][0] ** 2, LARGEST_AREA * self.form.sides[-1][-1] ** 2
        kept = face.clone()
        kept[(area < low) | (area > high), _IGNORE] = 1
        return kept


for _net in (MaskFace, TFN):
    objective_of.register(_net)(MaskFaceObjective)
