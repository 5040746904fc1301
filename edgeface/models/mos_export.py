"""MOS as converters see it: one graph for the whole image and one pose graph a level, and the stages that use them.

The graphs hold plain convolutions only: the multi-task heads (mos.txt, section 3.1) are folded into 1x1 convolutions, a
face's two score logits into their difference, and the pose task's 1x1 into the pose head's first convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeface.bundle import DenseStage, Level, PoseStage
from edgeface.errors import ConversionError
from edgeface.models.mos import (
    ANCHOR_SIZES,
    MOS,
    PIXEL_MEAN,
    PIXEL_SCALE,
    POSE_BIN_DEG,
    POSE_BINS,
    STRIDES,
    VARIANCES,
)
from edgeface.models.multitask import MultiTaskHead

PATCH = 3
INPUT = "data"
POSE_INPUT = "patches"
POSE_OUTPUT = "logits"


@dataclass(frozen=True)
class Graph:
    """One network of a bundle: ``module`` takes one float32 (1, C, H, W) and gives one tensor a name of ``outputs``.

    ``shapes`` are two inputs that differ in every free dimension, which is how a converter learns what is free;
    ``free`` names these by index. ``stem`` is the file name without its extension.
    """

    stem: str
    module: nn.Module
    input: str
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    free: dict[int, str]


class _Dense(nn.Module):
    """backbone, FPN, SSH, then one folded 1x1 convolution a task and level; outputs in the order of dense_outputs."""

    def __init__(self, net: MOS) -> None:
        super().__init__()
        self.backbone, self.fpn, self.context = net.backbone, net.fpn, net.context
        self.heads = nn.ModuleList()
        for head in net.heads:
            assert isinstance(head, MultiTaskHead)
            self.heads.append(nn.ModuleList([
                _convolution(*_face_minus_background(*head.folded("score"))),
                _convolution(*head.folded("box")),
                _convolution(*head.folded("landmarks")),
            ]))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for context, head, feature in zip(self.context, self.heads, self.fpn(self.backbone(x)), strict=True):
            feature = context(feature)
            assert isinstance(head, nn.ModuleList)
            outputs += [*(convolution(feature) for convolution in head), feature]
        return tuple(outputs)


def _convolution(weight: Tensor, bias: Tensor | None, stride: int = 1) -> nn.Conv2d:
    """A convolution without padding that owns a copy of these weights."""
    out, cin, kernel, _ = weight.shape
    convolution = nn.Conv2d(cin, out, kernel, stride, bias=bias is not None)
    with torch.no_grad():
        convolution.weight.copy_(weight)
        if bias is not None and convolution.bias is not None:
            convolution.bias.copy_(bias)
    return convolution


def _face_minus_background(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(2A, C, 1, 1) with background and face logits, anchor-major -> (A, C, 1, 1): softmax needs the difference."""
    return weight[1::2] - weight[0::2], None if bias is None else bias[1::2] - bias[0::2]


def dense_outputs() -> tuple[str, ...]:
    """Names of the dense graph's outputs: score8, box8, landmarks8, features8, score16, ..."""
    return tuple(f"{kind}{stride}" for stride in STRIDES for kind in ("score", "box", "landmarks", "features"))


def dense_graph(net: MOS) -> nn.Module:
    """The dense stage: (N, 3, H, W), H and W multiples of 32 -> one map a name of ``dense_outputs``, in eval mode.

    A level of stride s with A anchors gives score (N, A, H/s, W/s), box (N, 4A, ...), landmarks (N, 10A, ...) and
    features (N, C, ...). Shares the net's backbone, so train the net no further while the graph is used.
    """
    return _Dense(net).eval()


def pose_graph(net: MOS, level: int) -> nn.Module:
    """The pose stage of one level: patches side by side (1, C, 3, 3P) -> logits (1, 198, 1, P), in eval mode.

    The level's 1x1 pose task has no bias, so folding it into the 3x3 convolution is exact, zero padding included.
    """
    head = net.heads[level]
    assert isinstance(head, MultiTaskHead)
    task, _ = head.folded("pose")
    first = net.pose_head.patch
    weight = torch.einsum("omhw,mc->ochw", first.weight, task[:, :, 0, 0])
    graph = nn.Sequential(
        _convolution(weight, first.bias, stride=PATCH), nn.ReLU(), net.pose_head.mix, nn.ReLU(), net.pose_head.bins
    )
    return graph.eval()


def graphs(net: nn.Module) -> list[Graph]:
    """Every network of the net's bundle: "dense", then "pose8", "pose16", "pose32".

    Raises ConversionError for a network that is not MOS.
    """
    if not isinstance(net, MOS):
        raise ConversionError(f"{type(net).__name__} has no export graphs: convert a model of the MOS family")
    channels = net.channels
    # The dense shapes have no side in common, and none is a multiple of another.
    dense = Graph(
        "dense", dense_graph(net), INPUT, dense_outputs(),
        ((1, 3, 480, 640), (1, 3, 256, 352)), {2: "height", 3: "width"},
    )
    pose = [
        Graph(
            f"pose{stride}", pose_graph(net, level), POSE_INPUT, (POSE_OUTPUT,),
            ((1, channels, PATCH, 5 * PATCH), (1, channels, PATCH, 2 * PATCH)), {3: "width"},
        )
        for level, stride in enumerate(STRIDES)
    ]
    return [dense, *pose]


def stages(files: Callable[[str], Sequence[str]]) -> list[DenseStage | PoseStage]:
    """What bundle.json says of MOS's graphs; ``files`` gives the engine's file names for a graph's stem."""
    levels = [
        Level(stride, list(sizes), f"score{stride}", f"box{stride}", f"landmarks{stride}", f"features{stride}")
        for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True)
    ]
    return [
        DenseStage(list(files("dense")), INPUT, PIXEL_MEAN, PIXEL_SCALE, max(STRIDES), levels, VARIANCES),
        PoseStage(
            [list(files(f"pose{stride}")) for stride in STRIDES],
            POSE_INPUT, POSE_OUTPUT, PATCH, POSE_BINS, POSE_BIN_DEG,
            first_centre_deg=POSE_BIN_DEG / 2 - POSE_BINS * POSE_BIN_DEG / 2,
        ),
    ]
