"""ShuffleNetV2 trunk (Ma et al. 2018, table 5), the backbone of MOS-S (mos.txt, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.models.backbones.shuffle_free import ShuffleFreeNet
from edgeface.models.blocks import ConvBN
from edgeface.models.deploy import deploy

CHANNELS = {"0.5x": (24, 48, 96, 192), "1.0x": (24, 116, 232, 464)}
REPEATS = (4, 8, 4)


def channel_shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels, (N, C, H, W) -> (N, C, H, W).

    Written as view, transpose, view because nn.ChannelShuffle has no ONNX form in the exporter used here.
    """
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """The two units of the paper's figure 3: stride 1 splits the channels, stride 2 halves the map."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.stride = stride
        inner = cin if stride == 2 else half
        self.branch = nn.Sequential(
            ConvBN(inner, half, 1),
            ConvBN(half, half, 3, stride, groups=half, relu=False),
            ConvBN(half, half, 1),
        )
        self.shortcut = (
            nn.Sequential(ConvBN(cin, cin, 3, 2, groups=cin, relu=False), ConvBN(cin, half, 1))
            if stride == 2
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.stride == 2 else x.chunk(2, 1)
        return channel_shuffle(torch.cat((self.shortcut(left), self.branch(right)), 1))


class ShuffleNetV2(nn.Module):
    """Trunk without classifier: (N, 3, H, W) -> maps at strides 8, 16, 32 with ``self.channels`` channels.

    The stem pools 2x2 without padding where the original pools 3x3 with padding: a padded pooling has no int8 form
    in the TFLite converters. Raises OptionError for a width that is not in CHANNELS.
    """

    def __init__(self, width: str = "1.0x") -> None:
        super().__init__()
        if width not in CHANNELS:
            raise OptionError(f"no ShuffleNetV2 width {width!r}: choose one of {', '.join(CHANNELS)}")
        stem, *stages = CHANNELS[width]
        self.channels = tuple(stages)
        self.stem = nn.Sequential(ConvBN(3, stem, 3, 2), nn.MaxPool2d(2, 2))
        self.stages = nn.ModuleList()
        cin = stem
        for cout, repeats in zip(stages, REPEATS, strict=True):
            units = [ShuffleUnit(cin, cout, 2)] + [ShuffleUnit(cout, cout, 1) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*units))
            cin = cout

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


@deploy.register
def _shufflenetv2(net: ShuffleNetV2, multiple: int = 1) -> nn.Module:
    return ShuffleFreeNet(net.stem[0], list(net.stages), multiple)
