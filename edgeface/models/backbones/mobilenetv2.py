"""MobileNetV2 (Sandler et al. 2018, table 2) without its classifier, the trunk of MOS-Mobilenetv2 (mos.txt).

Its tensors have torchvision's names, so that published weights load by name. ReLU stands where the paper has ReLU6: an
int8 layer clips at its scale anyway, and engines make ReLU a part of every convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.blocks import ConvBN, folded
from edgeface.models.deploy import deploy
from edgeface.models.layout import Layout

# Of table 2: expansion, channels, repeats, and stride of the first of them.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM = 32
# The last blocks before strides 8, 16 and 32, and the last of all: their maps are at strides 4, 8, 16, 32.
_ENDS = {4: 3, 8: 6, 16: 13, 32: 17}


class InvertedResidual(nn.Module):
    """1x1 to ``expansion`` times the channels, depthwise 3x3, 1x1 without activation, and the input where shapes match.

    (N, cin, H, W) -> (N, cout, H / stride, W / stride).
    """

    def __init__(self, cin: int, cout: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = cin * expansion
        self.adds = stride == 1 and cin == cout
        expand = [ConvBN(cin, inner, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand, ConvBN(inner, inner, 3, stride, groups=inner), nn.Conv2d(inner, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """(N, 3, H, W) -> maps at strides 8, 16, 32 of ``self.channels`` channels: 32, 96 and 320 at ``width`` 1. With
    ``finest`` 4 there is one at stride 4 before them, of 24 channels.

    ``width`` multiplies all channels, rounded to multiples of 8 as the authors do. Raises OptionError for one that is
    not above 0.
    """

    # The first convolution and its batch norm, which see the picture's channels.
    first = ("features.0.0", "features.0.1")

    def __init__(self, width: float = 1.0, finest: Literal[4, 8] = 8) -> None:
        super().__init__()
        if not width > 0:
            raise OptionError(f"no MobileNetV2 of width {width}: choose a number above 0, such as 1.0")
        blocks: list[nn.Module] = [ConvBN(3, _divisible(_STEM * width), 3, 2)]
        cin, widths = _divisible(_STEM * width), [_divisible(_STEM * width)]
        for expansion, channels, repeats, stride in _STAGES:
            cout = _divisible(channels * width)
            for i in range(repeats):
                blocks.append(InvertedResidual(cin, cout, 1 if i else stride, expansion))
                widths.append(cout)
                cin = cout
        self.features = nn.Sequential(*blocks)
        self.ends = tuple(end for stride, end in _ENDS.items() if stride >= finest)
        self.channels = tuple(widths[end] for end in self.ends)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for number, block in enumerate(self.features):
            x = block(x)
            if number in self.ends:
                maps.append(x)
        return maps


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below ``channels``, at least 8."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class FoldedInvertedResidual(nn.Module):
    """``InvertedResidual`` with its batch norms folded; a sum is a point of its own."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        *expand, depthwise, project, norm = block.conv
        self.expand, self.expand_out = None, None
        if expand:
            self.expand, self.expand_out = FoldedConv(*folded(expand[0])), Point()
        assert isinstance(depthwise, ConvBN)
        assert isinstance(depthwise[0], nn.Conv2d)
        weight, bias = folded(depthwise)
        self.depthwise = FoldedConv(weight, bias, depthwise[0].stride[0], 1, groups=len(weight))
        self.project = FoldedConv(*folded(nn.Sequential(project, norm)), relu=False)
        self.depthwise_out, self.project_out = Point(), Point()
        self.sum_out = Point() if block.adds else None

    @property
    def adds(self) -> bool:
        """Whether its input is a part of what it gives."""
        return self.sum_out is not None

    def forward(self, signal: Signal) -> Signal:
        inner = signal
        if self.expand is not None and self.expand_out is not None:
            inner = self.expand_out(self.expand(signal))
        out: Signal = self.project_out(self.project(self.depthwise_out(self.depthwise(inner))))
        return out if self.sum_out is None else self.sum_out.sum(signal, out)

    def pairs(self) -> Iterator[tuple[FoldedConv, FoldedConv]]:
        """Layers of which the second alone reads what the first gives, in their order."""
        if self.expand is not None:
            yield self.expand, self.depthwise
        yield self.depthwise, self.project


class FoldedMobileNetV2(nn.Module):
    """``MobileNetV2`` as deployed; its channels stay in their order."""

    def __init__(self, net: MobileNetV2) -> None:
        super().__init__()
        stem, *blocks = net.features
        self.ends = net.ends
        self.layouts: list[Layout] = [list(range(channels)) for channels in net.channels]
        weight, bias = folded(stem)
        self.stem, self.stem_out = FoldedConv(weight, bias, 2, 1), Point()
        self.blocks = nn.ModuleList(deploy(block) for block in blocks)

    def forward(self, signal: Signal) -> list[Signal]:
        signal = self.stem_out(self.stem(signal))
        maps = []
        for number, block in enumerate(self.blocks, 1):
            signal = block(signal)
            if number in self.ends:
                maps.append(signal)
        return maps

    def pairs(self) -> Iterator[tuple[FoldedConv, FoldedConv]]:
        """As those of its blocks, and of the stem."""
        first, *_ = self.blocks
        assert isinstance(first, FoldedInvertedResidual)
        # Nothing is expanded in the first block; where that adds what it reads, others than its layer read the stem's.
        if not first.adds:
            yield self.stem, first.depthwise
        for block in self.blocks:
            assert isinstance(block, FoldedInvertedResidual)
            yield from block.pairs()


@deploy.register
def _inverted_residual(block: InvertedResidual, multiple: int = 1) -> nn.Module:
    return FoldedInvertedResidual(block)


@deploy.register
def _mobilenetv2(block: MobileNetV2, multiple: int = 1) -> nn.Module:
    return FoldedMobileNetV2(block)
