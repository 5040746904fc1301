"""The losses of TFN's nets on regions (tfn.txt, eq. 3 to 6); what is not known of a face counts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeface.models.keypoints import keypoint_loss

# Of a region's sides, below which the loss is quadratic, and what brings the losses of places to those of classes.
_BOX_BETA, _BOX_WEIGHT = 0.05, 10.0
_POINT_BETA, _POINT_WEIGHT = 0.02, 20.0
# Years: how far about a labelled age others are nearly as right, and what a year of the expectation costs.
_AGE_DEVIATION, _AGE_WEIGHT = 3.0, 0.05


def region_losses(found: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A loss an output, by its name: ``found`` as ``RegionNet`` and ``HeatmapNet`` give it, (N, C, h, w) each;
    ``labels`` as those of ``region_samples.Labels``, NaN where unknown."""
    return {name: _LOSSES[name][1](maps, labels[_LOSSES[name][0]]) for name, maps in found.items()}


def expected_years(logits: Tensor) -> Tensor:
    """The expectation (N,) over the classes of age, of logits (N, 101)."""
    years = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(1) * years).sum(1)


def _score(maps: Tensor, score: Tensor) -> Tensor:
    known = score.isfinite()
    return _mean(F.binary_cross_entropy_with_logits(maps[:, 0, 0, 0][known], score[known], reduction="none"))


def _box(maps: Tensor, box: Tensor) -> Tensor:
    known = box.isfinite().all(1)
    each = F.smooth_l1_loss(maps[known, :, 0, 0], box[known], beta=_BOX_BETA, reduction="none")
    return _BOX_WEIGHT * _mean(each)


def _landmarks(maps: Tensor, points: Tensor) -> Tensor:
    known = points.isfinite().all(2).all(1)
    offsets = maps[known].view(-1, points.shape[1], 2)
    each = F.smooth_l1_loss(offsets, points[known] - 0.5, beta=_POINT_BETA, reduction="none")
    return _POINT_WEIGHT * _mean(each)


def _age(maps: Tensor, age: Tensor) -> Tensor:
    known = age.isfinite().all(1)
    logits, least, most = maps[known, :, 0, 0], *age[known].unbind(1)
    logs = logits.log_softmax(1)
    years = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
    near = torch.softmax(-((years - least[:, None]) ** 2) / (2 * _AGE_DEVIATION**2), 1)
    one = -(near * logs).sum(1)
    inside = (years >= least[:, None]) & (years <= most[:, None])
    several = -logs.masked_fill(~inside, -1e4).logsumexp(1)
    expected = expected_years(logits)
    beyond = F.relu(least - expected) + F.relu(expected - most)
    return _mean(torch.where(most - least < 1, one, several) + _AGE_WEIGHT * beyond)


def _classes(maps: Tensor, classes: Tensor) -> Tensor:
    known = classes.isfinite()
    return _mean(F.cross_entropy(maps[known, :, 0, 0], classes[known].long(), reduction="none"))


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())


# By the name of an output: the label that it is held against, and how.
_LOSSES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "score": ("score", _score), "box": ("box", _box), "landmarks": ("points", _landmarks),
    "heatmaps": ("points", keypoint_loss), "age": ("age", _age), "gender": ("gender", _classes),
    "ethnicity": ("ethnicity", _classes),
}
