"""S3FD as converters see it: one graph of convolutions, poolings and three L2 norms, in float alone.

Batch norms are folded into their convolutions, the norms' factors into the heads that read them, and face minus
background into the score's weights, so that the max-out, face minus the largest background, is a minimum of maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from edgeface.bundle import Defaults, DenseStage, Level, Stage
from edgeface.models.deploy import deploy
from edgeface.models.family import Family, Files, Graph
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.s3fd import ANCHOR_SIZES, S3FD, STRIDES, VARIANCES

STEM = "dense"
INPUT = "data"


class _Graph(nn.Module):
    """A deployed network: (1, 3, H, W) -> each level's score and box, in the order of ``outputs``."""

    def __init__(self, net: S3FD) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(level[kind] for level in self.net.maps(x) for kind in ("score", "box"))


def outputs() -> tuple[str, ...]:
    """Names of the graph's outputs: score4, box4, score8, ..."""
    return tuple(f"{kind}{stride}" for stride in STRIDES for kind in ("score", "box"))


class S3FDFamily(Family):
    """S3FD and its light variant. Their norms have no int8 form, so they are not quantised."""

    canvas_multiple = max(STRIDES)
    nets = (S3FD,)
    # The paper suppresses at 0.7 before its refinement; alone, that leaves several boxes on a face.
    defaults = Defaults(size_px=640, score=0.5, nms_iou=0.4)

    def graphs(self, net: nn.Module) -> list[Graph]:
        assert isinstance(net, S3FD)
        if not net.is_deployed:
            net = cast(S3FD, deploy(net))
        # The shapes have no side in common.
        shapes = (1, 3, 512, 640), (1, 3, 256, 384)
        return [Graph(STEM, _Graph(net).eval(), INPUT, outputs(), shapes, {2: "height", 3: "width"})]

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        levels = [
            Level(stride, list(sizes), f"score{stride}", f"box{stride}")
            for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True)
        ]
        return [DenseStage(list(files(STEM)), INPUT, PIXEL_MEAN, PIXEL_SCALE, max(STRIDES), levels, VARIANCES)]
