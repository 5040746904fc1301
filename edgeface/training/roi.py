"""RoIAlign as the board does it (``edgeface/runtime/roi.py``), with gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def aligned_regions(maps: Tensor, picture: Tensor, boxes: Tensor, size: int, stride: int, sampling: int) -> Tensor:
    """Features (N, C, size, size) float32 of N boxes, each cell the mean of ``sampling`` x ``sampling`` bilinear
    samples.

    ``maps`` (B, C, H, W) of ``stride``; ``picture`` (N,) int64, the row of ``maps`` that a box lies in; ``boxes``
    (N, 4), x1 y1 x2 y2 in pixels of the network's input.
    """
    edges, count = boxes.float() / stride, size * sampling
    steps = (torch.arange(count, device=boxes.device) + 0.5) / count
    lengths = torch.tensor((maps.shape[3], maps.shape[2]), device=boxes.device)
    # Of each sample of an axis, in cells whose centres lie at +0.5: (N, 2, count).
    at = edges[:, :2, None] + (edges[:, 2:] - edges[:, :2])[:, :, None] * steps
    inside = (at >= -0.5) & (at <= lengths[:, None] + 0.5)
    across, down = (2 * at / lengths[:, None] - 1).unbind(1)
    shape = (len(boxes), count, count)
    grid = torch.stack((across[:, None, :].expand(shape), down[:, :, None].expand(shape)), 3)
    counted = (inside[:, 0, None, :] & inside[:, 1, :, None])[:, None]
    own = maps.float().index_select(0, picture)
    samples = F.grid_sample(own, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(samples * counted, sampling)
