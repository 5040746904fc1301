"""The paper's own MOS (mos.txt, section 4): on ShuffleNetV2, MobileNetV2 and ResNet-152."""

from __future__ import annotations

from collections.abc import Sequence

from edgeface.models.backbones.mobilenetv2 import MobileNetV2
from edgeface.models.backbones.resnet import RESNET_152, ResNet
from edgeface.models.backbones.shufflenetv2 import ShuffleNetV2
from edgeface.models.blocks import FPN, SSH
from edgeface.models.family import families
from edgeface.models.mos import MOS, STRIDES, mos
from edgeface.models.mos_export import MOSFamily
from edgeface.models.starting import load_published


def mos_s(width: str = "1.0x", channels: int = 64) -> MOS:
    """MOS-S (mos.txt, section 4.1); ``width`` "1.0x" or "0.5x" of ShuffleNetV2, ``channels`` of the pyramid."""
    return mos_with_ssh(ShuffleNetV2(width), channels)


def mos_m(width: float = 1.0, channels: int = 64) -> MOS:
    """The paper's MOS-Mobilenetv2 (mos.txt, section 4.2); ``width`` of MobileNetV2, ``channels`` of the pyramid."""
    return mos_with_ssh(MobileNetV2(width), channels)


def mos_l(counts: Sequence[int] = RESNET_152, channels: int = 256) -> MOS:
    """MOS-L (mos.txt, section 4.2), for a GPU; ``counts`` of ResNet, ``channels`` of the pyramid."""
    return mos_with_ssh(ResNet(counts), channels)


def mos_with_ssh(backbone: ShuffleNetV2 | MobileNetV2 | ResNet, channels: int) -> MOS:
    """MOS as published on a trunk with maps at STRIDES; ``channels`` of the pyramid, a multiple of 4."""
    # The paper's "+DCN" row would put deformable convolutions into these context modules. They are left out: they
    # gain .5 AP there, and neither ncnn's int8 nor TFLite has one.
    return mos(backbone, FPN(backbone.channels, channels), [SSH(channels) for _ in STRIDES], channels)


families("mos_s")(MOSFamily(mos_s))
families("mos_m")(MOSFamily(mos_m, load_published))
families("mos_l")(MOSFamily(mos_l, load_published))
