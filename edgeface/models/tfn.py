"""TFN (tfn.txt): a dense stage for proposals, and nets on regions of several of the trunk's maps.

A task's feature-fused block is RoIAlign of the maps that the task asks for, each times a scale of its own, joined, and
a 1x1. The scales stand where the paper normalises every position to length 1: they bring the maps to one range, which
is what int8 needs, and are part of the gathering. The proposals are MaskFace's light detector, name for name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.int8.modules import Point, Signal
from edgeface.models.backbones.mobilenetv2 import MobileNetV2
from edgeface.models.backbones.shufflenetv2 import ShuffleNetV2
from edgeface.models.backbones.vgg import VGG16
from edgeface.models.blocks import FPN, SSH
from edgeface.models.dense import Dense, Parts
from edgeface.models.deploy import deploy
from edgeface.models.maskface import FACE_PRIOR, FORMS, PublishedFPN, PyramidForm, SharedHead
from edgeface.models.pixels import PIXEL_SCALE
from edgeface.models.region_nets import HeatmapNet, RegionNet

AGES = 101
GENDERS = ("female", "male")
# FairFace's seven; the paper's three are sums of some of them.
ETHNICITIES = (
    "white", "black", "east asian", "southeast asian", "indian", "middle eastern", "latino hispanic",
)
POINTS: Literal[68] = 68
STRIDES = (4, 8, 16, 32)
Task = Literal["detection", "landmarks", "attributes"]
Variant = Literal["tfn", "srmm", "trmm", "ormm"]
LandmarkForm = Literal["coordinates", "heatmaps"]
TrunkName = Literal["mobilenetv2", "shufflenetv2", "vgg16"]
TASKS: tuple[Task, ...] = ("detection", "landmarks", "attributes")
OUTPUTS: dict[Task, dict[str, int]] = {
    "detection": {"score": 1, "box": 4}, "landmarks": {"landmarks": 2 * POINTS},
    "attributes": {"age": AGES, "gender": len(GENDERS), "ethnicity": len(ETHNICITIES)},
}
# Cells of a region along each side: places need more of them than what a whole face says.
_SIZES: dict[Task, int] = {"detection": 7, "landmarks": 14, "attributes": 7}
# The option that says which maps a task's net is given.
MAPS_OF: dict[Task, str] = {
    "detection": "detection_maps", "landmarks": "landmark_maps", "attributes": "attribute_maps",
}
_PLAIN = (16,)      # the one map of the variants that fuse nothing
# Which tasks share a net (tfn.txt, fig. 5): none, those after the refinement, or all.
_TOGETHER: dict[str, tuple[tuple[Task, ...], ...]] = {
    "tfn": (("detection",), ("landmarks",), ("attributes",)), "srmm": (("detection",), ("landmarks",), ("attributes",)),
    "trmm": (("detection",), ("landmarks", "attributes")), "ormm": (("detection", "landmarks", "attributes"),),
}


@dataclass(frozen=True)
class Trunk:
    """A trunk: what ``build`` makes of a width, the ``strides`` of its maps, and which of them a task fuses where
    nobody says."""

    build: Callable[[float], Any]
    strides: tuple[int, ...]
    fused: Mapping[Task, tuple[int, ...]]


def _vgg16(width: float) -> VGG16:
    if width != 1.0:
        raise OptionError(f"no VGG16 of width {width}: leave the width out")
    return VGG16()


_LIGHT: dict[Task, tuple[int, ...]] = {"detection": (8, 16, 32), "landmarks": (8, 16), "attributes": (8, 16, 32)}
_DEEP: dict[Task, tuple[int, ...]] = {"detection": (4, 8, 16), "landmarks": (8, 16), "attributes": (4, 8, 16)}
TRUNKS: dict[str, Trunk] = {
    "mobilenetv2": Trunk(lambda width: MobileNetV2(width, finest=4), (4, 8, 16, 32), _LIGHT),
    "shufflenetv2": Trunk(lambda width: ShuffleNetV2(f"{width}x"), (8, 16, 32), _LIGHT),
    "vgg16": Trunk(_vgg16, (4, 8, 16), _DEEP),
}


@dataclass(frozen=True)
class Group:
    """Tasks with one net: on regions of ``size`` x ``size`` cells, ``margin`` boxes wide, of the trunk's maps of
    ``strides``, whose values are multiplied by ``scales``."""

    tasks: tuple[Task, ...]
    strides: tuple[int, ...]
    size: int
    margin: float
    scales: tuple[float, ...]

    @property
    def name(self) -> str:
        """Of its net and of that one's files."""
        return self.tasks[0] if len(self.tasks) == 1 else "faces"


@dataclass(frozen=True)
class Design:
    """What a TFN's ``trunk`` and regions are: ``groups`` in the order in which they run; ``landmarks`` as coordinates
    or heatmaps; ``share_before`` of a face's score is the proposal's, 0 where the detection net's takes its place."""

    trunk: TrunkName
    groups: tuple[Group, ...]
    landmarks: LandmarkForm
    share_before: float

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that there are nets for."""
        return tuple(task for group in self.groups for task in group.tasks)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the trunk's maps that any group takes, finest first."""
        return tuple(sorted({stride for group in self.groups for stride in group.strides}))


