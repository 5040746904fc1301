"""Which anchor is trained on which face: IoU matching with scale compensation, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

IGNORED, BACKGROUND = -2, -1
# An anchor with so much of its area on an ignored region is not background.
IGNORE_COVER = 0.4


@dataclass(frozen=True)
class AnchorGrid:
    """All anchors of one canvas, (K, 3) float32 centre x, centre y, side in px, ordered as decoding orders them.

    Level by level (``level_sizes`` anchors each), row by row, column by column, anchor by anchor.
    """

    anchors: Tensor
    level_sizes: tuple[int, ...]


@lru_cache(maxsize=16)
def anchor_grid(
    height: int, width: int, strides: tuple[int, ...], sides: tuple[tuple[float, ...], ...]
) -> AnchorGrid:
    """Square anchors of a (height, width) canvas: for 640x640 and MOS's strides and sides, 16,800 of them."""
    levels = []
    for stride, level_sides in zip(strides, sides, strict=True):
        rows, cols, a = height // stride, width // stride, len(level_sides)
        y = ((torch.arange(rows) + 0.5) * stride)[:, None, None].expand(rows, cols, a)
        x = ((torch.arange(cols) + 0.5) * stride)[None, :, None].expand(rows, cols, a)
        side = torch.tensor(level_sides)[None, None, :].expand(rows, cols, a)
        levels.append(torch.stack((x, y, side), -1).reshape(-1, 3))
    return AnchorGrid(torch.cat(levels), tuple(len(level) for level in levels))


def pairwise_overlap(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (K, N) and the share of each anchor's area that each box covers (K, N); anchors (K, 3), boxes (N, 4)."""
    half = anchors[:, 2:] / 2
    low, high = anchors[:, None, :2] - half[:, None], anchors[:, None, :2] + half[:, None]
    extent = (torch.minimum(high, boxes[None, :, 2:]) - torch.maximum(low, boxes[None, :, :2])).clamp_min(0)
    inter = extent[..., 0] * extent[..., 1]
    anchor_area = anchors[:, None, 2] ** 2
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None]
    return inter / (anchor_area + area - inter).clamp_min(1e-6), inter / anchor_area


def assign(
    anchors: Tensor,
    boxes: Tensor,
    ignore: Tensor,
    complete: bool,
    *,
    positive_iou: float,
    negative_iou: float,
    min_anchors: int,
) -> Tensor:
    """For each anchor the face's index, BACKGROUND or IGNORED: (K,) int64.

    Anchors (K, 3), boxes (N, 4), ignore (N,) bool. An anchor takes the face of its best IoU from ``positive_iou`` on
    and is background under ``negative_iou``. A face with fewer than ``min_anchors`` takes the best of those not yet
    taken, however small their IoU, as S3FD's scale compensation does for tiny faces; equal IoU goes to the nearer
    anchor. In an incomplete picture nothing is background.
    """
    k = len(anchors)
    outside = BACKGROUND if complete else IGNORED
    assigned = torch.full((k,), outside, dtype=torch.int64, device=anchors.device)
    if len(boxes) == 0:
        return assigned
    iou, cover = pairwise_overlap(anchors, boxes)
    real = ~ignore
    face_iou = torch.where(real[None], iou, torch.zeros_like(iou))
    best, index = face_iou.max(1)
    assigned[best >= negative_iou] = IGNORED
    assigned[(torch.where(real[None], torch.zeros_like(cover), cover)).amax(1) > IGNORE_COVER] = IGNORED
    positive = best >= positive_iou
    assigned[positive] = index[positive]
    if min_anchors:
        _compensate(assigned, anchors, boxes, face_iou, torch.nonzero(real).flatten(), positive, index, min_anchors)
    return assigned


def _compensate(
    assigned: Tensor, anchors: Tensor, boxes: Tensor, iou: Tensor, faces: Tensor, positive: Tensor, index: Tensor,
    min_anchors: int,
) -> None:
    counts = torch.bincount(index[positive], minlength=len(boxes))
    needy = faces[counts[faces] < min_anchors]
    if len(needy) == 0:
        return
    centre = (boxes[needy, :2] + boxes[needy, 2:]) / 2
    distance = torch.cdist(anchors[:, :2], centre) / anchors[:, 2:3]
    rank = iou[:, needy] - 1e-3 * distance
    rank = torch.where(positive[:, None], torch.full_like(rank, -torch.inf), rank)
    order = rank.topk(min(min_anchors, len(anchors)), 0).indices            # (min_anchors, faces)
    # The nearest anchor of a face must not be taken by a neighbour's third choice: later writes win, so best go last.
    for place in range(order.shape[0] - 1, -1, -1):
        wanted = counts[needy] + place < min_anchors
        chosen = order[place][wanted]
        overlapping = iou[chosen, needy[wanted]] > 0
        assigned[chosen[overlapping]] = needy[wanted][overlapping]


