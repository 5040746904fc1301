"""Weights of int8 layers as a checkpoint keeps them: whole numbers, and the largest value of each output channel.

A layer computes with its weights rounded to multiples of a scale a channel, which is its largest value over 127
(``weight_scales``). So these two say all of it, in a quarter of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgeface.int8.fake import fake_quantise_weight, weight_scales
from edgeface.int8.scales import Q_MAX

# int8 (O, ...), and float32 (O,).
Whole = tuple[Tensor, Tensor]


def whole(weight: Tensor) -> Whole:
    """A float32 weight (O, ...) as whole numbers, rounded as its layer rounds it, and each channel's largest value."""
    scales = _along(weight_scales(weight), weight)
    numbers = (fake_quantise_weight(weight.detach()) / scales).round().to(torch.int8)
    return numbers, weight.detach().flatten(1).abs().amax(1)


def restored(numbers: Tensor, largest: Tensor) -> Tensor:
    """The weight of ``whole``: float32, with just these largest values, so that its scales are the same."""
    channels = _along(largest, numbers)
    weight = numbers.float() * _along(weight_scales(largest[:, None]), numbers)
    return torch.where((numbers.abs() == Q_MAX) & (weight.abs() > 0), channels * numbers.sign(), weight)


def rounded(weight: Tensor) -> Tensor:
    """``weight`` as ``restored`` gives it; itself where a layer would not compute the same with that, to the bit."""
    new = restored(*whole(weight))
    is_same = torch.equal(weight_scales(new), weight_scales(weight)) and torch.equal(
        fake_quantise_weight(new), fake_quantise_weight(weight)
    )
    return new if is_same else weight


def packed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A quantised network's state with whole numbers in the place of every weight that they give back to the bit, and
    the largest values of these by name."""
    kept, largest = dict(state), {}
    for name, tensor in state.items():
        if tensor.dtype == torch.float32 and tensor.dim() > 1:
            numbers, most = whole(tensor)
            if torch.equal(restored(numbers, most), tensor):
                kept[name], largest[name] = numbers, most
    return kept, largest


def unpacked(state: Mapping[str, Tensor], largest: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state before ``packed``. Raises ValueError for what that does not give."""
    found = dict(state)
    for name, most in largest.items():
        numbers = state.get(name)
        if (
            numbers is None or numbers.dtype != torch.int8 or numbers.dim() < 2 or most.dtype != torch.float32
            or most.shape != numbers.shape[:1] or numbers.numel() > numbers.untyped_storage().nbytes()
        ):
            raise ValueError(name)
        found[name] = restored(numbers, most)
    return found


def _along(channels: Tensor, weight: Tensor) -> Tensor:
    """(O,) as (O, 1, ...), to be multiplied with ``weight``."""
    return channels.reshape(-1, *(1,) * (weight.dim() - 1))
