"""The nets of a cascade, which look at one square patch each: MTCNN's P-Net, R-Net and O-Net, and MHCNN's T-CNN.

Layers as published (mtcnn.txt, fig. 2; mhcnn.txt, fig. 3), with two things changed that leave every map's size as it
was: a batch norm in each convolution while it trains, which folds into it, and R-Net's, O-Net's and T-CNN's first max
pooling of 2 x 2 instead of 3 x 3 pixels, whose last window would hang over the patch's edge. So a net's field is its
patch, and patches that lie one below the other, without a gap, can be computed as one tall picture, a strip.

A fully connected layer is a convolution of its map's size. No layer pads, so that the map of a patch in a strip begins
every S / stride rows, and this convolution, with that as its stride, sees each patch and none of its neighbours. P-Net,
which has no such layer, runs over any picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.int8.modules import Point
from edgeface.models.deploy import deploy
from edgeface.models.patch_units import ACTIVATIONS, Activation, ConvUnit, Output
from edgeface.models.pixels import PIXEL_SCALE

# In the order of T-CNN's attribute logits.
ATTRIBUTES = ("mask", "sunglasses")
# Outputs by name, in the order of a graph's; those with a probability behind them are logits.
OUTPUTS = ("score", "box", "landmarks", "attributes", "quality")
LOGITS = frozenset({"score", "attributes", "quality"})
_QUALITY_WIDTH = 128


@dataclass(frozen=True)
class Layer:
    """One convolution without padding, ``kernel`` wide, and the max pooling after it, by 2, of ``pool`` pixels (0 for
    none)."""

    kernel: int
    channels: int
    pool: int = 0


@dataclass(frozen=True)
class Architecture:
    """A patch net: ``size_px`` of its patch, its layers, and the width of the layer that all heads read, 0 for none.

    ``stride`` is that of its last map when it runs over a larger picture.
    """

    size_px: int
    layers: tuple[Layer, ...]
    width: int

    @property
    def stride(self) -> int:
        """Pixels between the last map's neighbours."""
        return int(2 ** sum(layer.pool > 0 for layer in self.layers))

    @property
    def last(self) -> int:
        """Side of the last map of one patch."""
        side = self.size_px
        for layer in self.layers:
            side -= layer.kernel - 1
            if layer.pool:
                side = (side - layer.pool) // 2 + 1
        return side


P_NET = Architecture(12, (Layer(3, 10, 2), Layer(3, 16), Layer(3, 32)), 0)
R_NET = Architecture(24, (Layer(3, 28, 2), Layer(3, 48, 3), Layer(2, 64)), 128)
O_NET = Architecture(48, (Layer(3, 32, 2), Layer(3, 64, 3), Layer(3, 64, 2), Layer(2, 128)), 256)


@dataclass(frozen=True)
class PatchOutput:
    """What a patch net says of N patches, in units of the patch's side from its upper left corner.

    ``score`` (N,) logit of face; ``box`` (N, 4) the offsets of the face's left, top, right and bottom edge from the
    patch's own; ``landmarks`` (N, 10) x y of five points less 0.5; ``attributes`` (N, len(ATTRIBUTES)) logits and
    ``quality`` (N,) logit, of T-CNN alone.
    """

    score: Tensor
    box: Tensor
    landmarks: Tensor
    attributes: Tensor | None = None
    quality: Tensor | None = None

    @classmethod
    def of(cls, maps: Mapping[str, Tensor]) -> PatchOutput:
        """From a net's outputs by name, (N, O, 1, 1) each."""
        attributes, quality = maps.get("attributes"), maps.get("quality")
        return cls(
            maps["score"].flatten(), maps["box"].flatten(1), maps["landmarks"].flatten(1),
            None if attributes is None else attributes.flatten(1), None if quality is None else quality.flatten(),
        )


@dataclass(frozen=True)
class PatchParts:
    """What a ``PatchNet`` is made of: a unit a layer, the layer that its heads read where there is one, T-CNN's quality
    branch, and a head an output by name. ``data``, of a deployed one alone, takes the patches: a point."""

    units: Sequence[nn.Module]
    shared: nn.Module | None
    quality_unit: nn.Module | None
    heads: Mapping[str, nn.Module]
    data: Point | None = None


class PatchNet(nn.Module):
    """One of the four nets, of parts: trained, or deployed, with ``deploy`` having put the deployed form of each in its
    place. A deployed one computes in float until ``set_mode``; with PReLU there is nothing else that it can do.

    T-CNN's quality head is on a fully connected layer of its own, because it disturbs the others (mhcnn.txt, section
    3.3).
    """

    data: Point

    def __init__(self, architecture: Architecture, activation: Activation, parts: PatchParts) -> None:
        super().__init__()
        self.architecture, self.activation = architecture, activation
        if parts.data is not None:
            self.data = parts.data
        self.is_deployed = parts.data is not None
        self.units = nn.ModuleList(parts.units)
        self.shared, self.quality_unit = parts.shared, parts.quality_unit
        self.heads = nn.ModuleDict({name: parts.heads[name] for name in OUTPUTS if name in parts.heads})
        self.register_load_state_dict_pre_hook(_with_names_of_now)  # type: ignore[no-untyped-call]  # untyped in torch

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Every output by name. (N, 3, S, S) gives (N, O, 1, 1), a strip of P patches (N, 3, S * P, S) gives (N, O, P,
        1), and a picture (N, 3, H, W) P-Net's maps (N, O, h, w)."""
        features: Any = self.data(x) if self.is_deployed else x     # what is deployed passes signals, not tensors
        for unit in self.units:
            features = unit(features)
        shared = features if self.shared is None else self.shared(features)
        own = {} if self.quality_unit is None else {"quality": self.quality_unit(features)}
        return {name: head(own.get(name, shared)) for name, head in self.heads.items()}

    def forward(self, x: Tensor) -> PatchOutput:
        """Normalised BGR patches (N, 3, size_px, size_px) -> PatchOutput."""
        return PatchOutput.of(self.maps(x))

    def bias_of(self, output: str) -> Tensor:
        """Of a trained net: the bias (O,) of an output's head."""
        head = self.heads[output]
        assert isinstance(head, Output)
        assert head.bias is not None
        return head.bias

    def parts_for(self, outputs: Sequence[str]) -> PatchParts:
        """Its own layers, and of its heads those of ``outputs``."""
        return PatchParts(
            list(self.units), self.shared, self.quality_unit if "quality" in outputs else None,
            {name: self.heads[name] for name in outputs}, self.data if self.is_deployed else None,
        )


