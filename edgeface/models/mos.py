"""MOS (mos.txt): a trunk, FPN on strides 8, 16, 32, context modules, multi-task head, and a pose head at kept anchors.

Trunk, pyramid and context modules are given; zoo/ has the models that are made so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeface.int8.modules import Point, Signal
from edgeface.models.blocks import FPN
from edgeface.models.dense import Dense, Parts
from edgeface.models.deploy import deploy
from edgeface.models.multitask import MultiTaskHead, plain_conv

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
POSE_BINS = 66
POSE_BIN_DEG = 3.0
PATCH = 3
FACE_PRIOR = 0.01
# The units of its regressions: see edgeface.bundle.DenseStage.
VARIANCES = (0.1, 0.2)


class PoseHead(nn.Module):
    """Pose in 66 bins an angle from the 3x3 features round a kept anchor (mos.txt, section 3.2.1).

    The published head runs three 3x3 convolutions on every position of every level; this one runs at kept anchors.
    Patches lie side by side, (N, C, 3, 3P), and the first convolution has stride 3, so that any number of faces is
    one inference: -> (N, 3 * 66, 1, P), pitch, yaw, roll.
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, hidden, 3, 3)
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.bins = nn.Conv2d(hidden, 3 * POSE_BINS, 1)

    def forward(self, patches: Tensor) -> Tensor:
        out: Tensor = self.bins(torch.relu(self.mix(torch.relu(self.patch(patches)))))
        return out


def gather_patches(features: Tensor, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """3x3 neighbourhoods, zero outside the map: (N, C, H, W) and P indices each -> (1, C, 3, 3P)."""
    padded = nn.functional.pad(features, (1, 1, 1, 1))
    step = torch.arange(3, device=features.device)
    rows = row[:, None, None] + step[None, :, None]     # (P, 3, 1)
    cols = col[:, None, None] + step[None, None, :]     # (P, 1, 3)
    patches = padded[image[:, None, None], :, rows, cols]   # (P, 3, 3, C)
    return patches.permute(3, 1, 0, 2).reshape(1, features.shape[1], 3, -1)


class MOS(Dense):
    """The MOS network; ``forward`` is the dense stage, ``pose`` the stage per face. ``channels`` of the pyramid; H and
    W are multiples of 32.

    ``pose_heads`` is the pose head, or of a deployed network the folded one of every level: the levels' first
    convolutions differ by the folded task.
    """

    anchors_per_position = 2
    neck_name = "fpn"

    def __init__(self, parts: Parts, channels: int, pose_heads: Sequence[nn.Module]) -> None:
        super().__init__(parts)
        self.channels = channels
        if self.is_deployed:
            self.pose_heads = nn.ModuleList(pose_heads)
        else:
            (self.pose_head,) = pose_heads

    def pose_maps(self, patches: Tensor, level: int) -> Tensor:
        """Patches of one level's features side by side (N, C, 3, 3P) -> logits (N, 198, 1, P)."""
        if self.is_deployed:
            point = self.context[level].get_submodule("features")
            deployed: Tensor = self.pose_heads[level](point(patches))
            return deployed
        head = self.heads[level]
        assert isinstance(head, MultiTaskHead)
        logits: Tensor = self.pose_head(head.task(patches, "pose"))
        return logits

    def pose(self, features: Tensor, level: int, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Pose logits (P, 3, 66) at P positions (image, row, col: int64) of one level's features (N, C, H, W)."""
        logits = self.pose_maps(gather_patches(features, image, row, col), level)
        return logits[0, :, 0].t().reshape(-1, 3, POSE_BINS)


def mos(backbone: nn.Module, fpn: FPN, context: Sequence[nn.Module], channels: int) -> MOS:
    """A new MOS. ``backbone`` gives maps at STRIDES, ``fpn`` takes them and gives as many of ``channels`` channels, and
    ``context`` has a module a level, each (N, channels, H, W) -> the same shape."""
    a = MOS.anchors_per_position
    tasks = {"score": 2 * a, "box": 4 * a, "landmarks": 10 * a, "pose": 0}
    heads = [MultiTaskHead(channels, tasks) for _ in STRIDES]
    net = MOS(Parts(backbone, fpn, context, heads), channels, [PoseHead(channels)])
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    for head in heads:
        _initialise(head)
    return net


def _initialise(head: MultiTaskHead) -> None:
    for conv in head.trunk:
        assert isinstance(conv, nn.Conv2d)
        nn.init.orthogonal_(conv.weight)
    for final in head.final.values():
        assert isinstance(final, nn.Conv2d)
        nn.init.normal_(final.weight, std=0.01)
    # Almost every anchor is background; starting there keeps the first steps from being all about that.
    bias = head.final["score"].bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        bias[0::2] = math.log((1 - FACE_PRIOR) / FACE_PRIOR)


def pose_degrees(logits: Tensor) -> Tensor:
    """Expected angle over the bins' centres, (..., 66) logits -> (...) degrees in -97.5 to 97.5."""
    bins = torch.arange(POSE_BINS, device=logits.device, dtype=torch.float32)
    return (logits.float().softmax(-1) * bins).sum(-1) * POSE_BIN_DEG + (POSE_BIN_DEG / 2 - 99.0)


class FoldedPoseHead(nn.Module):
    """One level's pose task and the pose head after it: patches side by side (N, C, 3, 3P) -> logits (N, 198, 1, P).

    The pose task has no bias, so folding it into the 3x3 convolution is exact, zero padding included.
    """

    def __init__(self, head: MultiTaskHead, pose: PoseHead) -> None:
        super().__init__()
        task, _ = head.folded("pose")
        weight = torch.einsum("omhw,mc->ochw", pose.patch.weight, task[:, :, 0, 0])
        self.patch = plain_conv(weight, pose.patch.bias, PATCH, relu=True)
        self.mix = plain_conv(pose.mix.weight, pose.mix.bias, relu=True)
        self.bins = plain_conv(pose.bins.weight, pose.bins.bias)
        self.patch_out, self.mix_out, self.logits = Point(), Point(), Point()

    def forward(self, patches: Signal) -> Tensor:
        out: Signal = self.logits(self.bins(self.mix_out(self.mix(self.patch_out(self.patch(patches))))))
        return out.value


@deploy.register
def _mos(net: MOS, multiple: int = 1) -> nn.Module:
    head = net.pose_head
    assert isinstance(head, PoseHead)
    poses = [FoldedPoseHead(each, head) for each in net.heads if isinstance(each, MultiTaskHead)]
    return MOS(net.deployed_parts(multiple), net.channels, poses)
