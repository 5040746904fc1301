"""S3FD as converters see it: one graph of convolutions, poolings and three L2 norms, in float alone.

Batch norms are folded into their convolutions, the norms' factors into the heads that read them, and face minus
background into the score's weights, so that the max-out, face minus the largest background, is a minimum of maps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeface.bundle import Defaults, DenseStage, Level, Stage
from edgeface.models.blocks import ConvBN
from edgeface.models.family import Family, Files, Graph
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.s3fd import (
    ANCHOR_SIZES,
    LEAST_NORM,
    NORMS,
    S3FD,
    STRIDES,
    VARIANCES,
    L2Norm,
)

STEM = "dense"
INPUT = "data"


class FoldedS3FD(nn.Module):
    """The deployed network, made from a trained one; it owns its weights."""

    def __init__(self, net: S3FD) -> None:
        super().__init__()
        self.stages = copy.deepcopy(net.stages).eval()
        _fold_batch_norms(self.stages)
        self.score = nn.ModuleList(_differences(conv) for conv in net.score)
        self.box = copy.deepcopy(net.box)
        for level, norm in enumerate(net.norms):
            assert isinstance(norm, L2Norm)
            for conv in (self.score[level], self.box[level]):
                assert isinstance(conv, nn.Conv2d)
                conv.weight.data.mul_(norm.scale.detach()[:, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) normalised BGR, H and W multiples of 128 -> each level's score (N, 1, h, w), one logit, and box
        (N, 4, h, w)."""
        found = []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            features = nn.functional.normalize(x, dim=1, eps=LEAST_NORM) if level < len(NORMS) else x
            score, *others = self.score[level](features).split(1, 1)
            for other in others:
                score = torch.minimum(score, other)
            found += [score, self.box[level](features)]
        return tuple(found)


def _fold_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvBN):
            conv, norm, *rest = child
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(conv, norm), *rest))
        else:
            _fold_batch_norms(child)


def _differences(conv: nn.Module) -> nn.Conv2d:
    """From a convolution to B background logits and the face's, one to the face's minus each of the B."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    backgrounds = conv.out_channels - 1
    out = nn.Conv2d(conv.in_channels, backgrounds, 3, padding=1)
    with torch.no_grad():
        out.weight.copy_(conv.weight[-1:] - conv.weight[:-1])
        assert out.bias is not None
        out.bias.copy_(conv.bias[-1:] - conv.bias[:-1])
    return out


def outputs() -> tuple[str, ...]:
    """Names of the graph's outputs: score4, box4, score8, ..."""
    return tuple(f"{kind}{stride}" for stride in STRIDES for kind in ("score", "box"))


class S3FDFamily(Family):
    """S3FD and its light variant. Their norms have no int8 form, so they are not quantised."""

    canvas_multiple = max(STRIDES)
    nets = (S3FD, FoldedS3FD)
    # The paper suppresses at 0.7 before its refinement; alone, that leaves several boxes on a face.
    defaults = Defaults(size_px=640, score=0.5, nms_iou=0.4)

    def graphs(self, net: nn.Module) -> list[Graph]:
        if isinstance(net, S3FD):
            net = FoldedS3FD(net)
        # The shapes have no side in common.
        shapes = (1, 3, 512, 640), (1, 3, 256, 384)
        return [Graph(STEM, net.eval(), INPUT, outputs(), shapes, {2: "height", 3: "width"})]

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        levels = [
            Level(stride, list(sizes), f"score{stride}", f"box{stride}")
            for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True)
        ]
        return [DenseStage(list(files(STEM)), INPUT, PIXEL_MEAN, PIXEL_SCALE, max(STRIDES), levels, VARIANCES)]