def design(
    variant: Variant = "tfn", tasks: Sequence[Task] = TASKS, detection_maps: Sequence[int] | None = None,
    landmark_maps: Sequence[int] | None = None, attribute_maps: Sequence[int] | None = None,
    landmarks: LandmarkForm = "coordinates", margin: float = 1.2, scales: Sequence[float] = (1.0,) * len(STRIDES),
    share_before: float = 0.5, trunk: TrunkName = "mobilenetv2",
) -> Design:
    """The regions of a TFN by the options of ``tfn``; raises OptionError for values that cannot work."""
    if trunk not in TRUNKS:
        raise OptionError(f"no trunk {trunk!r}: choose {', '.join(TRUNKS)}")
    if variant not in _TOGETHER:
        raise OptionError(f"no variant {variant!r}: choose {', '.join(_TOGETHER)}")
    if landmarks not in ("coordinates", "heatmaps"):
        raise OptionError(f"no landmarks {landmarks!r}: choose coordinates or heatmaps")
    if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
        raise OptionError(f"tasks {', '.join(tasks) or '(none)'}: choose some of {', '.join(TASKS)}")
    if len(scales) != len(STRIDES) or not all(0 < scale < math.inf for scale in scales):
        raise OptionError(f"scales are {len(STRIDES)} numbers above 0, of the maps of strides 4, 8, 16 and 32")
    if not 0 <= share_before < 1 or not margin > 0:
        raise OptionError("share_before is from 0 to below 1, and the margin above 0")
    asked: dict[Task, Sequence[int] | None] = {
        "detection": detection_maps, "landmarks": landmark_maps, "attributes": attribute_maps,
    }
    maps: dict[Task, Sequence[int]] = {}
    for task, given in asked.items():
        there = TRUNKS[trunk].strides
        maps[task] = given if given is not None else TRUNKS[trunk].fused[task] if variant == "tfn" else _PLAIN
        if not maps[task] or not set(maps[task]) <= set(there):
            raise OptionError(
                f"{task} fuses maps of strides {list(maps[task])}: choose some of {', '.join(map(str, there))}"
            )
    groups = []
    for together in _TOGETHER[variant]:
        own = tuple(task for task in together if task in tasks)
        if not own:
            continue
        if landmarks == "heatmaps" and "landmarks" in own and len(own) > 1:
            raise OptionError(f"heatmaps need a net of their own, which {variant} has not: choose tfn or srmm")
        strides = tuple(sorted({stride for task in own for stride in maps[task]}))
        groups.append(Group(
            own, strides, max(_SIZES[task] for task in own), margin,
            tuple(float(scales[STRIDES.index(stride)]) for stride in strides),
        ))
    return Design(trunk, tuple(groups), landmarks, share_before)


class TFN(Dense):
    """The network: ``forward`` is the dense stage, ``regions`` the nets on regions by the name of their group. H and W
    are multiples of ``multiple``; ``width`` is the trunk's."""

    form: PyramidForm = FORMS["light"]

    def __init__(self, parts: Parts, design: Design, regions: dict[str, nn.Module], width: float) -> None:
        super().__init__(parts)
        self.design, self.width = design, width
        self.regions = nn.ModuleDict(regions)

    @property
    def multiple(self) -> int:
        """What sides of pictures are multiples of."""
        return max(self.form.strides)

    @property
    def trunk_channels(self) -> dict[int, int]:
        """Channels of the trunk's maps, by stride."""
        backbone: Any = self.backbone
        counts = map(len, backbone.layouts) if self.is_deployed else backbone.channels
        return dict(zip(self.trunk_strides, counts, strict=True))

    @property
    def trunk_strides(self) -> tuple[int, ...]:
        """Of all of the trunk's maps."""
        return TRUNKS[self.design.trunk].strides

    def region_channels(self, group: Group) -> int:
        """Of a group's joined regions."""
        return sum(self.trunk_channels[stride] for stride in group.strides)

    def all_maps(self, x: Tensor) -> tuple[list[dict[str, Tensor]], dict[int, Tensor]]:
        """(N, 3, H, W) normalised BGR -> each level's maps by the name of the task, and the trunk's maps that regions
        are taken from, (N, C, h, w) by stride."""
        trunk = self.trunk(x)
        return self.proposing_maps(trunk), {stride: _value(trunk[stride]) for stride in self.design.strides}

    def trunk_maps(self, x: Tensor) -> dict[int, Tensor]:
        """The second of ``all_maps``, without the first."""
        trunk = self.trunk(x)
        return {stride: _value(trunk[stride]) for stride in self.design.strides}

    def trunk(self, x: Tensor) -> dict[int, Any]:
        """All of the trunk's maps by stride, signals where the network is deployed."""
        return dict(zip(self.trunk_strides, self.backbone(self.data(x) if self.is_deployed else x), strict=True))

    def proposing_maps(self, trunk: Mapping[int, Any]) -> list[dict[str, Tensor]]:
        """The first of ``all_maps``, of the trunk's maps."""
        return [maps for _, maps in self.level_maps([trunk[stride] for stride in _proposing(self.design.trunk)])]

    def maps(self, x: Tensor) -> list[dict[str, Tensor]]:
        return self.all_maps(x)[0]


