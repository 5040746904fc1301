"""VGG16's convolutions (Simonyan and Zisserman 2015, table 1, column D), the trunk of S3FD and of its like.

Tensors of ``VGG16`` have torchvision's names, so that published weights load by name.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.deploy import deploy
from edgeface.models.layout import Layout

# Channels and convolutions of each block; a 2x2 pooling stands between two blocks.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def blocks() -> list[list[nn.Module]]:
    """The layers of the five blocks, 3x3 convolutions and ReLUs, without the poolings: strides 1, 2, 4, 8, 16."""
    found, cin = [], 3
    for cout, count in BLOCKS:
        layers: list[nn.Module] = []
        for i in range(count):
            layers += [nn.Conv2d(cout if i else cin, cout, 3, padding=1), nn.ReLU(inplace=True)]
        found.append(layers)
        cin = cout
    return found


class VGG16(nn.Module):
    """(N, 3, H, W) -> the maps of conv3_3, conv4_3 and conv5_3, at strides 4, 8, 16, of ``self.channels`` channels."""

    # The first convolution, which sees the picture's channels and has a bias instead of a batch norm.
    first = ("features.0", None)
    channels = (256, 512, 512)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in blocks():
            layers += [*block, nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps[2:]


class FoldedVGG16(nn.Module):
    """``VGG16`` as deployed; its channels stay in their order."""

    def __init__(self, net: VGG16) -> None:
        super().__init__()
        self.layouts: list[Layout] = [list(range(channels)) for channels in net.channels]
        self.convs, self.convs_out = nn.ModuleList(), nn.ModuleList()
        for layer in net.features:
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                self.convs.append(FoldedConv(layer.weight, layer.bias, 1, 1))
                self.convs_out.append(Point())

    def forward(self, signal: Signal) -> list[Signal]:
        maps = []
        convs = zip(self.convs, self.convs_out, strict=True)
        for _, count in BLOCKS:
            for _ in range(count):
                conv, point = next(convs)
                signal = point(conv(signal))
            maps.append(signal)
            signal = signal.mapped(lambda x: F.max_pool2d(x, 2))
        return maps[2:]


@deploy.register
def _vgg16(net: VGG16, multiple: int = 1) -> nn.Module:
    return FoldedVGG16(net)
