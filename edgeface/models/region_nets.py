"""Nets on a face's joined regions (tfn.txt, section IV.A.3): the 1x1 that fuses them, and what follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.blocks import ConvBN, conv_of, folded
from edgeface.models.deploy import SCORE_LIMIT, deploy
from edgeface.models.keypoints import KeypointHead
from edgeface.models.layout import Layout, read_through
from edgeface.models.multitask import plain_conv

_LARGEST_WINDOW = 4     # cells, of the layer that sees a whole region
_DEPTH = 4              # 3x3 convolutions of a net that gives heatmaps (tfn.txt, fig. 9)
_DROPOUT = 0.3


class ChannelAttention(nn.Module):
    """The simplified squeeze-and-excitation of tfn.txt, fig. 10: (N, C, H, W) times the sigmoid of a 1x1 of its
    channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.encode(F.adaptive_avg_pool2d(x, 1)))


class RegionNet(nn.Module):
    """(N, channels, size, size) -> the ``outputs`` by name, (N, count, 1, 1) each.

    A 1x1 to ``hidden`` channels fuses; 3x3 convolutions of stride 2 follow until the region is at most 4 wide, then
    two layers of ``wide`` on the whole of it, the paper's fully connected ones, and a 1x1 an output. With ``attention``
    the joined channels are weighed first.
    """

    def __init__(
        self, channels: int, hidden: int, wide: int, size: int, outputs: Mapping[str, int], attention: bool
    ) -> None:
        super().__init__()
        self.attention = ChannelAttention(channels) if attention else None
        self.fuse = ConvBN(channels, hidden, 1)
        layers = []
        while size > _LARGEST_WINDOW:
            layers.append(ConvBN(hidden, hidden, 3, 2))
            size = (size + 1) // 2
        self.layers = nn.Sequential(*layers)
        self.whole = nn.Sequential(nn.Conv2d(hidden, wide, size, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.second = ConvBN(wide, wide, 1)
        self.drop = nn.Dropout(_DROPOUT)
        self.heads = nn.ModuleDict({name: nn.Conv2d(wide, count, 1) for name, count in outputs.items()})

    def forward(self, regions: Tensor) -> dict[str, Tensor]:
        x = regions if self.attention is None else self.attention(regions)
        x = self.second(self.whole(self.layers(self.fuse(x))))
        return {name: head(self.drop(x)) for name, head in self.heads.items()}

    def last_layers(self) -> Iterator[nn.Module]:
        """Those whose outputs are the net's."""
        return iter(self.heads.values())


class HeatmapNet(nn.Module):
    """(N, channels, 14, 14) -> heatmaps of ``points`` points as channels, "heatmaps" (N, points * 4, 14, 14), as those
    of ``KeypointHead`` (tfn.txt, section VI.A; the paper's net halves and doubles its maps instead)."""

    def __init__(self, channels: int, hidden: int, points: int, attention: bool) -> None:
        super().__init__()
        self.attention = ChannelAttention(channels) if attention else None
        self.fuse = ConvBN(channels, hidden, 1)
        self.head = KeypointHead(hidden, hidden, _DEPTH, points, "shuffle")

    def forward(self, regions: Tensor) -> dict[str, Tensor]:
        x = regions if self.attention is None else self.attention(regions)
        return {"heatmaps": self.head(self.fuse(x))}

    def last_layers(self) -> Iterator[nn.Module]:
        """As that of ``RegionNet``."""
        yield self.head.maps


def _fused(block: ConvBN, layouts: Sequence[Layout]) -> FoldedConv:
    """The deployed 1x1 of maps whose channels lie as ``layouts`` say."""
    weight, bias = folded(block)
    logical = [sum(channel is not None for channel in layout) for layout in layouts]
    parts = [read_through(part, layout) for part, layout in zip(torch.split(weight, logical, 1), layouts, strict=True)]
    return FoldedConv(torch.cat(parts, 1), bias)


def _attention(block: ChannelAttention | None, layouts: Sequence[Layout]) -> ChannelAttention | None:
    """The attention over maps whose channels lie as ``layouts`` say, in float; None where there is none."""
    if block is None:
        return None
    order: list[int] = []
    for layout in layouts:
        first = len(order)
        order += [first + channel for channel in layout if channel is not None]
    ordered = ChannelAttention(len(order))
    assert block.encode.bias is not None
    assert ordered.encode.bias is not None
    with torch.no_grad():
        ordered.encode.weight.copy_(block.encode.weight[order][:, order])
        ordered.encode.bias.copy_(block.encode.bias[order])
    return ordered


class FoldedRegionNet(nn.Module):
    """``RegionNet`` as deployed."""

    def __init__(self, net: RegionNet, layouts: Sequence[Layout]) -> None:
        super().__init__()
        self.attention = _attention(net.attention, layouts)
        self.data, self.fuse_out, self.whole_out, self.second_out = (Point() for _ in range(4))
        self.fuse = _fused(net.fuse, layouts)
        self.layers = nn.ModuleList(conv_of(block, 2) for block in net.layers)
        self.layers_out = nn.ModuleList(Point() for _ in net.layers)
        self.whole, self.second = FoldedConv(*folded(net.whole)), conv_of(net.second)
        self.heads, self.heads_out = nn.ModuleDict(), nn.ModuleDict()
        for name, head in net.heads.items():
            assert isinstance(head, nn.Conv2d)
            self.heads[name] = plain_conv(head.weight, head.bias)
            self.heads_out[name] = Point(limit=SCORE_LIMIT) if name == "score" else Point()

    def forward(self, regions: Tensor) -> dict[str, Tensor]:
        """(N, C, S, S) -> the outputs by name, (N, count, 1, 1) each."""
        x = regions if self.attention is None else self.attention(regions)
        signal: Signal = self.fuse_out(self.fuse(self.data(x)))
        for conv, point in zip(self.layers, self.layers_out, strict=True):
            signal = point(conv(signal))
        signal = self.second_out(self.second(self.whole_out(self.whole(signal))))
        return {name: self.heads_out[name](head(signal)).value for name, head in self.heads.items()}


class FoldedHeatmapNet(nn.Module):
    """``HeatmapNet`` as deployed."""

    def __init__(self, net: HeatmapNet, layouts: Sequence[Layout]) -> None:
        super().__init__()
        self.attention = _attention(net.attention, layouts)
        self.data, self.fuse, self.head = Point(), _fused(net.fuse, layouts), deploy(net.head)

    def forward(self, regions: Tensor) -> dict[str, Tensor]:
        """(N, C, 14, 14) -> "heatmaps" (N, points * 4, 14, 14)."""
        # What the head takes is the 1x1's output, and that point's scale is the head's own.
        x = regions if self.attention is None else self.attention(regions)
        return {"heatmaps": self.head(self.fuse(self.data(x)))}


@deploy.register
def _region_net(block: RegionNet, multiple: int = 1, layouts: Sequence[Layout] = ()) -> nn.Module:
    return FoldedRegionNet(block, layouts)


@deploy.register
def _heatmap_net(block: HeatmapNet, multiple: int = 1, layouts: Sequence[Layout] = ()) -> nn.Module:
    return FoldedHeatmapNet(block, layouts)
