"""MaskFace's training step on whole pictures, and TFN's, whose dense stage is the same: score and box (maskface.txt,
section 3.1). What looks at regions is trained after that, on regions (``edgeface/training/keypoints``)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgeface.data.detection import Batch, FaceTargets
from edgeface.errors import OptionError
from edgeface.models.dense import DenseOutput
from edgeface.models.maskface import VARIANCES, MaskFace
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.tfn import TFN
from edgeface.training.anchored import AnchoredObjective
from edgeface.training.assign import anchor_grid
from edgeface.training.config import Loss
from edgeface.training.dense import flat, objective_of
from edgeface.training.objective import Losses

# Of the smallest anchor's area and of the largest one's: a face beyond has no anchor that would not be harmed by it.
SMALLEST_AREA, LARGEST_AREA = 0.4, 2.5


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
        self._weights = torch.tensor(loss.start[: len(MaskFaceObjective.tasks)])

    def weights(self) -> dict[str, float]:
        return dict(zip(MaskFaceObjective.tasks, self._weights.tolist(), strict=True))

    def forward(self, batch: Batch) -> Losses:
        return self.of_output(self.net((batch.images.float() - PIXEL_MEAN) * PIXEL_SCALE), batch)

    def of_output(self, out: DenseOutput, batch: Batch) -> Losses:
        """As ``forward``, of what the network gives for the pictures of a batch."""
        grid = anchor_grid(batch.images.shape[2], batch.images.shape[3], self.form.strides, self.form.sides)
        anchors = grid.anchors.to(batch.images.device)
        if self.loss.assignment == "iou":
            batch = replace(batch, faces=self._filtered(batch.faces))
        matches, negative = self.match(grid, anchors, batch)
        score, box, shares = self.found(flat(out.score, 2), flat(out.box, 4), anchors, matches, negative, VARIANCES)
        losses = torch.stack((score, box))
        return self.losses((losses * self._weights.to(losses.device)).sum(), losses, shares)

    def _filtered(self, faces: FaceTargets) -> FaceTargets:
        """The faces, those ignored whose area no anchor comes near (maskface.txt, section 3.3)."""
        area = (faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(1)
        low, high = SMALLEST_AREA * self.form.sides[0][0] ** 2, LARGEST_AREA * self.form.sides[-1][-1] ** 2
        return replace(faces, ignore=faces.ignore | (area < low) | (area > high))


for _net in (MaskFace, TFN):
    objective_of.register(_net)(MaskFaceObjective)
