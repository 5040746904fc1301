"""Adaptive training sample selection: each face sets its own IoU threshold from its nearest anchors.

Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection",
CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeface.training.assign import BACKGROUND, IGNORE_COVER, IGNORED, pairwise_overlap

# What an annotated face covers is that face and no other, also where the rest of the picture is not annotated.
NEAR_IOU, NEAR_COVER = 0.2, 0.7


def assign_atss(
    anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor, ignore: Tensor, complete: bool, *, candidates: int
) -> Tensor:
    """For each anchor the face's index, BACKGROUND or IGNORED: (K,) int64 (ATSS, algorithm 1).

    Anchors (K, 3) centre and side, level by level (``level_sizes`` of them); boxes (N, 4); ignore (N,) bool. The
    ``candidates`` nearest anchors of a level are a face's candidates. Those with an IoU of at least the candidates'
    mean plus their standard deviation, and with their centre on the face, are its own; a face without any takes its
    best candidate. Of two faces an anchor takes the one that it overlaps more. All other anchors are background; in an
    incomplete picture only those that lie on or about an annotated face are, so that a close-up teaches that it is one
    face.
    """
    outside = BACKGROUND if complete else IGNORED
    assigned = torch.full((len(anchors),), outside, dtype=torch.int64, device=anchors.device)
    if len(boxes) == 0:
        return assigned
    iou, cover = pairwise_overlap(anchors, boxes)                           # (K, N) each
    real = torch.nonzero(~ignore).flatten()
    if complete:
        assigned[(cover * ignore).amax(1) > IGNORE_COVER] = IGNORED
    elif len(real):
        near = (iou[:, real].amax(1) >= NEAR_IOU) | (cover[:, real].amax(1) >= NEAR_COVER)
        assigned[near] = BACKGROUND
    if len(real) == 0:
        return assigned
    iou, boxes = iou[:, real], boxes[real]                                  # (K, R), (R, 4)
    near = _nearest(anchors, level_sizes, boxes, candidates)                # (C, R) anchor numbers
    overlap = iou.gather(0, near)                                           # (C, R)
    centre = anchors[near][..., :2]                                         # (C, R, 2)
    inside = ((centre > boxes[None, :, :2]) & (centre < boxes[None, :, 2:])).all(-1)
    positive = (overlap >= overlap.mean(0) + overlap.std(0)) & inside
    # A tiny face between the centres of all anchors has none inside.
    lone = torch.nonzero(~positive.any(0)).flatten()
    positive[overlap[:, lone].argmax(0), lone] = overlap[:, lone].amax(0) > 0
    best, face = torch.full_like(iou, -1.0).scatter_(0, near, torch.where(positive, overlap, -1.0)).max(1)
    assigned[best > 0] = real[face[best > 0]]
    return assigned


def _nearest(anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor, candidates: int) -> Tensor:
    """Numbers (C, N) of each level's ``candidates`` anchors with the nearest centres, one level after the other."""
    distance = torch.cdist(anchors[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2)
    found, start = [], 0
    for size in level_sizes:
        count = min(candidates, size)
        found.append(distance[start : start + size].topk(count, 0, largest=False).indices + start)
        start += size
    return torch.cat(found)
