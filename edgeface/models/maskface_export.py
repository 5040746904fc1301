"""MaskFace as converters see it: a graph for the whole picture and one for a face's region, and the stages of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeface.bundle import Defaults, DenseStage, FaceStage, Heatmaps, Level, Map, Regions, Stage
from edgeface.models.deploy import deploy
from edgeface.models.family import Family, Files, Graph, Inputs, scales_of
from edgeface.models.keypoints import SHUFFLE, SIZE, UPSAMPLE
from edgeface.models.maskface import CHANNELS, FIVE, FORMS, MARGIN, POINTS, PYRAMID, VARIANCES, MaskFace, PyramidForm
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE

DENSE, KEYPOINTS = "dense", "keypoints"
INPUT, REGION_INPUT, REGION_OUTPUT = "data", "region", "heatmaps"
SAMPLING = 2            # samples a cell of a region, along each axis: what torchvision's RoIAlign takes by default
FINEST_PX = 224.0       # k0 = 3 of eq. 6
REACH = 4               # cells of 1/56 of a region about the peak that its sub-pixel place is taken from
LIMIT = 500             # faces of a picture whose points are looked for
_SMALLEST_PX = 128      # the least that every part of the network takes


class _Dense(nn.Module):
    """The whole picture's network; outputs in the order of ``dense_outputs``."""

    def __init__(self, net: MaskFace) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels, features = self.net.all_maps(x)
        return (*(maps[kind] for maps in levels for kind in ("score", "box")), *features)


class _Keypoints(nn.Module):
    """The network of a face's region."""

    def __init__(self, net: MaskFace) -> None:
        super().__init__()
        self.net = net

    def forward(self, region: Tensor) -> Tensor:
        maps: Tensor = self.net.keypoints(region)
        return maps


def dense_outputs(form: PyramidForm) -> tuple[str, ...]:
    """Names of the dense graph's outputs: score8, box8, score16, ..., features4, features8, ..."""
    maps = [f"{kind}{stride}" for stride in form.strides for kind in ("score", "box")]
    return (*maps, *(f"features{stride}" for stride in form.region_strides))


def gather_of(form: PyramidForm, margin: float) -> Regions:
    """How regions are taken, ``margin`` boxes wide."""
    return Regions([f"features{stride}" for stride in form.region_strides], SIZE, SAMPLING, margin, FINEST_PX)


def heatmaps_of(points: int) -> Heatmaps:
    """How what the keypoint head gives of 5 or 68 ``points`` is decoded."""
    return Heatmaps(REGION_OUTPUT, 5 if points == FIVE else 68, SHUFFLE, UPSAMPLE, REACH)


class MaskFaceFamily(Family):
    """MaskFace; its inputs are whole pictures under "dense" and regions (N, C, 14, 14) under "keypoints"."""

    trainer = "maskface"
    # A stitched canvas has crops of half its size.
    canvas_multiple = 64
    nets = (MaskFace,)
    # The keypoint head is trained after that.
    looked_at = 1
    defaults = Defaults(size_px=640, score=0.6, nms_iou=0.4)

    def graphs(self, net: nn.Module) -> list[Graph]:
        assert isinstance(net, MaskFace)
        if not net.is_deployed:
            net = cast(MaskFace, deploy(net, self.channel_multiple))
        net.eval()
        # The dense shapes have no side in common, and none is a multiple of another.
        shapes = (1, 3, 448, 640), (1, 3, 256, 384)
        region = (1, net.channels, SIZE, SIZE)
        dense = Graph(
            DENSE, _Dense(net), INPUT, dense_outputs(net.form), shapes, {2: "height", 3: "width"},
            scales_of(net, _Dense(net), (1, 3, _SMALLEST_PX, _SMALLEST_PX)),
        )
        keypoints = Graph(
            KEYPOINTS, _Keypoints(net), REGION_INPUT, (REGION_OUTPUT,), (region, region), {},
            scales_of(net, _Keypoints(net), region),
        )
        return [dense, keypoints]

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        form = FORMS[options.get("pyramid", PYRAMID)]
        channels = options.get("channels", CHANNELS)
        levels = [
            Level(stride, list(sides), f"score{stride}", f"box{stride}")
            for stride, sides in zip(form.strides, form.sides, strict=True)
        ]
        maps = [Map(f"features{stride}", stride, channels) for stride in form.region_strides]
        gather = gather_of(form, options.get("margin", MARGIN))
        points = heatmaps_of(options.get("points", POINTS))
        return [
            DenseStage(
                list(files(DENSE)), INPUT, PIXEL_MEAN, PIXEL_SCALE, max(form.strides), levels, VARIANCES, maps
            ),
            FaceStage([list(files(KEYPOINTS))], REGION_INPUT, gather, [points], LIMIT),
        ]

    def options_of(self, net: nn.Module) -> Mapping[str, Any]:
        assert isinstance(net, MaskFace)
        pyramid = next(name for name, form in FORMS.items() if form == net.form)
        return {"pyramid": pyramid, "channels": net.channels, "margin": net.margin}

    def deployed(self, net: nn.Module, channel_multiple: int) -> nn.Module:
        assert isinstance(net, MaskFace)
        return deploy(net, channel_multiple)

    def run(self, net: nn.Module, inputs: Inputs) -> None:
        assert isinstance(net, MaskFace)
        x = inputs[DENSE]
        net.all_maps(x)
        net.keypoints(inputs.get(KEYPOINTS, x.new_zeros(1, net.channels, SIZE, SIZE)))

    def example(self) -> Inputs:
        return {DENSE: torch.zeros(1, 3, _SMALLEST_PX, _SMALLEST_PX)}
