"""MTCNN and T-CNN as converters see them: one graph a net, and the stages of a bundle that use them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeface.bundle import (
    Binary,
    Box,
    Crops,
    Defaults,
    FaceStage,
    Landmarks,
    PoseFromPoints,
    PyramidStage,
    Score,
    Stage,
)
from edgeface.errors import ConversionError
from edgeface.int8.modules import layer_scales
from edgeface.int8.scales import LayerScales
from edgeface.models.deploy import deploy
from edgeface.models.family import Family, Files, Graph, Inputs
from edgeface.models.patch_nets import ATTRIBUTES, MTCNN, O_NET, OUTPUTS, P_NET, R_NET, PatchNet
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE

INPUT = "data"
# Of P-Net's pyramid: each level's faces are 1.41 times as large as those of the one before; windows that overlap more
# than this within a level, and then among all, are one.
PYRAMID_FACTOR, LEVEL_NMS_IOU, MERGE_NMS_IOU = 0.7071, 0.5, 0.7
_MIN_FACE_PX = 20.0
# A crop's side over the box's longer one: T-CNN sees a face from forehead to chin with some of its hair, ears and neck.
TCNN_MARGIN = 1.2
# Chosen on the dev part of WIDER behind MOS-S (docs/weights/tcnn): the detector saw what is round the face.
TCNN_SCORE, DETECTOR_SHARE = 0.02, 0.7
_EVEN = 0.5


class GraphOutputs(PatchNet):
    """Some outputs of a net in the order of their names: (1, 3, H, W) -> a map each. It shares the net's layers, and
    has no heads but these."""

    def __init__(self, net: PatchNet, outputs: Sequence[str]) -> None:
        super().__init__(net.architecture, net.activation, net.parts_for(outputs))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:     # type: ignore[override]  # exporters want a tuple
        return tuple(self.maps(x).values())


def patch_graph(stem: str, net: PatchNet, outputs: Iterable[str], whole: nn.Module) -> Graph:
    """The graph of one net with those of ``outputs`` that it has; layers have their names in ``whole``.

    P-Net takes pictures (1, 3, H, W) of any size; the others take strips (1, 3, S * P, S), and give (1, O, P, 1).
    """
    names = tuple(name for name in outputs if name in net.heads)
    module, side = GraphOutputs(net, names).eval(), net.architecture.size_px
    if net.shared is None:
        # The sides have no side in common, and none is a multiple of another.
        shapes, free = ((1, 3, 96, 132), (1, 3, 62, 50)), {2: "height", 3: "width"}
    else:
        shapes, free = ((1, 3, 3 * side, side), (1, 3, 2 * side, side)), {2: "height"}
    scales: tuple[LayerScales, ...] = ()
    if net.data.mode != "float":
        scales = tuple(layer_scales(whole, lambda: module(torch.zeros(shapes[1]))))
    return Graph(stem, module, INPUT, names, shapes, free, scales)


class PatchFamily(Family):
    """What MTCNN and T-CNN have in common: a dictionary of nets by their stem, and inputs by stem as well.

    ``outputs_of`` are the outputs of those nets whose graph has not all of them, by stem.
    """

    outputs_of: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    is_dense = False

    def example(self) -> Inputs:
        return {stem: torch.zeros(1, 3, side, side) for stem, side in self.sides().items()}

    def run(self, net: nn.Module, inputs: Inputs) -> None:
        for stem, each in self.parts(net).items():
            if stem in inputs:
                each.maps(inputs[stem])

    @abstractmethod
    def sides(self) -> dict[str, int]:
        """The side of a patch in pixels, by stem."""

    @abstractmethod
    def parts(self, net: nn.Module) -> dict[str, PatchNet]:
        """The nets of ``net`` by stem."""

    def graphs(self, net: nn.Module) -> list[Graph]:
        is_deployed = all(each.is_deployed for each in self.parts(net).values())
        whole = (net if is_deployed else deploy(net)).eval()
        return [
            patch_graph(stem, each, self.outputs_of.get(stem, OUTPUTS), whole)
            for stem, each in self.parts(whole).items()
        ]

    def deployed(self, net: nn.Module, channel_multiple: int) -> nn.Module:
        for each in self.parts(net).values():
            if each.activation != "relu":
                raise ConversionError(
                    f"{type(net).__name__} with {each.activation} has no int8 form: train it with "
                    "options.activation=relu"
                )
        return deploy(net)


class MTCNNFamily(PatchFamily):
    """MTCNN: P-Net on a pyramid, R-Net and O-Net on crops. P-Net and R-Net give no landmarks, which nobody reads.

    A face's score is the mean of R-Net's and O-Net's, where the published one is O-Net's alone: on every fourth dev
    picture of wider AP easy, medium, hard was .775 .743 .460 instead of .762 .729 .449 when this was chosen.
    """

    trainer = "mtcnn"
    outputs_of: ClassVar[Mapping[str, tuple[str, ...]]] = {"pnet": ("score", "box"), "rnet": ("score", "box")}
    nets = (MTCNN,)
    # On every fourth dev picture of wider 91 % of the faces in int8 are true at this score. At 0.7 it is 95 %, and 4 %
    # fewer are found.
    defaults = Defaults(size_px=640, score=0.6, nms_iou=0.4)

    def sides(self) -> dict[str, int]:
        return {"pnet": P_NET.size_px, "rnet": R_NET.size_px, "onet": O_NET.size_px}

    def parts(self, net: nn.Module) -> dict[str, PatchNet]:
        assert isinstance(net, MTCNN)
        return net.nets()

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        return [
            PyramidStage(
                list(files("pnet")), INPUT, PIXEL_MEAN, PIXEL_SCALE, P_NET.size_px, P_NET.stride, "score", "box",
                factor=PYRAMID_FACTOR, min_face_px=_MIN_FACE_PX, threshold=thresholds.get("pnet", 0.6),
                nms_iou=LEVEL_NMS_IOU, merge_iou=MERGE_NMS_IOU, limit=500,
            ),
            FaceStage(
                [list(files("rnet"))], INPUT, Crops(PIXEL_MEAN, PIXEL_SCALE, R_NET.size_px, margin=1.0),
                [Score("score", thresholds.get("rnet", 0.7), nms_iou=0.7), Box("box")], limit=500,
            ),
            FaceStage(
                [list(files("onet"))], INPUT, Crops(PIXEL_MEAN, PIXEL_SCALE, O_NET.size_px, margin=1.0),
                [
                    Score("score", thresholds.get("onet", 0.0), nms_iou=0.7, combine="mean"), Box("box"),
                    Landmarks("landmarks"), PoseFromPoints("landmarks"),
                ],
                limit=200,
            ),
        ]


class TCNNFamily(PatchFamily):
    """T-CNN alone, which refines what a detector found: crops, averaged scores, attributes and quality."""

    trainer = "tcnn"
    nets = (PatchNet,)
    defaults = Defaults(size_px=O_NET.size_px, score=0.5, nms_iou=0.4)

    def sides(self) -> dict[str, int]:
        return {"tcnn": O_NET.size_px}

    def parts(self, net: nn.Module) -> dict[str, PatchNet]:
        assert isinstance(net, PatchNet)
        return {"tcnn": net}

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        names = options.get("attributes", ATTRIBUTES)
        places = [(name, "attributes", i) for i, name in enumerate(names)]
        if options.get("quality", True):
            places.append(("quality", "quality", 0))
        return [
            FaceStage(
                [list(files("tcnn"))], INPUT, Crops(PIXEL_MEAN, PIXEL_SCALE, O_NET.size_px, TCNN_MARGIN),
                [
                    Score(
                        "score", thresholds.get("tcnn", TCNN_SCORE), nms_iou=0.4, combine="mean",
                        share_before=DETECTOR_SHARE,
                    ),
                    Box("box"), Landmarks("landmarks"), PoseFromPoints("landmarks"),
                    *(Binary(name, output, i, thresholds.get(name, _EVEN)) for name, output, i in places),
                ],
                limit=500,
            )
        ]