def _proposing(trunk: TrunkName) -> list[int]:
    """The strides of the trunk's maps that the pyramid is made of."""
    return [stride for stride in TRUNKS[trunk].strides if stride >= min(FORMS["light"].strides)]


def _value(features: Tensor | Signal) -> Tensor:
    return features.value if isinstance(features, Signal) else features


def tfn(
    width: float = 1.0, channels: int = 64, variant: Variant = "tfn", tasks: Sequence[Task] = TASKS,
    detection_maps: Sequence[int] | None = None, landmark_maps: Sequence[int] | None = None,
    attribute_maps: Sequence[int] | None = None, landmarks: LandmarkForm = "coordinates", attention: bool = False,
    head_channels: int = 96, head_width: int = 256, margin: float = 1.2,
    scales: Sequence[float] = (1.0,) * len(STRIDES), share_before: float = 0.5, trunk: TrunkName = "mobilenetv2",
) -> TFN:
    """A new TFN on a ``trunk`` of ``width``; ``channels`` of the pyramid that proposes, a multiple of 4. ShuffleNetV2
    has widths .5 and 1; VGG16, the paper's, has one, and trains on a GPU.

    ``variant``: "tfn", or what the paper holds it against, whose nets fuse nothing: "srmm", a net a task, "trmm", one
    for landmarks and attributes after the refinement, "ormm", one for all. ``tasks``: those that it has nets for.
    ``detection_maps``, ``landmark_maps``, ``attribute_maps``: strides of the trunk's maps that a task's net is given.
    ``landmarks``: "coordinates" or "heatmaps"; ``attention``: squeeze-and-excitation over the joined channels (TAFN).
    ``head_channels`` and ``head_width``: of a net's convolutions and of its two layers on a whole face. ``margin``
    boxes wide is a region; ``scales`` are those of the maps of strides 4, 8, 16 and 32; ``share_before`` of the score
    is the proposal's. Raises OptionError for values that cannot work.
    """
    if channels % 4 or min(channels, head_channels, head_width) < 4:
        raise OptionError(
            f"TFN of {channels} channels and nets of {head_channels} and {head_width} cannot work: channels are a "
            "multiple of 4, and none below 4"
        )
    form = design(
        variant, tasks, detection_maps, landmark_maps, attribute_maps, landmarks, margin, scales, share_before, trunk
    )
    backbone, pyramid = TRUNKS[trunk].build(width), FORMS["light"]
    head = SharedHead(channels, len(pyramid.sides[0]))
    counts = dict(zip(TRUNKS[trunk].strides, backbone.channels, strict=True))
    regions: dict[str, nn.Module] = {}
    for group in form.groups:
        joined = sum(counts[stride] for stride in group.strides)
        if group.tasks == ("landmarks",) and landmarks == "heatmaps":
            regions[group.name] = HeatmapNet(joined, head_channels // 2, POINTS, attention)
        else:
            outputs = {name: count for task in group.tasks for name, count in OUTPUTS[task].items()}
            regions[group.name] = RegionNet(joined, head_channels, head_width, group.size, outputs, attention)
    below = [counts[stride] for stride in _proposing(trunk)]
    # A trunk without a map of stride 32 has it pooled.
    neck = FPN(below, channels, smooth=False) if len(below) == len(pyramid.strides) else PublishedFPN(below, channels)
    parts = Parts(backbone, neck, [SSH(channels) for _ in pyramid.strides], [head])
    net = TFN(parts, form, regions, width)
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    last = [
        module for each in net.regions.values()
        for module in each.last_layers()    # type: ignore[operator]  # to mypy a ModuleDict holds no more than Modules
    ]
    for conv in (head.score, head.box, *last):
        nn.init.normal_(conv.weight, std=0.01)
    # Almost every anchor is background; starting there keeps the first steps from being all about that.
    assert head.score.bias is not None
    nn.init.constant_(head.score.bias, -math.log((1 - FACE_PRIOR) / FACE_PRIOR))
    return net


@deploy.register
def _tfn(net: TFN, multiple: int = 1) -> nn.Module:
    backbone: Any = deploy(net.backbone, multiple)
    context: list[Any] = [deploy(block) for block in net.context]
    for block in context:
        # The head is one for all levels, and so is the scale of what it reads.
        block.features = context[0].features
    by_stride = dict(zip(net.trunk_strides, backbone.layouts, strict=True))
    below = [by_stride[stride] for stride in _proposing(net.design.trunk)]
    parts = Parts(
        backbone, deploy(net.get_submodule(net.neck_name), layouts=below), context,
        [deploy(head) for head in net.heads], Point(PIXEL_SCALE, fixed=True),
    )
    regions = {
        group.name: deploy(net.regions[group.name], layouts=[by_stride[stride] for stride in group.strides])
        for group in net.design.groups
    }
    return TFN(parts, net.design, regions, net.width)
