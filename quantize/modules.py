"""Layers that can run in float or as int8 engines compute them: convolutions, and the points where a tensor is int8.

A ``Point`` is one tensor of the deployed network with one scale. Engines differ in where they round: TFLite holds every
tensor in int8 ("all"), ncnn only what an int8 convolution reads ("inputs"), with float32 between. One set of scales
serves both, and a network in one of these modes is the reference that its engine is held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .fake import fake_quantise, fake_quantise_weight, weight_scales
from .scales import LayerScales

Mode = Literal["float", "inputs", "all"]


@dataclass(frozen=True)
class Signal:
    """A tensor (N, C, H, W) on its way, and the point whose scale it has."""

    value: Tensor
    point: Point

    def split(self, channels: Sequence[int]) -> list[Signal]:
        """Consecutive slices along the channels; the scale stays."""
        return [Signal(part, self.point) for part in torch.split(self.value, list(channels), 1)]

    def mapped(self, operation: Callable[[Tensor], Tensor]) -> Signal:
        """What an operation that only moves or picks values makes of it; the scale stays."""
        return Signal(operation(self.value), self.point)


def concatenated(signals: Sequence[Signal]) -> Signal:
    """Signals of one point, one after the other along the channels."""
    (point,) = {id(s.point): s.point for s in signals}.values()
    return signals[0] if len(signals) == 1 else Signal(torch.cat([s.value for s in signals], 1), point)


class Point(nn.Module):
    """One tensor of the network with one scale, the scale's logarithm being learned.

    ``forward`` marks a tensor as this point's; ``observer`` sees it there, for calibration.
    """

    zero_point: Tensor

    def __init__(self, scale: float = 1.0, *, fixed: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=not fixed)
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32), persistent=False)
        self.mode: Mode = "float"
        self.observer: Callable[[Tensor], None] | None = None
        self._constant: Tensor | None = None

    @property
    def scale(self) -> float:
        """The scale: real value = scale * integer."""
        return float(self.log_scale.detach().exp())

    def set_scale(self, scale: float) -> None:
        """Take a calibrated scale."""
        with torch.no_grad():
            self.log_scale.fill_(math.log(scale))

    def freeze(self) -> None:
        """Make the scale a constant, as the exporter needs it."""
        self._constant = torch.tensor(self.scale, device=self.log_scale.device)

    def _rounded(self, x: Tensor) -> Tensor:
        scale = self.log_scale.exp() if self._constant is None else self._constant
        return fake_quantise(x, scale, self.zero_point)

    def forward(self, x: Tensor) -> Signal:
        """A tensor that the network has just computed, rounded where every tensor is int8."""
        if self.observer is not None:
            self.observer(x)
        return Signal(self._rounded(x) if self.mode == "all" else x, self)

    def read(self, x: Tensor) -> Tensor:
        """The tensor as an int8 convolution takes it."""
        return self._rounded(x) if self.mode == "inputs" else x


class FoldedConv(nn.Module):
    """Convolution with its batch norm folded in, a bias always, and ReLU or not: what engines call one layer.

    ``weight`` (O, I / groups, k, k). ``int8`` False keeps the layer in float in every mode.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.stride, self.padding, self.groups, self.relu = stride, padding, groups, relu
        self.int8 = True
        self.mode: Mode = "float"

    def forward(self, signal: Signal) -> Tensor:
        """(N, I, H, W) -> (N, O, H', W'), not yet rounded: the next point does that."""
        x, weight = signal.value, self.weight
        if self.mode != "float" and self.int8:
            x, weight = signal.point.read(x), fake_quantise_weight(weight)
        y = nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding, 1, self.groups)
        return torch.relu(y) if self.relu else y


def points(net: nn.Module) -> Iterator[tuple[str, Point]]:
    """The network's points by name, each once."""
    return ((name, m) for name, m in net.named_modules() if isinstance(m, Point))


def convolutions(net: nn.Module) -> Iterator[tuple[str, FoldedConv]]:
    """The network's convolutions by name, each once."""
    return ((name, m) for name, m in net.named_modules() if isinstance(m, FoldedConv))


def set_mode(net: nn.Module, mode: Mode) -> None:
    """Compute in float, or as engines do that round int8 convolutions' inputs, or every tensor."""
    for module in net.modules():
        if isinstance(module, (Point, FoldedConv)):
            module.mode = mode


def bake(net: nn.Module) -> None:
    """Round the weights of the int8 layers for good, so that a float graph of them holds the int8 weights' values."""
    for _, conv in convolutions(net):
        if conv.int8:
            with torch.no_grad():
                conv.weight.copy_(fake_quantise_weight(conv.weight))


def layer_scales(net: nn.Module, run: Callable[[], object]) -> list[LayerScales]:
    """The int8 layers that ``run`` calls, by their names in ``net``, with baked weights and scales, in that order."""
    names = {conv: name for name, conv in convolutions(net)}
    found: list[LayerScales] = []

    def note(conv: nn.Module, inputs: tuple[Signal, ...], _output: Tensor) -> None:
        assert isinstance(conv, FoldedConv)
        if conv.int8:
            weight = fake_quantise_weight(conv.weight).detach().cpu().numpy()
            scales = weight_scales(conv.weight).cpu().numpy()
            found.append(LayerScales(names[conv], weight, scales, inputs[0].point.scale))

    handles = [conv.register_forward_hook(note) for conv in names]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found
