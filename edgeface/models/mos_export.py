"""MOS as converters see it: one graph for the whole image and one face graph a level, and the stages that use them.

The graphs hold plain convolutions only: the multi-task heads (mos.txt, section 3.1) are folded into 1x1 convolutions, a
face's two score logits into their difference, and the pose task's 1x1 into the face head's first convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeface.bundle import DenseStage, FaceStage, Level
from edgeface.errors import ConversionError
from edgeface.models.mos import ANCHOR_SIZES, MOS, POSE_BIN_DEG, POSE_BINS, STRIDES, FaceHead
from edgeface.models.multitask import MultiTaskHead

MEAN = 128.0
SCALE = 1.0 / 128.0
VARIANCES = (0.1, 0.2)
PATCH = 3
INPUT = "data"
FACE_INPUT = "patches"
FACE_OUTPUTS = ("pose", "correction")


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


class _Face(nn.Module):
    """The face head of one level on plain patches, the level's pose task folded into its first convolution."""

    def __init__(self, patch: nn.Conv2d, head: FaceHead) -> None:
        super().__init__()
        self.patch, self.mix, self.bins, self.correction = patch, head.mix, head.bins, head.correction

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.mix(torch.relu(self.patch(patches))))
        return self.bins(hidden), self.correction(hidden)


def face_graph(net: MOS, level: int) -> nn.Module:
    """The face stage of one level: patches side by side (1, C, 3, 3P) -> pose logits (1, 198, 1, P) and landmark
    corrections (1, 10A, 1, P), in eval mode.

    The level's 1x1 pose task has no bias, so folding it into the 3x3 convolution is exact, zero padding included.
    """
    head = net.heads[level]
    assert isinstance(head, MultiTaskHead)
    task, _ = head.folded("pose")
    first = net.face_head.patch
    weight = torch.einsum("omhw,mc->ochw", first.weight, task[:, :, 0, 0])
    return _Face(_convolution(weight, first.bias, stride=PATCH), net.face_head).eval()


def graphs(net: nn.Module) -> list[Graph]:
    """Every network of the net's bundle: "dense", then "face8", "face16", "face32".

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
    face = [
        Graph(
            f"face{stride}", face_graph(net, level), FACE_INPUT, FACE_OUTPUTS,
            ((1, channels, PATCH, 5 * PATCH), (1, channels, PATCH, 2 * PATCH)), {3: "width"},
        )
        for level, stride in enumerate(STRIDES)
    ]
    return [dense, *face]


def stages(files: Callable[[str], Sequence[str]]) -> list[DenseStage | FaceStage]:
    """What bundle.json says of MOS's graphs; ``files`` gives the engine's file names for a graph's stem."""
    levels = [
        Level(stride, list(sizes), f"score{stride}", f"box{stride}", f"landmarks{stride}", f"features{stride}")
        for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True)
    ]
    return [
        DenseStage(list(files("dense")), INPUT, MEAN, SCALE, max(STRIDES), levels, VARIANCES),
        FaceStage(
            [list(files(f"face{stride}")) for stride in STRIDES],
            FACE_INPUT, FACE_OUTPUTS[0], PATCH, POSE_BINS, POSE_BIN_DEG,
            first_centre_deg=POSE_BIN_DEG / 2 - POSE_BINS * POSE_BIN_DEG / 2,
            correction=FACE_OUTPUTS[1],
        ),
    ]
