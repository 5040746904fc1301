"""MTCNN and T-CNN as converters see them: one graph a net, and the stages of a bundle that use them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

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
from edgeface.models.family import Family, Files, Graph, Inputs
from edgeface.models.patch_folded import OUTPUTS, FoldedMTCNN, FoldedPatchNet, GraphOutputs
from edgeface.models.patch_nets import ATTRIBUTES, MTCNN, O_NET, P_NET, R_NET, PatchNet
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE

INPUT = "data"
# Of P-Net's pyramid: each level's faces are 1.41 times as large as those of the one before; windows that overlap more
# than this within a level, and then among all, are one.
PYRAMID_FACTOR, LEVEL_NMS_IOU, MERGE_NMS_IOU = 0.7071, 0.5, 0.7
_MIN_FACE_PX = 20.0
# A crop's side over the box's longer one: T-CNN sees a face from forehead to chin with some of its hair, ears and neck.
TCNN_MARGIN = 1.2
_EVEN = 0.5


def patch_graph(stem: str, net: FoldedPatchNet, outputs: Iterable[str], whole: nn.Module) -> Graph:
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
    """What MTCNN and T-CNN have in common: a dictionary of nets by their stem, and inputs by stem as well."""

    def example(self) -> Inputs:
        return {stem: torch.zeros(1, 3, side, side) for stem, side in self.sides().items()}

    def run(self, net: nn.Module, inputs: Inputs) -> None:
        for stem, each in self.folded(net).items():
            if stem in inputs:
                each.maps(inputs[stem])

    @abstractmethod
    def sides(self) -> dict[str, int]:
        """The side of a patch in pixels, by stem."""

    @abstractmethod
    def folded(self, net: nn.Module) -> dict[str, FoldedPatchNet]:
        """The deployed nets of ``net``, which is one or becomes one, by stem."""


def _require_relu(net: nn.Module, activation: str) -> None:
    if activation != "relu":
        raise ConversionError(
            f"{type(net).__name__} with {activation} has no int8 form: train it with options.activation=relu"
        )


class MTCNNFamily(PatchFamily):
    """MTCNN: P-Net on a pyramid, R-Net and O-Net on crops. P-Net and R-Net give no landmarks, which nobody reads.

    A face's score is the mean of R-Net's and O-Net's, where the published one is O-Net's alone: on every fourth dev
    picture of wider AP easy, medium, hard was .775 .743 .460 instead of .762 .729 .449 when this was chosen.
    """

    trainer = "mtcnn"
    nets = (MTCNN, FoldedMTCNN)
    # On every fourth dev picture of wider 91 % of the faces in int8 are true at this score. At 0.7 it is 95 %, and 4 %
    # fewer are found.
    defaults = Defaults(size_px=640, score=0.6, nms_iou=0.4)

    def sides(self) -> dict[str, int]:
        return {"pnet": P_NET.size_px, "rnet": R_NET.size_px, "onet": O_NET.size_px}

    def folded(self, net: nn.Module) -> dict[str, FoldedPatchNet]:
        if isinstance(net, MTCNN):
            net = FoldedMTCNN(net)
        assert isinstance(net, FoldedMTCNN)
        return net.nets()

    def graphs(self, net: nn.Module) -> list[Graph]:
        whole = FoldedMTCNN(net) if isinstance(net, MTCNN) else net
        whole.eval()
        return [
            patch_graph(stem, each, _OUTPUTS_OF.get(stem, OUTPUTS), whole) for stem, each in self.folded(whole).items()
        ]

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

    def deployed(self, net: nn.Module, channel_multiple: int) -> nn.Module:
        assert isinstance(net, MTCNN)
        _require_relu(net, net.pnet.activation)
        return FoldedMTCNN(net)


class TCNNFamily(PatchFamily):
    """T-CNN alone, which refines what a detector found: crops, averaged scores, attributes and quality."""

    trainer = "tcnn"
    nets = (PatchNet, FoldedPatchNet)
    defaults = Defaults(size_px=O_NET.size_px, score=0.5, nms_iou=0.4)

    def sides(self) -> dict[str, int]:
        return {"tcnn": O_NET.size_px}

    def folded(self, net: nn.Module) -> dict[str, FoldedPatchNet]:
        if isinstance(net, PatchNet):
            net = FoldedPatchNet(net)
        assert isinstance(net, FoldedPatchNet)
        return {"tcnn": net}

    def graphs(self, net: nn.Module) -> list[Graph]:
        (folded,) = self.folded(net).values()
        return [patch_graph("tcnn", folded.eval(), OUTPUTS, folded)]

    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        names = options.get("attributes", ATTRIBUTES)
        places = [(name, "attributes", i) for i, name in enumerate(names)]
        if options.get("quality", True):
            places.append(("quality", "quality", 0))
        return [
            FaceStage(
                [list(files("tcnn"))], INPUT, Crops(PIXEL_MEAN, PIXEL_SCALE, O_NET.size_px, TCNN_MARGIN),
                [
                    Score("score", thresholds.get("tcnn", 0.05), nms_iou=0.4, combine="mean"), Box("box"),
                    Landmarks("landmarks"), PoseFromPoints("landmarks"),
                    *(Binary(name, output, i, thresholds.get(name, _EVEN)) for name, output, i in places),
                ],
                limit=200,
            )
        ]

    def deployed(self, net: nn.Module, channel_multiple: int) -> nn.Module:
        assert isinstance(net, PatchNet)
        _require_relu(net, net.activation)
        return FoldedPatchNet(net)


_OUTPUTS_OF = {"pnet": ("score", "box"), "rnet": ("score", "box")}
