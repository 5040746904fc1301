"""Blocks that more than one network uses: convolution with batch norm, feature pyramid, SSH context module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
