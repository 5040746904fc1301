"""S3FD (Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", ICCV 2017), the detector that MHCNN refines
(mhcnn.txt, section 3.2): VGG16 with six detection layers, of which each sees faces of one octave, and a light variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeface.errors import CheckpointError
from edgeface.models.backbones import vgg
from edgeface.models.blocks import ConvBN
from edgeface.models.starting import for_bgr

# conv3_3, conv4_3, conv5_3, conv_fc7, conv6_2 and conv7_2. An anchor is four strides wide, whatever its level, so that
# faces of every size find the same density of anchors.
STRIDES = (4, 8, 16, 32, 64, 128)
ANCHOR_SIZES = tuple((4.0 * stride,) for stride in STRIDES)
NORMS = (10.0, 8.0, 5.0)
# Background logits of a level, the largest of which counts: where an anchor is small nearly all are background.
BACKGROUNDS = (3, 1, 1, 1, 1, 1)
VARIANCES = (0.1, 0.2)
# Below this a norm counts as this: TFLite's operator has it built in, so that all engines agree on a dark map.
LEAST_NORM = 1e-6

_VGG_CHANNELS = (256, 512, 512, 1024, 512, 256)
_LIGHT_CHANNELS = (48, 96, 128, 192, 128, 128)


@dataclass(frozen=True)
class S3FDOutput:
    """Raw maps of the six levels, one tensor a level; one anchor a position.

    ``score`` (N, 2, H, W) background and face logits after the max-out, ``box`` (N, 4, H, W).
    """

    score: list[Tensor]
    box: list[Tensor]


class L2Norm(nn.Module):
    """Every position's channels scaled to the length 1, times a learned factor a channel that starts at ``scale``.

    (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1, eps=LEAST_NORM) * self.scale[:, None, None]


class S3FD(nn.Module):
    """Six stages, each of which gives a detection layer, and a 3x3 convolution a task on each of these.

    ``stages`` take a picture, then each what the one before gave; the last one's ``channels`` are those of their
    outputs, at STRIDES.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.norms = nn.ModuleList(L2Norm(c, scale) for c, scale in zip(channels, NORMS, strict=False))
        self.score = nn.ModuleList(
            nn.Conv2d(c, backgrounds + 1, 3, padding=1) for c, backgrounds in zip(channels, BACKGROUNDS, strict=True)
        )
        self.box = nn.ModuleList(nn.Conv2d(c, 4, 3, padding=1) for c in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> S3FDOutput:
        """(N, 3, H, W) normalised BGR, H and W multiples of 128 -> S3FDOutput."""
        scores, boxes = [], []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            features = self.norms[level](x) if level < len(NORMS) else x
            scores.append(max_out(self.score[level](features)))
            boxes.append(self.box[level](features))
        return S3FDOutput(scores, boxes)


def max_out(logits: Tensor) -> Tensor:
    """Logits (N, B + 1, H, W), B of background and then the face's -> (N, 2, H, W), the largest of background's first.
    """
    return torch.cat((logits[:, :-1].amax(1, keepdim=True), logits[:, -1:]), 1)


def _vgg_stages() -> list[nn.Module]:
    blocks, pool = vgg.blocks(), nn.MaxPool2d(2, 2)
    # fc6 is 7x7 on this map; every third of its weights, as far apart as they were, are a 3x3 with dilation 3.
    fc6, fc7 = nn.Conv2d(512, 1024, 3, padding=3, dilation=3), nn.Conv2d(1024, 1024, 1)
    return [
        nn.Sequential(*blocks[0], pool, *blocks[1], pool, *blocks[2]),
        nn.Sequential(pool, *blocks[3]),
        nn.Sequential(pool, *blocks[4]),
        nn.Sequential(pool, fc6, nn.ReLU(inplace=True), fc7, nn.ReLU(inplace=True)),
        _extra(1024, 256, 512),
        _extra(512, 128, 256),
    ]


def _extra(cin: int, middle: int, cout: int) -> nn.Sequential:
    """conv6 and conv7: 1x1, then 3x3 with stride 2."""
    return nn.Sequential(
        nn.Conv2d(cin, middle, 1), nn.ReLU(inplace=True),
        nn.Conv2d(middle, cout, 3, 2, 1), nn.ReLU(inplace=True),
    )


def _separable(cin: int, cout: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a 1x1, each with batch norm and ReLU."""
    return nn.Sequential(ConvBN(cin, cin, 3, stride, groups=cin, dilation=dilation), ConvBN(cin, cout, 1))


