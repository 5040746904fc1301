"""MOS's losses: hard-mined classification, smooth L1, pose, and their uncertainty weighting (mos.txt, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.models.mos import POSE_BIN_DEG, POSE_BINS, pose_degrees

TASKS = ("score", "box", "landmarks", "pose")


def mined_classification(logits: Tensor, positive: Tensor, negative: Tensor, ratio: float) -> Tensor:
    """Softmax loss over the positives and the hardest negatives, ``ratio`` a positive, divided by the positives.

    ``logits`` (K, 2) background and face, of all anchors of a batch; ``positive`` and ``negative`` (K,) bool. The
    negatives are mined over the whole batch, so that pictures without a face give theirs. A batch without positives
    keeps as many negatives as one positive would.
    """
    target = positive.long()
    loss = F.cross_entropy(logits.float(), target, reduction="none")
    count = int(positive.sum())
    keep = min(int(ratio * max(1, count)), int(negative.sum()))
    hardest = loss[negative].topk(keep).values
    return (loss[positive].sum() + hardest.sum()) / max(1, count)


def quality_focal(logit: Tensor, quality: Tensor, counted: Tensor, positives: int, beta: float) -> Tensor:
    """Quality focal loss (Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 4), divided by the positives.

    ``logit`` (K,) face over background; ``quality`` (K,) in 0 to 1, the IoU of the decoded box with its face at
    positives and 0 at background; ``counted`` (K,) bool leaves out what is neither.
    """
    logit, quality = logit[counted].float(), quality[counted]
    entropy = F.binary_cross_entropy_with_logits(logit, quality, reduction="none")
    return (entropy * (quality - logit.sigmoid()).abs() ** beta).sum() / max(1, positives)


def focal(logit: Tensor, positive: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (maskface.txt, eq. 2), divided by the positives: ``logit`` (K,) face over background, ``positive``
    (K,) bool."""
    logit, target = logit.float(), positive.float()
    entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    wrong = (target - logit.sigmoid()).abs()
    weight = alpha * target + (1 - alpha) * (1 - target)
    total: Tensor = (weight * wrong**gamma * entropy).sum()
    return total / positive.sum().clamp_min(1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of pairs of boxes, (P, 4) and (P, 4) x1 y1 x2 y2 -> (P,)."""
    extent = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp_min(0)
    inter = extent.prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1)
    return inter / (area - inter).clamp_min(1e-6)


def distance_iou(boxes: Tensor, faces: Tensor) -> Tensor:
    """DIoU loss (Zheng et al., "Distance-IoU Loss", AAAI 2020, eq. 7) of pairs of boxes, (P, 4) and (P, 4) -> (P,)."""
    hull = torch.maximum(boxes[:, 2:], faces[:, 2:]) - torch.minimum(boxes[:, :2], faces[:, :2])
    apart = (boxes[:, :2] + boxes[:, 2:] - faces[:, :2] - faces[:, 2:]) / 2
    return 1 - box_iou(boxes, faces) + apart.square().sum(1) / hull.square().sum(1).clamp_min(1e-6)


def pose_bin(angle_deg: Tensor) -> Tensor:
    """Index of the 3-degree bin of an angle, 0 to 65 for -99 to 99 degrees; those outside go to the end bins."""
    return torch.floor((angle_deg + 99.0) / POSE_BIN_DEG).long().clamp(0, POSE_BINS - 1)


def pose_loss(logits: Tensor, angle_deg: Tensor, mse_weight: float) -> Tensor:
    """Eq. 1, summed over angles and faces: cross-entropy of the bin plus ``mse_weight`` times the squared error.

    ``logits`` (P, 3, 66), ``angle_deg`` (P, 3); an angle that is NaN has no loss.
    """
    known = ~angle_deg.isnan()
    if not bool(known.any()):
        return logits.sum() * 0.0
    bins = F.cross_entropy(logits[known].float(), pose_bin(angle_deg[known]), reduction="sum")
    squared = (pose_degrees(logits[known]) - angle_deg[known]).square().sum()
    return bins + mse_weight * squared


class UncertaintyWeights(nn.Module):
    """Eq. 7: the classification over T^2, each regression over 2 sigma^2, plus the log of T and every sigma.

    The logarithms are the parameters. ``start`` gives the four weights 1/T^2 and 1/(2 sigma^2) of the first step;
    with ``learn=False`` they stay, and the logarithms are left out of the loss. ``shares`` multiply the logarithms: at
    its optimum a task's weighted loss is half its share, so equal shares, as in eq. 7, make all tasks count the same
    whatever their noise, and a larger one gives a task more.
    """

    shares: Tensor

    def __init__(
        self,
        start: tuple[float, float, float, float],
        learn: bool,
        shares: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.register_buffer("shares", torch.tensor(shares), persistent=False)
        weights = torch.tensor(start)
        weights[1:] *= 2
        self.log_sigma = nn.Parameter(-0.5 * torch.log(weights), requires_grad=learn)

    def weights(self) -> Tensor:
        """The four weights (4,): 1/T^2, 1/(2 sigma_1^2), 1/(2 sigma_2^2), 1/(2 sigma_3^2)."""
        inverse = torch.exp(-2 * self.log_sigma)
        return torch.cat((inverse[:1], inverse[1:] / 2))

    def forward(self, losses: Tensor) -> Tensor:
        """The four tasks' losses (4,) in TASKS' order -> the total."""
        total = (self.weights() * losses).sum()
        return total + (self.shares * self.log_sigma).sum() if self.log_sigma.requires_grad else total
