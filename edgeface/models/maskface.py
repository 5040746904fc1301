"""MaskFace (maskface.txt): a trunk, a feature pyramid, a context module a level, shared heads for score and box, and a
keypoint head on regions of the features.

Two pyramids. "published": P2 to P6, each with a context module and anchors. "light", for boards: anchors from stride 8
to 32, two octaves a level, and at stride 4 only what regions are taken from, a 1x1 of the trunk's map on top of the
features of stride 8. That 1x1 is linear, so it can be trained on regions of both maps that were computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeface.errors import OptionError
from edgeface.int8.modules import Point, Signal
from edgeface.models.backbones.mobilenetv2 import MobileNetV2
from edgeface.models.blocks import FPN, SSH, ConvBN, FoldedFPN, conv_of
from edgeface.models.dense import Dense, Parts
from edgeface.models.deploy import SCORE_LIMIT, deploy
from edgeface.models.keypoints import KeypointHead, Upsampling
from edgeface.models.layout import Layout, read_through
from edgeface.models.multitask import plain_conv
from edgeface.models.pixels import PIXEL_SCALE

VARIANCES = (0.1, 0.2)
FACE_PRIOR = 0.01
PyramidName = Literal["light", "published"]
FIVE, MANY = 5, 68
# What a checkpoint that names no other has.
PYRAMID: PyramidName = "light"
CHANNELS, POINTS, MARGIN = 64, MANY, 1.2


@dataclass(frozen=True)
class PyramidForm:
    """``strides`` of the levels with anchors and their ``sides`` in px; ``region_strides``, of the maps that regions
    are taken from."""

    strides: tuple[int, ...]
    sides: tuple[tuple[float, ...], ...]
    region_strides: tuple[int, ...]


def _octaves(side: float, octaves: int) -> tuple[float, ...]:
    """Three anchors an octave (maskface.txt, section 3.2)."""
    return tuple(round(side * 2 ** (i / 3), 2) for i in range(3 * octaves))


FORMS: dict[str, PyramidForm] = {
    "light": PyramidForm((8, 16, 32), tuple(_octaves(side, 2) for side in (16.0, 64.0, 256.0)), (4, 8, 16, 32)),
    "published": PyramidForm(
        (4, 8, 16, 32, 64), tuple(_octaves(side, 1) for side in (16.0, 32.0, 64.0, 128.0, 256.0)), (4, 8, 16, 32, 64)
    ),
}


class SharedHead(nn.Module):
    """A 1x1 convolution a task, one for all levels: (N, C, H, W) -> score (N, A, H, W), the logits of a face, and box
    (N, 4A, H, W)."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.score, self.box = nn.Conv2d(channels, anchors, 1), nn.Conv2d(channels, 4 * anchors, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"score": self.score(x), "box": self.box(x)}

    def score_pairs(self, score: Tensor) -> Tensor:
        """The score as background and face logits (N, 2A, H, W), the background's 0."""
        return torch.stack((torch.zeros_like(score), score), 2).flatten(1, 2)


