"""The nets of a cascade, which look at one square patch each: MTCNN's P-Net, R-Net and O-Net, and MHCNN's T-CNN.

Layers as published (mtcnn.txt, fig. 2; mhcnn.txt, fig. 3), with two things changed that leave every map's size as it
was: a batch norm in each convolution while it trains, which folds into it, and R-Net's, O-Net's and T-CNN's first max
pooling of 2 x 2 instead of 3 x 3 pixels, whose last window would hang over the patch's edge. So a net's field is its
patch, and patches that lie one below the other, without a gap, can be computed as one tall picture, a strip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgeface.errors import OptionError

Activation = Literal["prelu", "relu"]
ACTIVATIONS: tuple[Activation, ...] = ("prelu", "relu")
# In the order of T-CNN's attribute logits.
ATTRIBUTES = ("mask", "sunglasses")
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


class ConvUnit(nn.Sequential):
    """Convolution without padding, batch norm, and PReLU (a slope a channel) or ReLU: (N, I, H, W) -> (N, O, ...)."""

    def __init__(self, cin: int, cout: int, kernel: int, activation: Activation) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, bias=False),
            nn.BatchNorm2d(cout),
            nn.PReLU(cout) if activation == "prelu" else nn.ReLU(),
        )

    def convolved(self, x: Tensor) -> Tensor:
        """The unit without its activation."""
        convolved: Tensor = self[1](self[0](x))
        return convolved

    @torch.no_grad()
    def keep_slopes_positive(self) -> None:
        """Make negative slopes 0, so that the activation does not fall and max pooling may stand on either side of it.
        """
        if isinstance(self[2], nn.PReLU):
            self[2].weight.clamp_(min=0)


class PatchNet(nn.Module):
    """One of the four nets. ``attributes`` is their number; with ``quality`` there is a quality head, on a fully
    connected layer of its own because it disturbs the others (mhcnn.txt, section 3.3).

    Raises OptionError for an activation that is neither "prelu" nor "relu".
    """

    def __init__(
        self, architecture: Architecture, activation: Activation, *, attributes: int = 0, quality: bool = False
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise OptionError(f"activation {activation!r} cannot work: choose {' or '.join(ACTIVATIONS)}")
        self.architecture, self.activation = architecture, activation
        units, channels = [], 3
        for layer in architecture.layers:
            units.append(ConvUnit(channels, layer.channels, layer.kernel, activation))
            channels = layer.channels
        self.units = nn.ModuleList(units)
        self.shared, self.quality_unit = None, None
        if quality:
            self.quality_unit = ConvUnit(channels, _QUALITY_WIDTH, architecture.last, activation)
            self.quality = nn.Conv2d(_QUALITY_WIDTH, 1, 1)
        if architecture.width:
            self.shared = ConvUnit(channels, architecture.width, architecture.last, activation)
            channels = architecture.width
        self.score, self.box, self.landmarks = (nn.Conv2d(channels, out, 1) for out in (1, 4, 10))
        self.attributes = nn.Conv2d(channels, attributes, 1) if attributes else None

    def features(self, x: Tensor) -> Tensor:
        """Normalised BGR patches (N, 3, size_px, size_px) -> the last convolution's map (N, C, last, last)."""
        for unit, layer in zip(self.units, self.architecture.layers, strict=True):
            assert isinstance(unit, ConvUnit)
            x = unit.convolved(x)
            if layer.pool:
                x = nn.functional.max_pool2d(x, layer.pool, 2)
            # After the pooling, which gives the same where slopes are not negative, and costs a quarter in training.
            x = unit[2](x)
        return x

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Every output by name: (N, O, 1, 1) of patches, and of a picture (N, 3, H, W) P-Net's maps (N, O, h, w)."""
        features = self.features(x)
        shared = features if self.shared is None else self.shared(features)
        maps = {"score": self.score(shared), "box": self.box(shared), "landmarks": self.landmarks(shared)}
        if self.attributes is not None:
            maps["attributes"] = self.attributes(shared)
        if self.quality_unit is not None:
            maps["quality"] = self.quality(self.quality_unit(features))
        return maps

    def forward(self, x: Tensor) -> PatchOutput:
        """Normalised BGR patches (N, 3, size_px, size_px) -> PatchOutput."""
        return PatchOutput.of(self.maps(x))

    def quality_branch(self) -> nn.ModuleList:
        """The layers that T-CNN's second step of training trains alone; none where there is no quality head."""
        return nn.ModuleList([] if self.quality_unit is None else [self.quality_unit, self.quality])


class MTCNN(nn.Module):
    """The three nets of MTCNN, each used on its own: there is no forward."""

    def __init__(self, activation: Activation = "prelu") -> None:
        super().__init__()
        self.pnet, self.rnet, self.onet = (PatchNet(net, activation) for net in (P_NET, R_NET, O_NET))

    def nets(self) -> dict[str, PatchNet]:
        """"pnet", "rnet" and "onet", in the order in which they run."""
        return {"pnet": self.pnet, "rnet": self.rnet, "onet": self.onet}


def mtcnn(activation: Activation = "prelu") -> MTCNN:
    """MTCNN with PReLU as published, or with ReLU for int8; raises OptionError for another activation."""
    return MTCNN(activation)


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
    return PatchNet(O_NET, activation, attributes=len(attributes), quality=quality)


def normalised(patches: Tensor, mean: float, scale: float) -> Tensor:
    """uint8 (N, S, S, 3) BGR -> float32 (N, 3, S, S), (pixels - mean) * scale."""
    return (patches.permute(0, 3, 1, 2).float() - mean).mul_(scale)     # channels last, as convolutions like it best
