"""Channels brought to one range before their tensor gets its one scale.

An int8 tensor has one scale, which its largest channel sets: in MobileNetV2 others are a hundredth of that, and hold
few levels. Where one layer alone reads what another gives, and a ReLU at most lies between, a channel can be divided by
a factor in the first and multiplied by it in the second, and nothing changes but rounding (Nagel et al. 2019, Data-Free
Quantization through Weight Equalization and Bias Correction, section 4.1).

A weight's scale is a channel's own, so that this costs the first layer nothing, nor a depthwise second one: all its
channels get the range of the largest. A dense second layer has one scale for all that an output reads, and takes the
square root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgeface.int8.modules import FoldedConv
from edgeface.models.backbones.mobilenetv2 import FoldedMobileNetV2
from edgeface.models.family import Inputs

# A channel that is nearly nothing on the pictures may be more on others.
_LEAST_FACTOR = 1 / 64
# Of the calibration inputs: a range takes fewer than a scale.
_EVERY = 4


@torch.no_grad()
def equalise(net: nn.Module, inputs: Sequence[Inputs], run: Callable[[Inputs], object]) -> None:
    """Bring the channels between layers of ``net``, a deployed network in the mode "float" and in evaluation, to one
    range by what they hold while ``run`` takes it through some of ``inputs``; it computes the same afterwards.

    Networks without pairs of such layers are left alone, and not run.
    """
    pairs = list(_pairs(net))
    if not pairs:
        return
    ranges: dict[FoldedConv, Tensor] = {}
    handles = [first.register_forward_hook(partial(_note, ranges)) for first, _ in pairs]
    try:
        for each in inputs[::_EVERY]:
            run(each)
    finally:
        for handle in handles:
            handle.remove()
    for first, second in pairs:
        depthwise = second.groups > 1
        factors = _factors(ranges[first], 1.0 if depthwise else 0.5)
        first.weight.div_(factors[:, None, None, None])
        first.bias.div_(factors)
        second.weight.mul_(factors[:, None, None, None] if depthwise else factors[:, None, None])


def _pairs(net: nn.Module) -> Iterator[tuple[FoldedConv, FoldedConv]]:
    for module in net.modules():
        if isinstance(module, FoldedMobileNetV2):
            yield from module.pairs()


def _note(ranges: dict[FoldedConv, Tensor], conv: nn.Module, _inputs: object, y: Tensor) -> None:
    assert isinstance(conv, FoldedConv)
    largest = y.abs().amax((0, 2, 3))
    ranges[conv] = torch.maximum(ranges[conv], largest) if conv in ranges else largest


def _factors(ranges: Tensor, power: float) -> Tensor:
    """What the channels of ``ranges`` (C,) are divided by; 1 for one that holds nothing."""
    factors = (ranges / ranges.max().clamp(min=torch.finfo(ranges.dtype).tiny)) ** power
    return torch.where(ranges > 0, factors.clamp(min=_LEAST_FACTOR), torch.ones_like(factors))
