"""A trunk of 2x2 poolings and dense 3x3 convolutions at stride 1, which ncnn runs best on a Cortex-A72.

ncnn computes a dense 3x3 at stride 1 by Winograd's algorithm, at two to five times the MACs a second of a 1x1, a
depthwise or a strided convolution; so nearly all layers are of this kind, and poolings halve the maps. Each layer has a
second branch in training, a batch norm of its input, which is folded into the 3x3 for the board (Ding et al. 2021,
"RepVGG", section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.deploy import deploy
from edgeface.models.layout import Layout

STRIDES = (2, 4, 8, 16, 32)


class SkipConv(nn.Module):
    """3x3 with batch norm, plus a batch norm of the input where the shapes match, then ReLU.

    (N, cin, H, W) -> (N, cout, H / stride, W / stride).
    """

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.skip = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return torch.relu(y if self.skip is None else y + self.skip(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (cout, cin, 3, 3) and bias (cout,) of the one convolution that this is in eval mode, before ReLU."""
        gain, bias = _affine(self.bn)
        weight = self.conv.weight.detach() * gain[:, None, None, None]
        if self.skip is not None:
            skip_gain, skip_bias = _affine(self.skip)
            each = torch.arange(len(gain))
            weight[each, each, 1, 1] += skip_gain
            bias = bias + skip_bias
        return weight, bias


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and shift (C,) of a batch norm in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    return gain, norm.bias.detach() - norm.running_mean * gain


class PoolNet(nn.Module):
    """(N, 3, H, W), H and W multiples of 32 -> maps at strides 8, 16, 32, of ``self.channels`` channels.

    ``widths`` and ``counts`` are the channels and the 3x3 layers at STRIDES; the first of the layers has stride 2, the
    others follow a 2x2 pooling. Train it in channels_last, which is up to 1.3 times as fast on a CPU. Raises
    OptionError for other than five numbers above 0, or a first count other than 1.
    """

    def __init__(self, widths: Sequence[int], counts: Sequence[int]) -> None:
        super().__init__()
        for name, numbers in (("widths", widths), ("counts", counts)):
            if len(numbers) != len(STRIDES) or min(numbers) < 1:
                raise OptionError(f"{name} {list(numbers)}: give {len(STRIDES)} numbers above 0, for strides 2 to 32")
        if counts[0] != 1:
            raise OptionError(f"counts {list(counts)}: there is one layer at stride 2: begin with 1")
        self.channels = tuple(widths[-3:])
        self.stem = SkipConv(3, widths[0], 2)
        self.stages = nn.ModuleList()
        for cin, width, count in zip(widths, widths[1:], counts[1:], strict=False):
            self.stages.append(nn.Sequential(*(SkipConv(width if i else cin, width) for i in range(count))))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)                                    # (N, widths[0], H / 2, W / 2)
        maps = []
        for stage in self.stages:
            x = stage(nn.functional.max_pool2d(x, 2, 2))
            maps.append(x)
        return maps[-3:]


class FoldedSkipConv(nn.Module):
    """``SkipConv`` as one 3x3 convolution and the point that it fills, ``features``."""

    def __init__(self, block: SkipConv) -> None:
        super().__init__()
        self.conv = FoldedConv(*block.folded(), stride=block.conv.stride[0], padding=1)
        self.features = Point()

    def forward(self, signal: Signal) -> Signal:
        out: Signal = self.features(self.conv(signal))
        return out


class FoldedPoolNet(nn.Module):
    """``PoolNet`` as deployed. A pooling only picks values, so that it has the scale of the layer before it."""

    def __init__(self, net: PoolNet) -> None:
        super().__init__()
        self.layouts: list[Layout] = [list(range(channels)) for channels in net.channels]
        self.stem = deploy(net.stem)
        self.stages = nn.ModuleList()
        for stage in net.stages:
            assert isinstance(stage, nn.Sequential)
            self.stages.append(nn.Sequential(*(deploy(block) for block in stage)))

    def forward(self, signal: Signal) -> list[Signal]:
        signal = self.stem(signal)
        maps = []
        for stage in self.stages:
            signal = stage(signal.mapped(lambda x: nn.functional.max_pool2d(x, 2, 2)))
            maps.append(signal)
        return maps[-3:]


@deploy.register
def _skip_conv(block: SkipConv, multiple: int = 1) -> nn.Module:
    return FoldedSkipConv(block)


@deploy.register
def _pool_net(block: PoolNet, multiple: int = 1) -> nn.Module:
    return FoldedPoolNet(block)
