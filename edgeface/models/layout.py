"""The order of a deployed tensor's channels, and weights that read or write such an order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

# A tensor's channels, by their logical number in the original network; None is a channel of zeros, there to fill up.
Layout = Sequence[int | None]


def read_through(weight: Tensor, layout: Layout) -> Tensor:
    """A weight (O, I, k, k) that reads its inputs from ``layout``; channels of zeros get weights of zero."""
    out = weight.new_zeros(weight.shape[0], len(layout), *weight.shape[2:])
    for place, channel in enumerate(layout):
        if channel is not None:
            out[:, place] = weight[:, channel]
    return out


def written_to(weight: Tensor, bias: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """A weight (O, ...) and bias (O,) that give their outputs in ``layout``; channels of zeros give zero."""
    out, shift = weight.new_zeros(len(layout), *weight.shape[1:]), bias.new_zeros(len(layout))
    for place, channel in enumerate(layout):
        if channel is not None:
            out[place], shift[place] = weight[channel], bias[channel]
    return out, shift


def filled(channels: int, multiple: int) -> list[int | None]:
    """Channels 0.. in order, with channels of zeros up to a multiple."""
    return [*range(channels), *[None] * (-channels % multiple)]
