"""Blocks that more than one network uses: convolution with batch norm, feature pyramid, SSH context module.

Beside each stands how it is deployed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeface.int8.modules import FoldedConv, Point, Signal, concatenated
from edgeface.models.deploy import deploy
from edgeface.models.layout import Layout, read_through


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, and ReLU unless ``relu=False``; padding keeps H and W at stride 1."""

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True, dilation: int = 1
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(cin, cout, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False),
            nn.BatchNorm2d(cout),
        ]
        if relu:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


def folded(block: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the batch norm behind it, the first two of ``block``, as one convolution."""
    assert isinstance(block, nn.Sequential)
    conv, norm = block[0], block[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    fused = fuse_conv_bn_eval(conv.eval(), norm.eval())
    assert fused.bias is not None
    return fused.weight.detach(), fused.bias.detach()


def conv_of(block: nn.Module, stride: int = 1, relu: bool = True) -> FoldedConv:
    """The deployed form of a ConvBN with padding."""
    weight, bias = folded(block)
    return FoldedConv(weight, bias, stride, weight.shape[2] // 2, relu=relu)


class FPN(nn.Module):
    """Feature pyramid over neighbouring strides (mos.txt, fig. 1): 1x1 laterals, top-down addition, 3x3 smoothing.

    Takes maps (N, C_i, H_i, W_i), finest first, each half the size of the one before; gives maps (N, out, H_i, W_i).
    The upsampling takes its size from the factor 2, so inputs must be multiples of the coarsest stride. With
    ``smooth=False`` sums are given as they are: for context modules that begin with a 3x3.
    """

    def __init__(self, channels: Sequence[int], out: int, smooth: bool = True) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBN(c, out, 1) for c in channels)
        self.smooth = nn.ModuleList(ConvBN(out, out, 3) if smooth else nn.Identity() for _ in channels[:-1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 2, -1, -1):
            up = nn.functional.interpolate(levels[i + 1], scale_factor=2.0, mode="nearest")
            levels[i] = self.smooth[i](levels[i] + up)
        return levels


class FoldedFPN(nn.Module):
    """``FPN``; an upsampled map and what it is added to are points of TFLite alone, the sum is one of both."""

    def __init__(self, fpn: FPN, layouts: Sequence[Layout]) -> None:
        super().__init__()
        self.lateral, self.lateral_out = nn.ModuleList(), nn.ModuleList()
        for block, layout in zip(fpn.lateral, layouts, strict=True):
            weight, bias = folded(block)
            self.lateral.append(FoldedConv(read_through(weight, layout), bias))
            self.lateral_out.append(Point())
        self.sum_out = nn.ModuleList(Point() for _ in fpn.smooth)
        smooth = [block for block in fpn.smooth if not isinstance(block, nn.Identity)]
        self.smooth = nn.ModuleList(conv_of(block) for block in smooth)
        self.smooth_out = nn.ModuleList(Point() for _ in smooth)

    def forward(self, maps: Sequence[Signal]) -> list[Signal]:
        levels = [
            point(conv(x)) for conv, point, x in zip(self.lateral, self.lateral_out, maps, strict=True)
        ]
        for i in range(len(levels) - 2, -1, -1):
            up = levels[i + 1].mapped(lambda x: nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
            point = self.sum_out[i]
            assert isinstance(point, Point)
            levels[i] = point.sum(levels[i], up)
            if len(self.smooth):
                levels[i] = self.smooth_out[i](self.smooth[i](levels[i]))
        return levels


@deploy.register
def _fpn(block: FPN, multiple: int = 1, layouts: Sequence[Layout] = ()) -> nn.Module:
    return FoldedFPN(block, layouts)


class SSH(nn.Module):
    """Context module (mos.txt, section 3): 3x3, 5x5 and 7x7 fields from stacked 3x3 convolutions, concatenated.

    (N, C, H, W) -> (N, C, H, W); C must be a multiple of 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.direct = ConvBN(channels, half, 3, relu=False)
        self.reduce = ConvBN(channels, quarter, 3)
        self.field5 = ConvBN(quarter, quarter, 3, relu=False)
        self.field7 = nn.Sequential(ConvBN(quarter, quarter, 3), ConvBN(quarter, quarter, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.reduce(x)
        return torch.relu(torch.cat((self.direct(x), self.field5(narrow), self.field7(narrow)), 1))


class FoldedSSH(nn.Module):
    """``SSH`` with its three outputs as one point, the features."""

    def __init__(self, ssh: SSH) -> None:
        super().__init__()
        self.direct, self.reduce, self.field5 = conv_of(ssh.direct), conv_of(ssh.reduce), conv_of(ssh.field5)
        self.field7a, self.field7b = conv_of(ssh.field7[0]), conv_of(ssh.field7[1])
        self.reduce_out, self.field7a_out, self.features = Point(), Point(), Point()

    def forward(self, signal: Signal) -> Signal:
        narrow = self.reduce_out(self.reduce(signal))
        wide = self.field7a_out(self.field7a(narrow))
        return concatenated([
            self.features(self.direct(signal)), self.features(self.field5(narrow)), self.features(self.field7b(wide))
        ])


@deploy.register
def _ssh(block: SSH, multiple: int = 1) -> nn.Module:
    return FoldedSSH(block)
