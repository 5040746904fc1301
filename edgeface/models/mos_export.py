"""MOS as converters see it: one graph for the whole image and one pose graph a level, and the stages that use them.

The graphs are of the deployed network (deploy.py): plain convolutions and copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeface.bundle import Bins, Defaults, DenseStage, FaceStage, Level, Map, Points, Stage
from edgeface.errors import ConversionError
from edgeface.models.deploy import deploy
from edgeface.models.family import Family, Files, Graph, Inputs, scales_of
from edgeface.models.mos import (
    ANCHOR_SIZES,
    MOS,
    PATCH,
    POSE_BIN_DEG,
    POSE_BINS,
    STRIDES,
    VARIANCES,
)
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE

INPUT = "data"
POSE_INPUT = "patches"
POSE_OUTPUT = "logits"
SMALLEST_PX = 64     # the least that every part of the network takes
_POSES = 16
_KINDS = ("score", "box", "landmarks", "features")
# Filling the slices up to 8 channels, as int8 kernels take them, was estimated at 3 % more time in ncnn int8 on one
# Cortex-A72 and 11 % more in float: the depthwise layers gain less than the 1x1 layers lose.
CHANNEL_MULTIPLE = 1


class _Dense(nn.Module):
    """The whole picture's network; outputs in the order of dense_outputs."""

    def __init__(self, net: MOS) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(level[kind] for level in self.net.maps(x) for kind in _KINDS)


class _Pose(nn.Module):
    """One level's pose network."""

    def __init__(self, net: MOS, level: int) -> None:
        super().__init__()
        self.net, self.level = net, level

    def forward(self, patches: Tensor) -> Tensor:
        return self.net.pose_maps(patches, self.level)


def dense_outputs() -> tuple[str, ...]:
    """Names of the dense graph's outputs: score8, box8, landmarks8, features8, score16, ..."""
    return tuple(f"{kind}{stride}" for stride in STRIDES for kind in _KINDS)


def graphs(net: nn.Module) -> list[Graph]:
    """Every network of the net's bundle: "dense", then "pose8", "pose16", "pose32".

    A trained network is deployed first, with copies of its weights; a deployed one is taken as it is. Dense:
    (1, 3, H, W), H and W multiples of 32 -> one map a name of ``dense_outputs``; a level of stride s with A anchors has
    score (1, A, H/s, W/s), box (1, 4A, ...), landmarks (1, 10A, ...), features (1, C, ...). Pose: patches side by side
    (1, C, 3, 3P) -> logits (1, 198, 1, P). Raises ConversionError for a network that is not MOS.
    """
    if not isinstance(net, MOS):
        raise ConversionError(f"{type(net).__name__} has no export graphs: convert a model of the MOS family")
    if not net.is_deployed:
        net = cast(MOS, deploy(net, CHANNEL_MULTIPLE))
    net.eval()
    # The dense shapes have no side in common, and none is a multiple of another.
    dense = Graph(
        "dense", _Dense(net), INPUT, dense_outputs(),
        ((1, 3, 480, 640), (1, 3, 256, 352)), {2: "height", 3: "width"}, scales_of(net, _Dense(net), (1, 3, 64, 64)),
    )
    patches = (1, net.channels, PATCH, 5 * PATCH), (1, net.channels, PATCH, 2 * PATCH)
    pose = [
        Graph(
            f"pose{stride}", _Pose(net, level), POSE_INPUT, (POSE_OUTPUT,), patches, {3: "width"},
            scales_of(net, _Pose(net, level), patches[1]),
        )
        for level, stride in enumerate(STRIDES)
    ]
    return [dense, *pose]


def stages(files: Files) -> list[Stage]:
    """What bundle.json says of MOS's graphs; ``files`` gives the engine's file names for a graph's stem."""
    levels = [
        Level(stride, list(sizes), f"score{stride}", f"box{stride}", f"landmarks{stride}")
        for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True)
    ]
    features = [Map(f"features{stride}", stride) for stride in STRIDES]
    first_deg = POSE_BIN_DEG / 2 - POSE_BINS * POSE_BIN_DEG / 2
    return [
        DenseStage(list(files("dense")), INPUT, PIXEL_MEAN, PIXEL_SCALE, max(STRIDES), levels, VARIANCES, features),
        FaceStage(
            [list(files(f"pose{stride}")) for stride in STRIDES], POSE_INPUT,
            Points([each.name for each in features], PATCH), [Bins(POSE_OUTPUT, POSE_BINS, POSE_BIN_DEG, first_deg)],
        ),
    ]


def run_everything(net: MOS, x: Tensor) -> None:
    """The whole network on one picture (1, 3, H, W), pose heads at each level's strongest positions included."""
    out = net(x)
    for level, (score, features) in enumerate(zip(out.score, out.features, strict=True)):
        logits = (score[:, 1::2] - score[:, 0::2]).amax(1).flatten(1)
        best = logits.topk(min(_POSES, logits.shape[1])).indices[0]
        width = features.shape[3]
        net.pose(features, level, torch.zeros_like(best), best // width, best % width)


class MOSFamily(Family):
    """MOS; its inputs are whole pictures under "dense"."""

    # A stitched canvas has crops of half its size.
    canvas_multiple = 2 * max(STRIDES)
    nets = (MOS,)
    # The least with a precision of .95 on the dev part of WIDER. A score says how good the box is, so few reach .9.
    defaults = Defaults(size_px=640, score=0.6, nms_iou=0.4)
    channel_multiple = CHANNEL_MULTIPLE

    def graphs(self, net: nn.Module) -> list[Graph]:
        return graphs(net)

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        return stages(files)

    def deployed(self, net: nn.Module, channel_multiple: int) -> nn.Module:
        assert isinstance(net, MOS)
        return deploy(net, channel_multiple)

    def run(self, net: nn.Module, inputs: Inputs) -> None:
        assert isinstance(net, MOS)
        run_everything(net, inputs["dense"])

    def example(self) -> Inputs:
        return {"dense": torch.zeros(1, 3, SMALLEST_PX, SMALLEST_PX)}
