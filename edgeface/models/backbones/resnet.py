"""ResNet with bottlenecks (He et al. 2016, table 1) without its classifier: ResNet-50, and MOS-L's ResNet-152.

Its tensors have torchvision's names, so that published weights load by name; as there, a block's stride is in its 3x3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.blocks import folded
from edgeface.models.deploy import deploy
from edgeface.models.layout import Layout

# Bottlenecks at strides 4, 8, 16 and 32.
RESNET_50, RESNET_152 = (3, 4, 6, 3), (3, 8, 36, 3)
_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times ``width``, plus the input or a 1x1 of it, then ReLU.

    (N, cin, H, W) -> (N, 4 * width, H / stride, W / stride).
    """

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        cout = _EXPANSION * width
        self.conv1, self.bn1 = nn.Conv2d(cin, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, cout, 1, bias=False), nn.BatchNorm2d(cout)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """(N, 3, H, W) -> maps at strides 8, 16, 32 of 512, 1024 and 2048 channels, ``self.channels``.

    ``counts`` are the bottlenecks at strides 4 to 32: RESNET_50 or RESNET_152. Raises OptionError for other than four
    numbers above 0.
    """

    # The first convolution and its batch norm, which see the picture's channels.
    first = ("conv1", "bn1")

    def __init__(self, counts: Sequence[int]) -> None:
        super().__init__()
        if len(counts) != len(_WIDTHS) or min(counts) < 1:
            raise OptionError(f"counts {list(counts)}: give {len(_WIDTHS)} numbers above 0, as in {list(RESNET_50)}")
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        stages, cin = [], 64
        for number, (width, count) in enumerate(zip(_WIDTHS, counts, strict=True)):
            blocks = [Bottleneck(cin, width, 2 if number else 1)]
            cin = _EXPANSION * width
            blocks += [Bottleneck(cin, width, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(_EXPANSION * width for width in _WIDTHS[1:])

    def stages(self) -> list[nn.Sequential]:
        """The bottlenecks of each stride, finest first."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = _pooled(torch.relu(self.bn1(self.conv1(x))))        # (N, 64, H / 4, W / 4)
        maps = []
        for stage in self.stages():
            x = stage(x)
            maps.append(x)
        return maps[1:]


def _pooled(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 2, 1)


class FoldedBottleneck(nn.Module):
    """``Bottleneck`` with its batch norms folded; what is added is a point, and so is the sum behind its ReLU."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = FoldedConv(*folded(nn.Sequential(block.conv1, block.bn1)))
        self.conv2 = FoldedConv(*folded(nn.Sequential(block.conv2, block.bn2)), block.conv2.stride[0], 1)
        self.conv3 = FoldedConv(*folded(nn.Sequential(block.conv3, block.bn3)), relu=False)
        self.out1, self.out2, self.out3, self.sum_out = Point(), Point(), Point(), Point()
        self.side, self.side_out = None, None
        if block.downsample is not None:
            self.side = FoldedConv(*folded(block.downsample), block.conv2.stride[0], relu=False)
            self.side_out = Point()

    def forward(self, signal: Signal) -> Signal:
        y = self.out3(self.conv3(self.out2(self.conv2(self.out1(self.conv1(signal))))))
        side = signal if self.side is None or self.side_out is None else self.side_out(self.side(signal))
        total = self.sum_out.sum(y, side)
        return total.mapped(torch.relu)


class FoldedResNet(nn.Module):
    """``ResNet`` as deployed. Its pooling pads what a ReLU gave, so that zeros and no values at all are the same."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.layouts: list[Layout] = [list(range(channels)) for channels in net.channels]
        self.stem, self.stem_out = FoldedConv(*folded(nn.Sequential(net.conv1, net.bn1)), 2, 3), Point()
        self.stages = nn.ModuleList(nn.Sequential(*(deploy(block) for block in stage)) for stage in net.stages())

    def forward(self, signal: Signal) -> list[Signal]:
        signal = self.stem_out(self.stem(signal)).mapped(_pooled)
        maps = []
        for stage in self.stages:
            signal = stage(signal)
            maps.append(signal)
        return maps[1:]


@deploy.register
def _bottleneck(block: Bottleneck, multiple: int = 1) -> nn.Module:
    return FoldedBottleneck(block)


@deploy.register
def _resnet(block: ResNet, multiple: int = 1) -> nn.Module:
    return FoldedResNet(block)