def _light_stages() -> list[nn.Module]:
    c3, c4, c5, c7, c62, c72 = _LIGHT_CHANNELS
    return [
        nn.Sequential(ConvBN(3, 16, 3, 2), _separable(16, 32, 2), *(_separable(c, c3) for c in (32, c3, c3))),
        nn.Sequential(_separable(c3, c4, 2), _separable(c4, c4), _separable(c4, c4)),
        nn.Sequential(_separable(c4, c5, 2), _separable(c5, c5), _separable(c5, c5)),
        nn.Sequential(_separable(c5, c7, 2), _separable(c7, c7, dilation=3), ConvBN(c7, c7, 1)),
        nn.Sequential(ConvBN(c7, 64, 1), ConvBN(64, c62, 3, 2)),
        nn.Sequential(ConvBN(c62, 64, 1), ConvBN(64, c72, 3, 2)),
    ]


def s3fd() -> S3FD:
    """S3FD as published, 22 million parameters. ``load_vgg16`` gives its backbone trained weights.

    One thing is not as in its authors' files: their conv_fc6 has no dilation and a padding of 3, which shifts its map
    by two positions against the anchors. Here it has dilation 3, and the maps keep their places.
    """
    return S3FD(_vgg_stages(), _VGG_CHANNELS)


def s3fd_light() -> S3FD:
    """S3FD's detection layers, norms and max-out on a narrow backbone with batch norm, to train from random weights.

    Convolutions are depthwise and 1x1, of 48 to 192 channels instead of 256 to 1024; conv1 has stride 2 and is one
    layer; strides take the place of the poolings. 0.4 million parameters.
    """
    return S3FD(_light_stages(), _LIGHT_CHANNELS)


_VGG_LAYERS = tuple(f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
_VGG_FC = ("classifier.0", "classifier.3")
_VGG_FC_SHAPES = ((4096, 512, 7, 7), (4096, 4096, 1, 1))


@torch.no_grad()
def load_vgg16(net: nn.Module, state: Mapping[str, object], where: str) -> None:
    """Give the backbone of ``s3fd`` the weights of a VGG16 that was trained to classify, in torchvision's state dict.

    fc6 and fc7 become convolutions by taking every fourth of their outputs and every third of fc6's 7x7 weights. The
    first layer is changed to read pictures as this network gets them, BGR from -1 to 1, which is the same but for what
    lies outside the picture. Raises CheckpointError, which begins with ``where``, for weights that are missing or of
    another network's shape; the network is unchanged then.
    """
    assert isinstance(net, S3FD)
    convs = [m for stage in net.stages[:4] for m in stage.modules() if isinstance(m, nn.Conv2d)]
    if len(convs) != len(_VGG_LAYERS) + len(_VGG_FC):
        raise CheckpointError(f"{where}: VGG16's weights fit s3fd alone: leave them out, or train s3fd")
    weights = []
    for name, conv in zip(_VGG_LAYERS, convs, strict=False):
        weights.append(_weights(state, name, tuple(conv.weight.shape), where))
    first, bias = weights[0]
    weight, shift = for_bgr(first)
    weights[0] = weight, bias + shift
    for name, shape in zip(_VGG_FC, _VGG_FC_SHAPES, strict=True):
        weight, bias = _weights(state, name, shape, where)
        if name == _VGG_FC[0]:
            weights.append((weight[::4, :, ::3, ::3], bias[::4]))
        else:
            weights.append((weight[::4, ::4], bias[::4]))
    for conv, (weight, bias) in zip(convs, weights, strict=True):
        assert conv.bias is not None
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)


def _weights(
    state: Mapping[str, object], layer: str, shape: tuple[int, ...], where: str
) -> tuple[Tensor, Tensor]:
    """A layer's weight, seen as ``shape``, and its bias."""
    weight, bias = state.get(f"{layer}.weight"), state.get(f"{layer}.bias")
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        raise CheckpointError(f"{where}: has no {layer}.weight and .bias: give torchvision's vgg16 weights")
    if weight.numel() != torch.Size(shape).numel() or bias.shape != shape[:1]:
        raise CheckpointError(
            f"{where}: {layer}.weight is {tuple(weight.shape)}, not VGG16's: give torchvision's vgg16 weights"
        )
    return weight.float().reshape(shape), bias.float()
