"""MOS on a trunk that is made for a Cortex-A72 (backbones/pool.py)."""

from __future__ import annotations

from collections.abc import Sequence

from edgeface.models.backbones.pool import PoolNet, SkipConv
from edgeface.models.blocks import FPN
from edgeface.models.family import families
from edgeface.models.mos import MOS, STRIDES, mos
from edgeface.models.mos_export import MOSFamily


def _pooled(widths: Sequence[int], counts: Sequence[int], channels: int) -> MOS:
    """MOS on ``PoolNet``, with a pyramid that only adds and one 3x3 a level for context."""
    backbone = PoolNet(widths, counts)
    fpn = FPN(backbone.channels, channels, smooth=False)
    return mos(backbone, fpn, [SkipConv(channels, channels) for _ in STRIDES], channels)


def mos_tiny(
    widths: Sequence[int] = (8, 16, 48, 64, 96), counts: Sequence[int] = (1, 1, 3, 4, 6), channels: int = 48
) -> MOS:
    """MOS for one Cortex-A72 at 20 ms a picture of 320x256; ``widths`` and ``counts`` of ``PoolNet``, ``channels`` of
    the pyramid. The layers at stride 32 are cheap, and let an anchor see a face that fills the frame."""
    return _pooled(widths, counts, channels)


def mos_fast(
    widths: Sequence[int] = (16, 32, 64, 96, 128), counts: Sequence[int] = (1, 1, 3, 3, 4), channels: int = 64
) -> MOS:
    """MOS for one Cortex-A72 at 31 ms a picture of 320x256; else as ``mos_tiny``."""
    return _pooled(widths, counts, channels)


families("mos_fast")(MOSFamily(mos_fast))
families("mos_tiny")(MOSFamily(mos_tiny))
