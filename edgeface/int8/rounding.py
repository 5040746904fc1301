"""The element-wise arithmetic of int8 engines on large maps, a block that stays in the processor's cache at a time.

A map of a 640 px picture has millions of values, and an operation of torch reads and writes all of them: one operation
after the other over whole maps takes three times as long as the convolutions between.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeface.int8.scales import Q_MAX

# 256 kB of float32.
_BLOCK = 1 << 16
# The float32 next to a half, from below: added to a magnitude before the floor, it takes a half up and nothing else.
_BELOW_HALF = 0.5 - 2.0**-25


@torch.no_grad()
def rounded_away(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` (N, C, H, W) times ``factor`` () as whole numbers from -127 to 127, in float32, halves away from zero: how
    ncnn rounds."""
    out = torch.empty(x.shape, device=x.device)
    for block, levels in zip(_blocks(x), _blocks(out), strict=True):
        torch.mul(block, factor, out=levels)
        magnitudes = levels.abs().add_(_BELOW_HALF).floor_().clamp_(max=Q_MAX)
        levels.sign_().mul_(magnitudes)
    return out


@torch.no_grad()
def rounded_even(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` (N, C, H, W) times ``factor``, () or (C,), as whole numbers from -128 to 127, in float32, halves to even:
    how TFLite rounds."""
    out = torch.empty(x.shape, device=x.device)
    factors = _blocks(factor.expand(x.shape[:2])[..., None, None], x)
    for block, levels, each in zip(_blocks(x), _blocks(out), factors, strict=True):
        torch.mul(block, each, out=levels).round_().clamp_(-Q_MAX - 1, Q_MAX)
    return out


@torch.no_grad()
def scale_sums(sums: Tensor, steps: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """``sums`` (N, C, H, W) float32 as real values, in place where they lie without gaps: times ``steps`` (C,) plus
    ``bias`` (C,), in float64 and rounded once, as a fused multiply-add does; with ``relu`` 0 where that is below 0."""
    sums = sums.contiguous()
    by_channel = (_blocks(each.double().expand(sums.shape[:2])[..., None, None], sums) for each in (steps, bias))
    for block, step, offset in zip(_blocks(sums), *by_channel, strict=True):
        block.copy_(block.double().mul_(step).add_(offset))
        if relu:
            block.relu_()
    return sums


def _blocks(values: Tensor, like: Tensor | None = None) -> Sequence[Tensor]:
    """``values`` (N, C, h, w) as blocks (some channels, h, w), as many as make a block of ``like`` (N, C, H, W), by
    default itself; one block where it is not on a CPU."""
    height, width = (values if like is None else like).shape[2:]
    planes = values.flatten(0, 1)
    if values.device.type != "cpu":
        return [planes]
    return torch.split(planes, max(1, _BLOCK // max(1, height * width)))
