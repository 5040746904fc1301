"""VGG16's convolutions (Simonyan and Zisserman 2015, table 1, column D), the trunk of S3FD and of its like.

Tensors of ``VGG16`` have torchvision's names, so that published weights load by name.
"""

from __future__ import annotations

from torch import Tensor, nn

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
