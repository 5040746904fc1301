"""The losses of a patch net, each on the samples that carry its target (mtcnn.txt, eq. 1 to 4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from edgeface.models.patch_nets import PatchOutput
from edgeface.training.objective import Losses, summed
from edgeface.training.patches.samples import NEGATIVE, POSITIVE, Batch

Task = Literal["face", "box", "landmarks", "attributes", "quality"]


@dataclass(frozen=True)
class Weights:
    """The alphas of eq. 4, for attributes and quality as well. A loss of weight 0 is not computed."""

    face: float = 1.0
    box: float = 0.5
    landmarks: float = 0.5
    attributes: float = 0.0
    quality: float = 0.0


def patch_losses(
    output: PatchOutput, batch: Batch, weights: Weights, hard_share: float, beta: float = 0.0
) -> Losses:
    """The mean of each task over the samples that have it, 0 where none has, and their weighted sum.

    Faces are told from others on negatives and positives, of which the ``hard_share`` with the largest losses count
    (section II.C.5: 0.7; 1 takes all). Boxes and landmarks have the squared Euclidean distance of eq. 2 and 3, with
    ``beta`` above 0 the smooth L1 distance that is quadratic below ``beta``. The first labels are the attributes, the
    last is the quality where the net has one; NaN marks a missing one.
    """
    tasks: dict[str, Tensor] = {}
    judged = (batch.kind == NEGATIVE) | (batch.kind == POSITIVE)
    each = F.binary_cross_entropy_with_logits(
        output.score[judged].float(), (batch.kind[judged] == POSITIVE).float(), reduction="none"
    )
    if hard_share < 1 and len(each):
        each = each.topk(max(1, round(hard_share * len(each)))).values
    tasks["face"] = _mean(each)
    tasks["box"] = _distance(output.box, batch.box, beta)
    tasks["landmarks"] = _distance(output.landmarks, batch.landmarks, beta)
    if output.attributes is not None:
        tasks["attributes"] = _labelled(output.attributes, batch.labels[:, : output.attributes.shape[1]])
    if output.quality is not None:
        tasks["quality"] = _labelled(output.quality, batch.labels[:, -1])
    return summed(tasks, asdict(weights))


def _distance(found: Tensor, target: Tensor, beta: float) -> Tensor:
    known = ~target.isnan().any(1)
    found, target = found[known].float(), target[known]
    if beta:
        return _mean(F.smooth_l1_loss(found, target, beta=beta, reduction="none").sum(1))
    return _mean((found - target).square().sum(1))


def _labelled(logits: Tensor, labels: Tensor) -> Tensor:
    known = ~labels.isnan()
    return _mean(F.binary_cross_entropy_with_logits(logits[known].float(), labels[known], reduction="none"))


def _mean(each: Tensor) -> Tensor:
    # The mean of nothing is not a number; a sum of nothing still has a gradient of 0.
    return each.sum() / max(1, len(each))
