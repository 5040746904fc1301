"""TFN as converters see it: a graph for the whole picture and one a group of tasks for a face's regions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgeface.bundle import (
    Box,
    Classes,
    Defaults,
    DenseStage,
    FaceStage,
    Joined,
    Landmarks,
    Level,
    Map,
    Output,
    Score,
    Stage,
)
from edgeface.errors import ConversionError
from edgeface.models.deploy import deploy
from edgeface.models.family import Family, Files, Graph, Inputs, scales_of
from edgeface.models.maskface import FORMS, VARIANCES
from edgeface.models.maskface_export import heatmaps_of
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.region_nets import ChannelAttention
from edgeface.models.tfn import AGES, ETHNICITIES, GENDERS, MAPS_OF, POINTS, TFN, TRUNKS, Design, Group, design

DENSE = "dense"
INPUT, REGION_INPUT = "data", "region"
SAMPLING = 2            # samples a cell of a region, along each axis
LIMIT = 500             # faces of a picture that are looked at
PROPOSAL_SCORE = 0.2    # a proposal needs as much, and so does what the detection net makes of it
_NMS_IOU = 0.4
_SMALLEST_PX = 128      # the least that every part of the network takes


class _Dense(nn.Module):
    """The whole picture's network; outputs in the order of ``dense_outputs``."""

    def __init__(self, net: TFN) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels, trunk = self.net.all_maps(x)
        return (*(maps[kind] for maps in levels for kind in ("score", "box")), *trunk.values())


class _Regions(nn.Module):
    """The net of a group of tasks; its outputs in their order."""

    def __init__(self, net: TFN, group: Group) -> None:
        super().__init__()
        self.net, self.group = net, group

    def forward(self, region: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = self.net.regions[self.group.name](region)
        return tuple(found[name] for name in output_names(self.group, self.net.design))


def dense_outputs(form: Design) -> tuple[str, ...]:
    """Names of the dense graph's outputs: score8, box8, ..., then trunk8, trunk16, ..."""
    maps = [f"{kind}{stride}" for stride in FORMS["light"].strides for kind in ("score", "box")]
    return (*maps, *(f"trunk{stride}" for stride in form.strides))


def outputs_of(group: Group, form: Design) -> list[Output]:
    """What the net of a group says of a face."""
    share = form.share_before
    score = Score("score", PROPOSAL_SCORE, _NMS_IOU, "mean" if share else "replace", share or 0.5)
    pointed = Landmarks("landmarks", POINTS) if form.landmarks == "coordinates" else heatmaps_of(POINTS)
    years = [str(year) for year in range(AGES)]
    said: dict[str, list[Output]] = {
        "detection": [score, Box("box")],
        "landmarks": [pointed],
        "attributes": [
            Classes("age", "age", years, [float(year) for year in range(AGES)]),
            Classes("gender", "gender", list(GENDERS)), Classes("ethnicity", "ethnicity", list(ETHNICITIES)),
        ],
    }
    return [output for task in group.tasks for output in said[task]]


def output_names(group: Group, form: Design) -> tuple[str, ...]:
    """The names of a group's outputs."""
    return tuple(output.output for output in outputs_of(group, form))


def gather_of(group: Group) -> Joined:
    """How the regions of a group are taken."""
    return Joined(
        [f"trunk{stride}" for stride in group.strides], list(group.scales), group.size, SAMPLING, group.margin
    )


def design_of(options: Mapping[str, Any]) -> Design:
    """The design that a builder's ``options`` ask for."""
    known = inspect.signature(design).parameters
    return design(**{name: value for name, value in options.items() if name in known})


class TFNFamily(Family):
    """TFN; its inputs are whole pictures under "dense" and regions (N, C, S, S) under a group's name."""

    trainer = "tfn"
    # A stitched canvas has crops of half its size.
    canvas_multiple = 64
    nets = (TFN,)
    # The nets on regions are trained after that.
    looked_at = 1
    defaults = Defaults(size_px=640, score=0.6, nms_iou=_NMS_IOU)

    def graphs(self, net: nn.Module) -> list[Graph]:
        assert isinstance(net, TFN)
        if not net.is_deployed:
            net = cast(TFN, deploy(net, self.channel_multiple))
        net.eval()
        # The dense shapes have no side in common, and none is a multiple of another.
        shapes = (1, 3, 448, 640), (1, 3, 256, 384)
        found = [Graph(
            DENSE, _Dense(net), INPUT, dense_outputs(net.design), shapes, {2: "height", 3: "width"},
            scales_of(net, _Dense(net), (1, 3, _SMALLEST_PX, _SMALLEST_PX)),
        )]
        for group in net.design.groups:
            region, module = (1, net.region_channels(group), group.size, group.size), _Regions(net, group)
            names = output_names(group, net.design)
            found.append(
                Graph(group.name, module, REGION_INPUT, names, (region, region), {}, scales_of(net, module, region))
            )
        return found

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        form, pyramid = design_of(options), FORMS["light"]
        trunk = TRUNKS[form.trunk]
        counts = dict(zip(trunk.strides, trunk.build(options.get("width", 1.0)).channels, strict=True))
        levels = [
            Level(stride, list(sides), f"score{stride}", f"box{stride}")
            for stride, sides in zip(pyramid.strides, pyramid.sides, strict=True)
        ]
        maps = [Map(f"trunk{stride}", stride, counts[stride]) for stride in form.strides]
        return [
            DenseStage(
                list(files(DENSE)), INPUT, PIXEL_MEAN, PIXEL_SCALE, max(pyramid.strides), levels, VARIANCES, maps
            ),
            *(
                FaceStage([list(files(group.name))], REGION_INPUT, gather_of(group), outputs_of(group, form), LIMIT)
                for group in form.groups
            ),
        ]

    def options_of(self, net: nn.Module) -> Mapping[str, Any]:
        # Only the first stage is looked at while it trains, and that is the same for all options but the trunk's.
        assert isinstance(net, TFN)
        strides: dict[str, Any] = {}
        for group in net.design.groups:
            strides |= {MAPS_OF[task]: group.strides for task in group.tasks}
        return {"width": net.width, "trunk": net.design.trunk, "tasks": list(net.design.tasks), **strides}

    def deployed(self, net: nn.Module, channel_multiple: int) -> nn.Module:
        assert isinstance(net, TFN)
        if any(isinstance(module, ChannelAttention) for module in net.modules()):
            raise ConversionError(
                "attention over joined maps has no int8 form: train with options.attention=false what is to be "
                "quantised, or convert it in float"
            )
        return deploy(net, channel_multiple)

    def run(self, net: nn.Module, inputs: Inputs) -> None:
        assert isinstance(net, TFN)
        x = inputs[DENSE]
        net.all_maps(x)
        for group in net.design.groups:
            empty = x.new_zeros(1, net.region_channels(group), group.size, group.size)
            net.regions[group.name](inputs.get(group.name, empty))

    def example(self) -> Inputs:
        return {DENSE: torch.zeros(1, 3, _SMALLEST_PX, _SMALLEST_PX)}
