"""S3FD (Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", ICCV 2017), the detector that MHCNN refines
(mhcnn.txt, section 3.2): VGG16 with six detection layers, of which each sees faces of one octave, and a light variant.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeface.errors import CheckpointError
from edgeface.models.backbones import vgg
from edgeface.models.blocks import ConvBN
from edgeface.models.dense import Dense, Parts
from edgeface.models.deploy import deploy
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


class L2Norm(nn.Module):
    """Every position's channels scaled to the length 1, times a learned factor a channel that starts at ``scale``.

    (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1, eps=LEAST_NORM) * self.scale[:, None, None]


class Stages(nn.ModuleList):
    """Six stages, of which the first takes a picture, and each what the one before gave: (N, 3, H, W) -> a map each, at
    STRIDES."""

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self:
            x = stage(x)
            maps.append(x)
        return maps


class Norms(nn.ModuleList):
    """A norm for each of the finest maps; the others pass as they are."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self[level](x) if level < len(self) else x for level, x in enumerate(maps)]


class S3FDHead(nn.Module):
    """A 3x3 convolution a task: (N, C, H, W) -> score (N, 2, H, W) after the max-out, box (N, 4, H, W)."""

    def __init__(self, channels: int, backgrounds: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, backgrounds + 1, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"score": max_out(self.score(x)), "box": self.box(x)}

    def score_pairs(self, score: Tensor) -> Tensor:
        """The score as background and face logits, as it is."""
        return score


class S3FD(Dense):
    """Six stages, each of which gives a detection layer, the finest three normed, and a head on each of these.

    One anchor a position; H and W are multiples of 128. ``stages`` have ``channels`` channels at STRIDES.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.register_load_state_dict_pre_hook(_with_names_of_now)  # type: ignore[no-untyped-call]  # untyped in torch

    @classmethod
    def of(cls, stages: Sequence[nn.Module], channels: Sequence[int]) -> S3FD:
        """A new one, of ``stages`` that take a picture, then each what the one before gave, with ``channels`` each."""
        norms = [L2Norm(c, scale) for c, scale in zip(channels, NORMS, strict=False)]
        heads = [S3FDHead(c, backgrounds) for c, backgrounds in zip(channels, BACKGROUNDS, strict=True)]
        net = cls(Parts(Stages(stages), Norms(norms), [nn.Identity() for _ in channels], heads))
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return net


# Of the state of before, whose network was not made of a dense detector's parts.
_NAMES = (
    (re.compile(r"^stages\."), "backbone."), (re.compile(r"^norms\."), "neck."),
    (re.compile(r"^(score|box)\.(\d+)\."), r"heads.\2.\1."),
)  # fmt: skip


def _with_names_of_now(_net: nn.Module, state: dict[str, Any], prefix: str, *_others: object) -> None:
    for key in list(state):
        name = key.removeprefix(prefix)
        for old, new in _NAMES:
            name = old.sub(new, name)
        if key.startswith(prefix) and prefix + name != key:
            state[prefix + name] = state.pop(key)


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


class UnitNorm(nn.Module):
    """``L2Norm`` without its factors, which a deployed head has in its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1, eps=LEAST_NORM)


class FoldedS3FDHead(nn.Module):
    """``S3FDHead`` with the factors of the norm before it, if any: the max-out, face minus the largest background, is
    the least of the convolution's outputs, face minus each of them."""

    def __init__(self, head: S3FDHead, norm: nn.Module | None) -> None:
        super().__init__()
        self.score, self.box = _differences(head.score), copy.deepcopy(head.box)
        if isinstance(norm, L2Norm):
            for conv in (self.score, self.box):
                conv.weight.data.mul_(norm.scale.detach()[:, None, None])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> score (N, 1, H, W), box (N, 4, H, W)."""
        score, *others = self.score(x).split(1, 1)
        for other in others:
            score = torch.minimum(score, other)
        return {"score": score, "box": self.box(x)}

    def score_pairs(self, score: Tensor) -> Tensor:
        """The score as background and face logits (N, 2, H, W), the background's 0."""
        return torch.cat((torch.zeros_like(score), score), 1)


@deploy.register
def _stages(block: Stages, multiple: int = 1) -> nn.Module:
    folded = copy.deepcopy(block).eval()
    _fold_batch_norms(folded)
    return folded


@deploy.register
def _s3fd(net: S3FD, multiple: int = 1) -> nn.Module:
    norms = cast(Norms, net.neck)
    heads = [
        FoldedS3FDHead(cast(S3FDHead, head), norms[level] if level < len(norms) else None)
        for level, head in enumerate(net.heads)
    ]
    neck = Norms(UnitNorm() for _ in norms)
    return S3FD(Parts(deploy(net.backbone), neck, [nn.Identity() for _ in heads], heads, nn.Identity()))


def _fold_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvBN):
            conv, norm, *rest = child
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(conv, norm), *rest))
        else:
            _fold_batch_norms(child)


def _differences(conv: nn.Conv2d) -> nn.Conv2d:
    """From a convolution to B background logits and the face's, one to the face's minus each of the B."""
    assert conv.bias is not None
    backgrounds = conv.out_channels - 1
    out = nn.Conv2d(conv.in_channels, backgrounds, 3, padding=1)
    with torch.no_grad():
        out.weight.copy_(conv.weight[-1:] - conv.weight[:-1])
        assert out.bias is not None
        out.bias.copy_(conv.bias[-1:] - conv.bias[:-1])
    return out


def s3fd() -> S3FD:
    """S3FD as published, 22 million parameters. ``load_vgg16`` gives its backbone trained weights.

    One thing is not as in its authors' files: their conv_fc6 has no dilation and a padding of 3, which shifts its map
    by two positions against the anchors. Here it has dilation 3, and the maps keep their places.
    """
    return S3FD.of(_vgg_stages(), _VGG_CHANNELS)


def s3fd_light() -> S3FD:
    """S3FD's detection layers, norms and max-out on a narrow backbone with batch norm, to train from random weights.

    Convolutions are depthwise and 1x1, of 48 to 192 channels instead of 256 to 1024; conv1 has stride 2 and is one
    layer; strides take the place of the poolings. 0.4 million parameters.
    """
    return S3FD.of(_light_stages(), _LIGHT_CHANNELS)


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
    convs = [m for stage in cast(Stages, net.backbone)[:4] for m in stage.modules() if isinstance(m, nn.Conv2d)]
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
