"""Patch nets as they are deployed: batch norms folded into their convolutions, every tensor that an int8 engine stores
a ``Point``, and strips of patches beside batches of them.

A fully connected layer is a convolution of its map's size. Patches that lie one below the other are one tall picture:
no layer pads, so that the map of a patch begins every S / stride rows, and this convolution, with that as its stride,
sees each patch and none of its neighbours. P-Net, which has no such layer, runs over any picture.

ReLU becomes a part of its convolution. PReLU, which is no part of one in any engine, stays a layer of its own behind
the pooling, as in training, and keeps a net in float (docs/quantisation.md says what it would cost).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.blocks import folded
from edgeface.models.deploy import SCORE_LIMIT
from edgeface.models.patch_nets import MTCNN, Architecture, ConvUnit, PatchNet, PatchOutput
from edgeface.models.pixels import PIXEL_SCALE

# Outputs by name, in the order of a graph's; those with a probability behind them are clipped as MOS's score is.
OUTPUTS = ("score", "box", "landmarks", "attributes", "quality")
_LOGITS = frozenset({"score", "attributes", "quality"})


class FoldedUnit(nn.Module):
    """A ``ConvUnit`` and the max pooling behind it: its convolution, its point, and PReLU where it has one."""

    def __init__(self, unit: ConvUnit, pool: int = 0, stride: int = 1) -> None:
        super().__init__()
        weight, bias = folded(unit)
        slopes = unit[2].weight.detach().clone() if isinstance(unit[2], nn.PReLU) else None
        self.conv = FoldedConv(weight, bias, stride, relu=slopes is None)
        self.out, self.pool, self.prelu = Point(), pool, None
        if slopes is not None:
            self.prelu = nn.PReLU(len(slopes))
            self.prelu.weight = nn.Parameter(slopes)

    def forward(self, signal: Signal) -> Signal:
        if self.prelu is None:
            done: Signal = self.out(self.conv(signal))
            return done.mapped(self._pooled)
        return cast(Signal, self.out(self.prelu(self._pooled(self.conv(signal)))))

    def _pooled(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, self.pool, 2) if self.pool else x


class FoldedOutput(nn.Module):
    """The 1x1 convolution of one output, and its point."""

    def __init__(self, conv: nn.Conv2d, name: str) -> None:
        super().__init__()
        assert conv.bias is not None
        self.conv = FoldedConv(conv.weight, conv.bias, relu=False)
        self.out = Point(limit=SCORE_LIMIT) if name in _LOGITS else Point()

    def forward(self, signal: Signal) -> Tensor:
        out: Signal = self.out(self.conv(signal))
        return out.value


class PatchMaps(nn.Module):
    """What a deployed patch net computes: units, the layer that its heads read where there is one, T-CNN's quality
    branch, and a head an output."""

    data: Point
    units: nn.ModuleList
    shared: FoldedUnit | None
    quality_unit: FoldedUnit | None
    heads: nn.ModuleDict

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Every output by name. (N, 3, S, S) gives (N, O, 1, 1), a strip of P patches (N, 3, S * P, S) gives (N, O, P,
        1), and a picture (N, 3, H, W) P-Net's maps (N, O, h, w)."""
        signal = self.data(x)
        for unit in self.units:
            signal = unit(signal)
        shared = signal if self.shared is None else self.shared(signal)
        own = {} if self.quality_unit is None else {"quality": self.quality_unit(signal)}
        return {name: head(own.get(name, shared)) for name, head in self.heads.items()}


class GraphOutputs(PatchMaps):
    """Some outputs of a net in the order of their names: (1, 3, H, W) -> a map each. It shares the net's layers, and
    has no heads but these."""

    def __init__(self, net: PatchMaps, outputs: Sequence[str]) -> None:
        super().__init__()
        self.data, self.units, self.shared = net.data, net.units, net.shared
        self.quality_unit = net.quality_unit if "quality" in outputs else None
        self.heads = nn.ModuleDict({name: net.heads[name] for name in outputs})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.maps(x).values())


class FoldedPatchNet(PatchMaps):
    """The deployed form of a ``PatchNet``, with copies of its weights; it can be trained as that can.

    It computes in float until ``set_mode``; with PReLU (``activation``) there is nothing else that it can do.
    """

    def __init__(self, net: PatchNet) -> None:
        super().__init__()
        self.architecture: Architecture = net.architecture
        self.activation = net.activation
        self.data = Point(PIXEL_SCALE, fixed=True)      # pixels less their mean: whole numbers already
        units = zip(net.units, net.architecture.layers, strict=True)
        self.units = nn.ModuleList(FoldedUnit(cast(ConvUnit, unit), layer.pool) for unit, layer in units)
        self.shared, self.quality_unit = (self._connected(unit) for unit in (net.shared, net.quality_unit))
        heads = {name: getattr(net, name, None) for name in OUTPUTS}
        self.heads = nn.ModuleDict({
            name: FoldedOutput(head, name) for name, head in heads.items() if isinstance(head, nn.Conv2d)
        })

    def _connected(self, unit: ConvUnit | None) -> FoldedUnit | None:
        architecture = self.architecture
        return None if unit is None else FoldedUnit(unit, stride=architecture.size_px // architecture.stride)

    def forward(self, x: Tensor) -> PatchOutput:
        """Normalised BGR patches (N, 3, size_px, size_px) -> PatchOutput, as ``PatchNet`` gives it."""
        return PatchOutput.of(self.maps(x))

    def quality_branch(self) -> nn.ModuleList:
        """As ``PatchNet.quality_branch``."""
        return nn.ModuleList([] if self.quality_unit is None else [self.quality_unit, self.heads["quality"]])


class FoldedMTCNN(nn.Module):
    """The three deployed nets of MTCNN, each used on its own."""

    def __init__(self, net: MTCNN) -> None:
        super().__init__()
        self.pnet, self.rnet, self.onet = (FoldedPatchNet(each) for each in net.nets().values())

    def nets(self) -> dict[str, FoldedPatchNet]:
        """"pnet", "rnet" and "onet", in the order in which they run."""
        return {"pnet": self.pnet, "rnet": self.rnet, "onet": self.onet}