def _with_names_of_now(net: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """In older checkpoints the heads of a trained net have their names alone."""
    for name in OUTPUTS:
        for tensor in ("weight", "bias"):
            if f"{prefix}{name}.{tensor}" in state:
                state[f"{prefix}heads.{name}.{tensor}"] = state.pop(f"{prefix}{name}.{tensor}")


def patch_net(
    architecture: Architecture, activation: Activation, *, attributes: int = 0, quality: bool = False
) -> PatchNet:
    """A new net, with ``attributes`` outputs of that name, and with ``quality`` a quality head.

    Raises OptionError for an activation that is neither "prelu" nor "relu".
    """
    if activation not in ACTIVATIONS:
        raise OptionError(f"activation {activation!r} cannot work: choose {' or '.join(ACTIVATIONS)}")
    units, channels = [], 3
    for layer in architecture.layers:
        units.append(ConvUnit(channels, layer.channels, layer.kernel, activation, layer.pool))
        channels = layer.channels
    shared, quality_unit, heads = None, None, {}
    rows = architecture.size_px // architecture.stride
    if quality:
        quality_unit = ConvUnit(channels, _QUALITY_WIDTH, architecture.last, activation, stride=rows)
        heads["quality"] = Output(_QUALITY_WIDTH, 1, logits=True)
    if architecture.width:
        shared = ConvUnit(channels, architecture.width, architecture.last, activation, stride=rows)
        channels = architecture.width
    for name, count in {"score": 1, "box": 4, "landmarks": 10, "attributes": attributes}.items():
        if count:
            heads[name] = Output(channels, count, logits=name in LOGITS)
    return PatchNet(architecture, activation, PatchParts(units, shared, quality_unit, heads))


@deploy.register
def _patch_net(net: PatchNet, multiple: int = 1) -> nn.Module:
    shared, quality = (None if unit is None else deploy(unit) for unit in (net.shared, net.quality_unit))
    return PatchNet(
        net.architecture, net.activation,
        PatchParts(
            [deploy(unit) for unit in net.units], shared, quality,
            {name: deploy(head) for name, head in net.heads.items()},
            Point(PIXEL_SCALE, fixed=True),     # pixels less their mean: whole numbers already
        ),
    )


class MTCNN(nn.Module):
    """The three nets of MTCNN, trained or deployed, each used on its own: there is no forward."""

    def __init__(self, pnet: PatchNet, rnet: PatchNet, onet: PatchNet) -> None:
        super().__init__()
        self.pnet, self.rnet, self.onet = pnet, rnet, onet

    @property
    def is_deployed(self) -> bool:
        """Whether its nets are the deployed ones."""
        return self.pnet.is_deployed

    def nets(self) -> dict[str, PatchNet]:
        """"pnet", "rnet" and "onet", in the order in which they run."""
        return {"pnet": self.pnet, "rnet": self.rnet, "onet": self.onet}


@deploy.register
def _mtcnn(net: MTCNN, multiple: int = 1) -> nn.Module:
    pnet, rnet, onet = (cast(PatchNet, deploy(each)) for each in net.nets().values())
    return MTCNN(pnet, rnet, onet)


def mtcnn(activation: Activation = "prelu") -> MTCNN:
    """MTCNN with PReLU as published, or with ReLU for int8; raises OptionError for another activation."""
    pnet, rnet, onet = (patch_net(architecture, activation) for architecture in (P_NET, R_NET, O_NET))
    return MTCNN(pnet, rnet, onet)


def tcnn(
    activation: Activation = "prelu", attributes: Sequence[str] = ATTRIBUTES, quality: bool = True
) -> PatchNet:
    """T-CNN: O-Net's layers with attribute logits and a quality branch (mhcnn.txt, section 3.3).

    ``attributes`` must be ATTRIBUTES or a part of it: the ablation of table 2 leaves some out, and data without their
    labels do, as data without quality leave out that branch. Raises OptionError.
    """
    unknown = [name for name in attributes if name not in ATTRIBUTES]
    if unknown:
        raise OptionError(f"T-CNN has no attribute {unknown[0]!r}: choose from {', '.join(ATTRIBUTES)}")
    return patch_net(O_NET, activation, attributes=len(attributes), quality=quality)


def normalised(patches: Tensor, mean: float, scale: float) -> Tensor:
    """uint8 (N, S, S, 3) BGR -> float32 (N, 3, S, S), (pixels - mean) * scale."""
    return (patches.permute(0, 3, 1, 2).float() - mean).mul_(scale)     # channels last, as convolutions like it best
