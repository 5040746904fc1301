"""MOS as it is deployed: the function of ``MOS`` in eval mode, from convolutions and copies alone.

Batch norms are folded into their convolutions, the multi-task heads (mos.txt, section 3.1) into one 1x1 convolution a
task, a face's two score logits into their difference, the pose task's 1x1 into the pose head's first convolution, and
the backbone's channel shuffles into the order of the weights (shuffle_free.py). SSH's ReLU stands before its
concatenation, where it is the same and can be a part of the convolutions. Backbone and context modules are deployed by
their type (deploy.py). Every tensor that an int8 engine stores is a
``Point``, so this is also the network that quantisation-aware training trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeface.int8.modules import FoldedConv, Point, Signal, concatenated
from edgeface.models.backbones.shufflenetv2 import ShuffleNetV2
from edgeface.models.blocks import FPN, SSH, folded
from edgeface.models.deploy import deploy
from edgeface.models.mos import MOS, POSE_BINS, DenseOutput, PoseHead, gather_patches
from edgeface.models.multitask import MultiTaskHead
from edgeface.models.pixels import PIXEL_SCALE
from edgeface.models.shuffle_free import Layout, ShuffleFreeStage, read_through

PATCH = 3
# Filling the slices up to 8 channels, as int8 kernels take them, was estimated at 3 % more time in ncnn int8 on one
# Cortex-A72 and 11 % more in float: the depthwise layers gain less than the 1x1 layers lose.
CHANNEL_MULTIPLE = 1
# Beyond a probability of .0017 or .9983 nothing is decided, so TFLite's 8 bits are spent on the logits between: at
# steps of .05 fewer faces have the same score, which was worth .002 of AP hard.
SCORE_LIMIT = 6.35


def _conv(block: nn.Module, stride: int = 1, relu: bool = True) -> FoldedConv:
    weight, bias = folded(block)
    return FoldedConv(weight, bias, stride, weight.shape[2] // 2, relu=relu)


def _plain(weight: Tensor, bias: Tensor | None, stride: int = 1, relu: bool = False) -> FoldedConv:
    return FoldedConv(weight, weight.new_zeros(len(weight)) if bias is None else bias, stride, relu=relu)


class FoldedBackbone(nn.Module):
    """The stem and the stages; ``layouts`` are the orders of the channels at strides 8, 16, 32."""

    def __init__(self, backbone: ShuffleNetV2, multiple: int) -> None:
        super().__init__()
        self.stem = _conv(backbone.stem[0], 2)
        self.stem_out = Point()
        layout: Layout = list(range(len(self.stem.bias)))
        self.stages = nn.ModuleList()
        self.layouts: list[Layout] = []
        for units in backbone.stages:
            assert isinstance(units, nn.Sequential)
            stage = ShuffleFreeStage(list(units), layout, multiple)
            layout = stage.layout
            self.stages.append(stage)
            self.layouts.append(layout)

    def forward(self, signal: Signal) -> list[Signal]:
        signal = self.stem_out(self.stem(signal)).mapped(lambda x: nn.functional.max_pool2d(x, 2, 2))
        maps = []
        for stage in self.stages:
            signal = stage(signal)
            maps.append(signal)
        return maps


class FoldedFPN(nn.Module):
    """``blocks.FPN``; an upsampled map and what it is added to are points of TFLite alone, the sum is one of both."""

    def __init__(self, fpn: FPN, layouts: Sequence[Layout]) -> None:
        super().__init__()
        self.lateral, self.lateral_out = nn.ModuleList(), nn.ModuleList()
        for block, layout in zip(fpn.lateral, layouts, strict=True):
            weight, bias = folded(block)
            self.lateral.append(FoldedConv(read_through(weight, layout), bias))
            self.lateral_out.append(Point())
        self.sum_out = nn.ModuleList(Point() for _ in fpn.smooth)
        smooth = [block for block in fpn.smooth if not isinstance(block, nn.Identity)]
        self.smooth = nn.ModuleList(_conv(block) for block in smooth)
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


class FoldedSSH(nn.Module):
    """``blocks.SSH`` with its three outputs as one point, the features."""

    def __init__(self, ssh: SSH) -> None:
        super().__init__()
        self.direct, self.reduce, self.field5 = _conv(ssh.direct), _conv(ssh.reduce), _conv(ssh.field5)
        self.field7a, self.field7b = _conv(ssh.field7[0]), _conv(ssh.field7[1])
        self.reduce_out, self.field7a_out, self.features = Point(), Point(), Point()

    def forward(self, signal: Signal) -> Signal:
        narrow = self.reduce_out(self.reduce(signal))
        wide = self.field7a_out(self.field7a(narrow))
        return concatenated([
            self.features(self.direct(signal)), self.features(self.field5(narrow)), self.features(self.field7b(wide))
        ])


class FoldedHead(nn.Module):
    """One 1x1 convolution a task; ``score`` gives one logit an anchor, face minus background."""

    def __init__(self, head: MultiTaskHead) -> None:
        super().__init__()
        weight, bias = head.folded("score")
        assert bias is not None
        self.score = _plain(weight[1::2] - weight[0::2], bias[1::2] - bias[0::2])
        self.box, self.landmarks = _plain(*head.folded("box")), _plain(*head.folded("landmarks"))
        self.score_out, self.box_out, self.landmarks_out = Point(limit=SCORE_LIMIT), Point(), Point()

    def forward(self, features: Signal) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.score_out(self.score(features)).value,
            self.box_out(self.box(features)).value,
            self.landmarks_out(self.landmarks(features)).value,
        )


class FoldedPoseHead(nn.Module):
    """One level's pose task and the pose head after it: patches side by side (N, C, 3, 3P) -> logits (N, 198, 1, P).

    The pose task has no bias, so folding it into the 3x3 convolution is exact, zero padding included.
    """

    def __init__(self, head: MultiTaskHead, pose: PoseHead) -> None:
        super().__init__()
        task, _ = head.folded("pose")
        weight = torch.einsum("omhw,mc->ochw", pose.patch.weight, task[:, :, 0, 0])
        self.patch = _plain(weight, pose.patch.bias, PATCH, relu=True)
        self.mix = _plain(pose.mix.weight, pose.mix.bias, relu=True)
        self.bins = _plain(pose.bins.weight, pose.bins.bias)
        self.patch_out, self.mix_out, self.logits = Point(), Point(), Point()

    def forward(self, patches: Signal) -> Tensor:
        out: Signal = self.logits(self.bins(self.mix_out(self.mix(self.patch_out(self.patch(patches))))))
        return out.value


@deploy.register
def _shufflenetv2(block: ShuffleNetV2, multiple: int = 1) -> nn.Module:
    return FoldedBackbone(block, multiple)


@deploy.register
def _ssh(block: SSH, multiple: int = 1) -> nn.Module:
    return FoldedSSH(block)


class FoldedMOS(nn.Module):
    """The deployed MOS, made from a trained one; it owns its weights and computes in float until ``set_mode``.

    Raises ConversionError for one with a block that has no deployed form.
    """

    def __init__(self, net: MOS, channel_multiple: int = CHANNEL_MULTIPLE) -> None:
        super().__init__()
        self.channels = net.channels
        self.data = Point(PIXEL_SCALE, fixed=True)      # pixels less their mean: whole numbers already
        self.backbone = deploy(net.backbone, channel_multiple)
        layouts: Any = self.backbone.layouts        # torch types a module's attributes as tensors and modules
        self.fpn = FoldedFPN(net.fpn, layouts)
        heads = [head for head in net.heads if isinstance(head, MultiTaskHead)]
        self.context = nn.ModuleList(deploy(block) for block in net.context)
        self.heads = nn.ModuleList(FoldedHead(head) for head in heads)
        # The levels' first convolutions differ by the folded task, so each level has a head of its own.
        self.pose_heads = nn.ModuleList(FoldedPoseHead(head, net.pose_head) for head in heads)

    def maps(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """(N, 3, H, W) -> each level's score (N, A, h, w), box (N, 4A, h, w), landmarks (N, 10A, h, w) and features
        (N, C, h, w)."""
        levels = self.fpn(self.backbone(self.data(x)))
        found = []
        for context, head, level in zip(self.context, self.heads, levels, strict=True):
            features = context(level)
            found.append((*head(features), features.value))
        return found

    def forward(self, x: Tensor) -> DenseOutput:
        """(N, 3, H, W) normalised BGR, H and W multiples of 32 -> DenseOutput; the background's logits are 0."""
        score, box, landmarks, features = (list(maps) for maps in zip(*self.maps(x), strict=True))
        pairs = [torch.stack((torch.zeros_like(s), s), 2).flatten(1, 2) for s in score]
        return DenseOutput(pairs, box, landmarks, features)

    def pose_maps(self, patches: Tensor, level: int) -> Tensor:
        """Patches of one level's features side by side (N, C, 3, 3P) -> logits (N, 198, 1, P)."""
        point = self.context[level].get_submodule("features")
        out: Tensor = self.pose_heads[level](point(patches))
        return out

    def pose(self, features: Tensor, level: int, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Pose logits (P, 3, 66) at P positions, as ``MOS.pose``."""
        logits = self.pose_maps(gather_patches(features, image, row, col), level)
        return logits[0, :, 0].t().reshape(-1, 3, POSE_BINS)
