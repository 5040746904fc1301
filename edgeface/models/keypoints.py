"""MaskFace's keypoint head (maskface.txt, section 3.2): heatmaps of a face's points from features of its box."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.errors import OptionError
from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.blocks import ConvBN, conv_of
from edgeface.models.deploy import deploy
from edgeface.models.multitask import plain_conv

Upsampling = Literal["shuffle", "deconvolution"]
SIZE = 14           # cells of a region, along each side
SHUFFLE = 2         # the heatmaps of 28 x 28 lie in so many rows and columns a cell
UPSAMPLE = 2        # and become 56 x 56


class KeypointHead(nn.Module):
    """(N, C, 14, 14) -> (N, points * 4, 14, 14): the 28 x 28 heatmaps as channels, as ``pixel_shuffle`` reads them.

    ``depth`` convolutions of 3x3 with ``hidden`` channels, the paper's 8 and 256; then ``upsampling``: the paper's 4x4
    "deconvolution" of stride 2, or "shuffle", a 1x1 convolution to four channels a point, which is a quarter of its
    work. The paper's group norm is batch norm here, which folds. Raises OptionError for another upsampling.
    """

    def __init__(self, channels: int, hidden: int, depth: int, points: int, upsampling: Upsampling) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ConvBN(hidden if i else channels, hidden, 3) for i in range(depth)))
        self.maps: nn.Conv2d | nn.ConvTranspose2d
        if upsampling == "shuffle":
            self.maps = nn.Conv2d(hidden, points * SHUFFLE**2, 1)
        elif upsampling == "deconvolution":
            self.maps = nn.ConvTranspose2d(hidden, points, 4, 2, 1)
        else:
            raise OptionError(f"no upsampling {upsampling!r}: choose shuffle or deconvolution")

    def forward(self, regions: Tensor) -> Tensor:
        maps: Tensor = self.maps(self.layers(regions))
        return maps if isinstance(self.maps, nn.Conv2d) else F.pixel_unshuffle(maps, SHUFFLE)


class FoldedKeypointHead(nn.Module):
    """``KeypointHead`` as deployed; a deconvolution is a 3x3 convolution of four channels a point, which is the same
    sums and which every engine has in int8."""

    def __init__(self, head: KeypointHead) -> None:
        super().__init__()
        self.data = Point()
        self.layers = nn.ModuleList(conv_of(block) for block in head.layers)
        self.layers_out = nn.ModuleList(Point() for _ in head.layers)
        if isinstance(head.maps, nn.Conv2d):
            self.maps = plain_conv(head.maps.weight, head.maps.bias)
        else:
            assert head.maps.bias is not None
            bias = head.maps.bias.repeat_interleave(SHUFFLE**2)
            self.maps = FoldedConv(as_convolution(head.maps.weight), bias, 1, 1, relu=False)
        self.maps_out = Point()

    def forward(self, regions: Tensor) -> Tensor:
        signal: Signal = self.data(regions)
        for conv, point in zip(self.layers, self.layers_out, strict=True):
            signal = point(conv(signal))
        out: Signal = self.maps_out(self.maps(signal))
        return out.value


def as_convolution(weight: Tensor) -> Tensor:
    """A 4x4 deconvolution's weight (I, K, 4, 4), of stride 2 and padding 1, as a 3x3 convolution's (4K, I, 3, 3), whose
    output ``pixel_shuffle`` turns into the deconvolution's."""
    inputs, outputs = weight.shape[:2]
    out = weight.new_zeros(outputs, SHUFFLE, SHUFFLE, inputs, 3, 3)
    # Row 2y + i of the output takes of input row y + d the weight's row i + 1 - 2d.
    taps = [(i, d, i + 1 - 2 * d) for i in range(SHUFFLE) for d in (-1, 0, 1) if 0 <= i + 1 - 2 * d < 4]
    for i, down, row in taps:
        for j, across, column in taps:
            out[:, i, j, :, down + 1, across + 1] = weight[:, :, row, column].t()
    return out.reshape(outputs * SHUFFLE**2, inputs, 3, 3)


def fine_heatmaps(maps: Tensor) -> Tensor:
    """What the head gives (N, points * 4, 14, 14) -> logits (N, points, 56, 56), as the loss sees them and the board
    takes the peak of."""
    coarse = F.pixel_shuffle(maps, SHUFFLE)
    return F.interpolate(coarse, scale_factor=float(UPSAMPLE), mode="bilinear", align_corners=False)


def keypoint_loss(maps: Tensor, points: Tensor) -> Tensor:
    """The spatial cross-entropy of maskface.txt, eq. 4 and 5, in its mean over the known points.

    ``maps`` (N, K * 4, 14, 14); ``points`` (N, K, 2), x y from 0 to 1 of the region, NaN where unknown; one outside the
    region has no cell and is left out.
    """
    logits = fine_heatmaps(maps).float()
    n, k, height, width = logits.shape
    scaled = points * torch.tensor([width, height], device=points.device, dtype=points.dtype)
    inside = ((points >= 0) & (points < 1)).all(2)
    cells = torch.where(inside[..., None], scaled, 0.0).long()
    target = cells[..., 1] * width + cells[..., 0]
    each = F.cross_entropy(logits.reshape(n * k, -1), target.reshape(-1), reduction="none").view(n, k)
    loss: Tensor = (each * inside).sum() / inside.sum().clamp_min(1)
    return loss


@deploy.register
def _head(block: KeypointHead, multiple: int = 1) -> nn.Module:
    return FoldedKeypointHead(block)