class PublishedFPN(nn.Module):
    """P2 to P6: ``FPN`` on the trunk's maps, and a 1x1 of a max-pooling of its coarsest."""

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        self.fpn, self.coarsest = FPN(channels, out), ConvBN(channels[-1], out, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [*self.fpn(maps), self.coarsest(F.max_pool2d(maps[-1], 2))]


class MaskFace(Dense):
    """The network: ``forward`` is the dense stage, ``keypoints`` the stage per face; H and W are multiples of
    ``multiple``.

    A region is ``margin`` boxes wide. ``detail`` is the light pyramid's 1x1 of the trunk's map at stride 4, None in the
    published one.
    """

    def __init__(
        self, parts: Parts, form: PyramidForm, keypoints: nn.Module, detail: nn.Module | None, margin: float
    ) -> None:
        super().__init__(parts)
        self.form, self.margin = form, margin
        self.keypoints = keypoints
        self.detail = detail
        if detail is not None and self.is_deployed:
            self.detail_out, self.fine_out = Point(), Point()

    @property
    def multiple(self) -> int:
        """What sides of pictures are multiples of."""
        return max(self.form.strides)

    @property
    def channels(self) -> int:
        """Of the maps that regions are taken from."""
        return next(weight for weight in self.keypoints.parameters() if weight.ndim == 4).shape[1]

    def all_maps(self, x: Tensor) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        """(N, 3, H, W) normalised BGR -> each level's maps by the name of the task, and the maps that regions are taken
        from, finest first, (N, C, h, w)."""
        finest, *others = self.backbone(self.data(x) if self.is_deployed else x)
        found = self.level_maps(others if self.detail is not None else [finest, *others])
        features = [each for each, _ in found]
        if self.detail is not None:
            features.insert(0, self._fine(finest, features[0]))
        return [maps for _, maps in found], [_value(each) for each in features]

    def maps(self, x: Tensor) -> list[dict[str, Tensor]]:
        levels, features = self.all_maps(x)
        own = features[len(features) - len(levels) :]
        return [{**maps, "features": each} for maps, each in zip(levels, own, strict=True)]

    def parts_of_regions(self, x: Tensor) -> list[list[Tensor]]:
        """What each map that regions are taken from is the sum of: the map itself; of the light pyramid's finest one
        the trunk's map, before ``detail``, and the enlarged features of stride 8. Of a trained network alone."""
        finest, *others = self.backbone(x)
        if self.detail is None:
            return [[features] for features, _ in self.level_maps([finest, *others])]
        features = [each for each, _ in self.level_maps(others)]
        return [[_enlarged(features[0]), finest], *([each] for each in features)]

    def _fine(self, finest: Any, features: Any) -> Any:
        assert self.detail is not None
        if not self.is_deployed:
            return _enlarged(features) + self.detail(finest)
        return self.fine_out.sum(features.mapped(_enlarged), self.detail_out(self.detail(finest)))


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _value(features: Tensor | Signal) -> Tensor:
    return features.value if isinstance(features, Signal) else features


def maskface(
    width: float = 1.0, channels: int = CHANNELS, pyramid: PyramidName = PYRAMID, points: int = POINTS,
    head_channels: int = 48, head_depth: int = 8, upsampling: Upsampling = "shuffle", margin: float = MARGIN,
) -> MaskFace:
    """A new MaskFace on MobileNetV2 of ``width``; ``channels`` of the pyramid, a multiple of 4. ``points`` 5 or 68;
    ``head_channels``, ``head_depth`` and ``upsampling`` as those of ``KeypointHead``; ``margin`` boxes wide is a
    region, 1 in the paper.

    As published: pyramid="published", channels=256, head_channels=256, upsampling="deconvolution", margin=1. Raises
    OptionError for values that cannot work.
    """
    if pyramid not in FORMS:
        raise OptionError(f"no pyramid {pyramid!r}: choose {' or '.join(FORMS)}")
    sizes = channels % 4 == 0 and min(channels, head_channels) >= 4 and head_depth >= 1
    if points not in (FIVE, MANY) or not sizes or not margin > 0:
        raise OptionError(
            f"MaskFace of {points} points, {channels} channels, a head of {head_depth} layers of {head_channels} and a "
            f"margin of {margin} cannot work: points are 5 or 68, channels multiples of 4, the margin above 0"
        )
    form, backbone = FORMS[pyramid], MobileNetV2(width, finest=4)
    detail: nn.Module | None = None
    neck: nn.Module
    if pyramid == "light":
        neck = FPN(backbone.channels[1:], channels, smooth=False)
        detail = nn.Conv2d(backbone.channels[0], channels, 1, bias=False)
    else:
        neck = PublishedFPN(backbone.channels, channels)
    head = SharedHead(channels, len(form.sides[0]))
    keypoints = KeypointHead(channels, head_channels, head_depth, points, upsampling)
    parts = Parts(backbone, neck, [SSH(channels) for _ in form.strides], [head])
    net = MaskFace(parts, form, keypoints, detail, margin)
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    for conv in (head.score, head.box, keypoints.maps):
        nn.init.normal_(conv.weight, std=0.01)
    # Almost every anchor is background; starting there keeps the first steps from being all about that.
    assert head.score.bias is not None
    nn.init.constant_(head.score.bias, -math.log((1 - FACE_PRIOR) / FACE_PRIOR))
    return net


class FoldedSharedHead(nn.Module):
    """``SharedHead`` as deployed, one for all levels still."""

    def __init__(self, head: SharedHead) -> None:
        super().__init__()
        self.score = plain_conv(head.score.weight, head.score.bias)
        self.box = plain_conv(head.box.weight, head.box.bias)
        self.score_out, self.box_out = Point(limit=SCORE_LIMIT), Point()

    def forward(self, features: Signal) -> dict[str, Tensor]:
        """score (N, A, H, W) and box (N, 4A, H, W)."""
        return {
            "score": self.score_out(self.score(features)).value, "box": self.box_out(self.box(features)).value,
        }

    def score_pairs(self, score: Tensor) -> Tensor:
        """As that of ``SharedHead``."""
        return torch.stack((torch.zeros_like(score), score), 2).flatten(1, 2)


class FoldedPublishedFPN(nn.Module):
    """``PublishedFPN`` as deployed."""

    def __init__(self, neck: PublishedFPN, layouts: Sequence[Layout]) -> None:
        super().__init__()
        self.fpn, self.coarsest, self.coarsest_out = FoldedFPN(neck.fpn, layouts), conv_of(neck.coarsest), Point()
        with torch.no_grad():
            self.coarsest.weight.copy_(read_through(self.coarsest.weight, layouts[-1]))

    def forward(self, maps: Sequence[Signal]) -> list[Signal]:
        pooled = maps[-1].mapped(lambda x: F.max_pool2d(x, 2))
        return [*self.fpn(maps), self.coarsest_out(self.coarsest(pooled))]


@deploy.register
def _shared_head(block: SharedHead, multiple: int = 1) -> nn.Module:
    return FoldedSharedHead(block)


@deploy.register
def _published_fpn(block: PublishedFPN, multiple: int = 1, layouts: Sequence[Layout] = ()) -> nn.Module:
    return FoldedPublishedFPN(block, layouts)


@deploy.register
def _maskface(net: MaskFace, multiple: int = 1) -> nn.Module:
    backbone: Any = deploy(net.backbone, multiple)
    layouts: Sequence[Layout] = backbone.layouts
    detail = None
    if isinstance(net.detail, nn.Conv2d):
        detail = plain_conv(read_through(net.detail.weight, layouts[0]), None)
        layouts = layouts[1:]
    context: list[Any] = [deploy(block) for block in net.context]
    for block in context:
        # The head is one for all levels, and so is the scale of what it reads.
        block.features = context[0].features
    parts = Parts(
        backbone, deploy(net.get_submodule(net.neck_name), layouts=layouts), context,
        [deploy(head) for head in net.heads], Point(PIXEL_SCALE, fixed=True),
    )
    return MaskFace(parts, net.form, deploy(net.get_submodule("keypoints")), detail, net.margin)
