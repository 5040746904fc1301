"""MOS (mos.txt): a trunk, FPN on strides 8, 16, 32, context modules, multi-task head, and a pose head at kept anchors.

Trunk, pyramid and context modules are given; zoo/ has the models that are made so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeface.models.blocks import FPN
from edgeface.models.multitask import MultiTaskHead

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
POSE_BINS = 66
POSE_BIN_DEG = 3.0
FACE_PRIOR = 0.01
# The units of its regressions: see edgeface.bundle.DenseStage.
VARIANCES = (0.1, 0.2)


@dataclass(frozen=True)
class DenseOutput:
    """Raw maps of MOS's dense stage, one tensor a level (strides 8, 16, 32); A = 2 anchors a position.

    ``score`` (N, 2A, H, W) background and face logits, anchor-major; ``box`` (N, 4A, H, W); ``landmarks``
    (N, 10A, H, W); ``features`` (N, C, H, W), what the pose head gathers from.
    """

    score: list[Tensor]
    box: list[Tensor]
    landmarks: list[Tensor]
    features: list[Tensor]


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


class MOS(nn.Module):
    """The MOS network; ``forward`` is the dense stage, ``pose`` the stage per face.

    ``backbone`` gives maps at STRIDES, ``fpn`` takes them and gives as many of ``channels`` channels, and ``context``
    has a module a level, each (N, channels, H, W) -> the same shape.
    """

    anchors_per_position = 2

    def __init__(self, backbone: nn.Module, fpn: FPN, context: Sequence[nn.Module], channels: int) -> None:
        super().__init__()
        a = self.anchors_per_position
        self.channels = channels
        self.backbone = backbone
        self.fpn = fpn
        self.context = nn.ModuleList(context)
        tasks = {"score": 2 * a, "box": 4 * a, "landmarks": 10 * a, "pose": 0}
        self.heads = nn.ModuleList(MultiTaskHead(channels, tasks) for _ in STRIDES)
        self.pose_head = PoseHead(channels)
        self._initialise()

    def _initialise(self) -> None:
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for head in self.heads:
            assert isinstance(head, MultiTaskHead)
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

    def forward(self, x: Tensor) -> DenseOutput:
        """(N, 3, H, W) normalised BGR, H and W multiples of 32 -> DenseOutput."""
        features = [ssh(f) for ssh, f in zip(self.context, self.fpn(self.backbone(x)), strict=True)]
        per_task = {
            task: [head(f, task) for head, f in zip(self.heads, features, strict=True)]
            for task in ("score", "box", "landmarks")
        }
        return DenseOutput(per_task["score"], per_task["box"], per_task["landmarks"], features)

    def pose(self, features: Tensor, level: int, image: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Pose logits (P, 3, 66) at P positions (image, row, col: int64) of one level's features (N, C, H, W)."""
        patches = gather_patches(features, image, row, col)
        stitched = self.heads[level](patches, "pose")
        logits: Tensor = self.pose_head(stitched)       # (1, 198, 1, P)
        return logits[0, :, 0].t().reshape(-1, 3, POSE_BINS)


def pose_degrees(logits: Tensor) -> Tensor:
    """Expected angle over the bins' centres, (..., 66) logits -> (...) degrees in -97.5 to 97.5."""
    bins = torch.arange(POSE_BINS, device=logits.device, dtype=torch.float32)
    return (logits.float().softmax(-1) * bins).sum(-1) * POSE_BIN_DEG + (POSE_BIN_DEG / 2 - 99.0)