def match_compensated(
    anchors: Tensor,
    faces: Sequence[tuple[Tensor, Tensor]],
    complete: Sequence[bool],
    *,
    positive_iou: float,
    least_iou: float,
) -> list[Tensor]:
    """S3FD's matching in two stages (mhcnn.txt, section 3.2, item 4): as ``assign``, for the pictures of a batch.

    ``faces`` are each picture's boxes (N, 4) and ignore (N,). Stage one: every face takes its best anchor, and an
    anchor takes the face of its best IoU from ``positive_iou`` on. Stage two: a face with fewer anchors than the faces
    of the batch have on average takes the best of those that stage one left, up to that average, with an IoU above
    ``least_iou``. Of anchors with equal IoU the nearer is the better. Whatever is then not taken is background, but for
    ignored regions.
    """
    overlaps = [pairwise_overlap(anchors, boxes) for boxes, _ in faces]
    ious = [
        torch.where(ignore[None], torch.zeros_like(iou), iou)
        for (iou, _), (_, ignore) in zip(overlaps, faces, strict=True)
    ]
    ranks = [iou - 1e-3 * _distance(anchors, boxes) for iou, (boxes, _) in zip(ious, faces, strict=True)]
    matched = [_first_stage(iou, rank, positive_iou) for iou, rank in zip(ious, ranks, strict=True)]
    counts = [torch.bincount(m[m >= 0], minlength=len(ignore)) for m, (_, ignore) in zip(matched, faces, strict=True)]
    every = torch.cat([c[~ignore] for c, (_, ignore) in zip(counts, faces, strict=True)])
    mean = int(every.float().mean().round()) if len(every) else 0
    for assigned, iou, rank, count, (_, cover), (_, ignore), whole in zip(
        matched, ious, ranks, counts, overlaps, faces, complete, strict=True
    ):
        needy = torch.nonzero(~ignore & (count < mean)).flatten()
        if len(needy):
            offered = torch.where((assigned == BACKGROUND)[:, None] & (iou[:, needy] > least_iou), rank[:, needy], -1.0)
            _second_stage(assigned, offered, needy, mean - count[needy])
        left = assigned == BACKGROUND
        if not whole:
            assigned[left] = IGNORED
        elif len(ignore):
            assigned[left & ((cover * ignore).amax(1) > IGNORE_COVER)] = IGNORED
    return matched


def _distance(anchors: Tensor, boxes: Tensor) -> Tensor:
    """From each anchor's centre to each box's, in the anchor's sides and 1 at most: (K, N)."""
    return (torch.cdist(anchors[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2) / anchors[:, 2:]).clamp_max(1.0)


def _first_stage(iou: Tensor, rank: Tensor, positive_iou: float) -> Tensor:
    """IoU (K, N), and how good an anchor is for a face, (K, N) -> the face of each anchor, or BACKGROUND."""
    assigned = torch.full((len(iou),), BACKGROUND, dtype=torch.int64, device=iou.device)
    if iou.shape[1] == 0:
        return assigned
    best, face = iou.max(1)
    assigned[best >= positive_iou] = face[best >= positive_iou]
    anchor = rank.argmax(0)
    overlap = iou.gather(0, anchor[None])[0]
    # Where two faces have one best anchor, the one that fills it better is written last.
    for number in overlap.argsort(stable=True).tolist():
        if overlap[number] > 0:
            assigned[anchor[number]] = number
    return assigned


def _second_stage(assigned: Tensor, offered: Tensor, needy: Tensor, wanted: Tensor) -> None:
    """Let the ``needy`` faces take anchors, the best of those with a value above 0 in ``offered`` (K, needy), up to
    ``wanted`` each; of two faces the one that it is better for gets it."""
    best = offered.topk(min(int(wanted.max()), len(offered)), 0)
    place = torch.arange(len(best.values), device=offered.device)[:, None]
    taken = torch.where(place < wanted[None], best.values, -1.0)
    value, face = torch.full_like(offered, -1.0).scatter_(0, best.indices, taken).max(1)
    assigned[value > 0] = needy[face[value > 0]]


def encode(
    anchors: Tensor, boxes: Tensor, landmarks: Tensor, variances: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Regression targets of P matched pairs: boxes (P, 4) and landmarks (P, 10), as DenseStage decodes them."""
    centre_variance, size_variance = variances
    side = anchors[:, 2:]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1.0)
    box = torch.cat(
        ((centre - anchors[:, :2]) / (centre_variance * side), torch.log(extent / side) / size_variance), 1
    )
    points = (landmarks.view(-1, 5, 2) - anchors[:, None, :2]) / (centre_variance * side[:, None])
    return box, points.flatten(1)


def decode_boxes(anchors: Tensor, box: Tensor, variances: Sequence[float]) -> Tensor:
    """The boxes (P, 4) x1 y1 x2 y2 in px that regressions ``box`` (P, 4) at anchors (P, 3) mean: ``encode`` undone."""
    centre_variance, size_variance = variances
    side = anchors[:, 2:]
    centre = anchors[:, :2] + box[:, :2] * centre_variance * side
    # A network that has just begun may say anything; a side of e^4 anchors is beyond every canvas.
    half = side * torch.exp((box[:, 2:] * size_variance).clamp(-4, 4)) / 2
    return torch.cat((centre - half, centre + half), 1)
