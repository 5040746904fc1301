"""MOS's multi-task head with channel-wise cross-stitch (mos.txt, section 3.1), and its fold into one 1x1 a task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.deploy import SCORE_LIMIT, deploy


class MultiTaskHead(nn.Module):
    """One 1x1 convolution a task, a cross-stitch of all of them per channel, and one 1x1 convolution a task.

    For task k: y_k = B_k(sum_j stitch[k, j, c] * (A_j x)[c]) + b_k. Nothing in between is non-linear and A has no
    bias, so at export it is the 1x1 convolution of ``folded``. ``outputs`` maps a task's name to its channels; a task
    with 0 channels stops after the stitch (the pose head continues from there, at kept anchors only).
    """

    def __init__(self, channels: int, outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = tuple(outputs)
        n = len(self.tasks)
        self.trunk = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in self.tasks)
        # Starts near "each task its own" with a share of the others, as cross-stitch networks do.
        start = torch.full((n, n), 0.1 / max(1, n - 1)) + (0.9 - 0.1 / max(1, n - 1)) * torch.eye(n)
        self.stitch = nn.Parameter(start[:, :, None].repeat(1, 1, channels))
        self.final = nn.ModuleDict({t: nn.Conv2d(channels, c, 1) for t, c in outputs.items() if c})

    def folded(self, task: str) -> tuple[Tensor, Tensor | None]:
        """Weight (out, C, 1, 1) and bias (out,) of the one convolution that equals this head for ``task``.

        For a task without a final convolution the weight is (C, C, 1, 1) and the bias None.
        """
        k = self.tasks.index(task)
        trunk = torch.stack([_weight(conv) for conv in self.trunk])         # (tasks, C, C)
        mixed = (self.stitch[k][:, :, None] * trunk).sum(0)                 # (C, C)
        if task not in self.final:
            return mixed[:, :, None, None], None
        final = self.final[task]
        assert isinstance(final, nn.Conv2d)
        return (_weight(final) @ mixed)[:, :, None, None], final.bias

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> (N, out, H, W) for every task with a final convolution."""
        return {task: self.task(x, task) for task in self.final}

    def score_pairs(self, score: Tensor) -> Tensor:
        """The score as background and face logits, as it is."""
        return score

    def task(self, x: Tensor, task: str) -> Tensor:
        """(N, C, H, W) -> (N, out, H, W) for ``task``; computed through the fold, which is equal and cheaper."""
        weight, bias = self.folded(task)
        return nn.functional.conv2d(x, weight, bias)

    def unfolded(self, x: Tensor, task: str) -> Tensor:
        """The head as the paper draws it, (N, C, H, W) -> (N, out, H, W): what a test holds the fold against."""
        k = self.tasks.index(task)
        mixed = torch.zeros_like(x)
        for j, conv in enumerate(self.trunk):
            mixed = mixed + self.stitch[k, j][None, :, None, None] * conv(x)
        return self.final[task](mixed) if task in self.final else mixed


def plain_conv(weight: Tensor, bias: Tensor | None, stride: int = 1, relu: bool = False) -> FoldedConv:
    """A deployed convolution without padding; no bias is one of zeros."""
    return FoldedConv(weight, weight.new_zeros(len(weight)) if bias is None else bias, stride, relu=relu)


class FoldedHead(nn.Module):
    """One 1x1 convolution a task; ``score`` gives one logit an anchor, face minus background."""

    def __init__(self, head: MultiTaskHead) -> None:
        super().__init__()
        weight, bias = head.folded("score")
        assert bias is not None
        self.score = plain_conv(weight[1::2] - weight[0::2], bias[1::2] - bias[0::2])
        self.box, self.landmarks = plain_conv(*head.folded("box")), plain_conv(*head.folded("landmarks"))
        self.score_out, self.box_out, self.landmarks_out = Point(limit=SCORE_LIMIT), Point(), Point()

    def forward(self, features: Signal) -> dict[str, Tensor]:
        """The maps of every task: score (N, A, H, W), box (N, 4A, H, W), landmarks (N, 10A, H, W)."""
        return {
            "score": self.score_out(self.score(features)).value,
            "box": self.box_out(self.box(features)).value,
            "landmarks": self.landmarks_out(self.landmarks(features)).value,
        }

    def score_pairs(self, score: Tensor) -> Tensor:
        """The score as background and face logits (N, 2A, H, W), the background's 0."""
        return torch.stack((torch.zeros_like(score), score), 2).flatten(1, 2)


@deploy.register
def _head(block: MultiTaskHead, multiple: int = 1) -> nn.Module:
    return FoldedHead(block)


def _weight(conv: nn.Module) -> Tensor:
    """A 1x1 convolution's weight as a matrix (out, in)."""
    assert isinstance(conv, nn.Conv2d)
    return conv.weight[:, :, 0, 0]
