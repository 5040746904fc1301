"""Layers that can run in float or as int8 engines compute them: convolutions, and the points where a tensor is int8.

A ``Point`` is one tensor of the deployed network with one scale. Engines differ in where they round: TFLite holds every
tensor in int8 ("all"), ncnn only what an int8 convolution reads ("inputs"), with float32 between. One set of scales
serves both, and a network in one of these modes is the reference that its engine is held against.

In training mode rounding is fake quantisation, with gradients. In evaluation mode a convolution computes on whole
numbers held in float32, which is exact while no sum of a layer can reach 2^24, beyond that in float64, and scales the
sums as engines do. That matters: a value that falls on the other side of a half is a level off, moves
others over theirs, and after fifty layers a few per cent of all values differ; rounding errors of plain float32
convolutions are enough to start it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgeface.int8.fake import fake_quantise, fake_quantise_weight, weight_scales
from edgeface.int8.rounding import rounded_away, rounded_even, scale_sums
from edgeface.int8.scales import Q_MAX, LayerScales

Mode = Literal["float", "inputs", "all"]
_ADD_BITS = 21
# Whole numbers up to here are exact in float32, and so is a sum whose parts all stay under it, in any order.
_EXACT_IN_FLOAT32 = 1 << 24


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


@dataclass(frozen=True)
class Sums:
    """A convolution's outputs before they are rounded: ``values`` (N, O, H, W), whole numbers in float32, of ``steps``
    (O,) each."""

    values: Tensor
    steps: Tensor


def concatenated(signals: Sequence[Signal]) -> Signal:
    """Signals of one point, one after the other along the channels."""
    (point,) = {id(s.point): s.point for s in signals}.values()
    return signals[0] if len(signals) == 1 else Signal(torch.cat([s.value for s in signals], 1), point)


class Point(nn.Module):
    """One tensor of the network with one scale, the scale's logarithm being learned.

    ``forward`` marks a tensor as this point's; ``observer`` sees it there, for calibration, which clips at ``limit``
    at the latest.
    """

    zero_point: Tensor

    def __init__(self, scale: float = 1.0, *, fixed: bool = False, limit: float = math.inf) -> None:
        super().__init__()
        self.limit = limit
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
        if self._constant is not None:
            return fake_quantise(x, self._constant, self.zero_point)
        scale = self.log_scale.exp()
        return fake_quantise(x, scale, self.zero_point) if self.training else self.integers(x) * scale

    def integers(self, x: Tensor) -> Tensor:
        """The tensor as whole numbers, in float32, as the mode's engines round it.

        ncnn rounds halves away from zero and stops at -127; TFLite and ONNX round them to even and stop at -128.
        """
        factor = 1 / self.log_scale.exp()
        return rounded_even(x, factor) if self.mode == "all" else rounded_away(x, factor)

    def forward(self, x: Tensor | Sums) -> Signal:
        """A tensor that the network has just computed, rounded where every tensor is int8."""
        if isinstance(x, Sums):
            # XNNPACK's order: one factor a channel in float32, halves to even.
            scale = self.log_scale.exp()
            return Signal(rounded_even(x.values, x.steps / scale).mul_(scale), self)
        if self.observer is not None:
            self.observer(x)
        return Signal(self._rounded(x) if self.mode == "all" else x, self)

    def sum(self, left: Signal, right: Signal) -> Signal:
        """The sum of two signals as this point's tensor."""
        if self.mode != "all" or self.training or self._constant is not None:
            out: Signal = self(left.value + right.value)
            return out
        # XNNPACK's int8 addition: multipliers of 21 bits in whole numbers, halves up.
        scale = self.log_scale.exp()
        factors = [float(side.point.log_scale.exp() / scale) for side in (left, right)]
        shift = _ADD_BITS - math.frexp(max(factors))[1]
        total = torch.full((), 1 << (shift - 1), dtype=torch.int64, device=scale.device)
        for side, factor in zip((left, right), factors, strict=True):
            levels = (side.value / side.point.log_scale.exp()).round().long()
            total = total + levels * round(math.ldexp(factor, shift))
        return Signal((total >> shift).clamp(-Q_MAX - 1, Q_MAX).float() * scale, self)

    def read(self, x: Tensor) -> Tensor:
        """The tensor as an int8 convolution takes it in training."""
        return self._rounded(x) if self.mode == "inputs" else x


class _WholeWeight(NamedTuple):
    """The weights (O, I / groups, k, k) of ``source`` as whole numbers, and their scales (O,), as of ``state``."""

    source: Tensor
    state: tuple[int, torch.device]     # how often the source was written to, and where it lies
    values: Tensor
    scales: Tensor


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
        # The point last read; in a tuple, or torch would take it for a part of this layer.
        self.reads: tuple[Point, ...] = ()
        self._whole: _WholeWeight | None = None

    def forward(self, signal: Signal) -> Tensor | Sums:
        """(N, I, H, W) -> (N, O, H', W'), not yet rounded: the next point does that."""
        self.reads = (signal.point,)
        if self.mode == "all" and self.int8 and not self.training:
            return self._sums(signal)
        if self.mode == "float" or not self.int8:
            y = self._convolved(signal.value, self.weight, self.bias)
        elif self.training:
            y = self._convolved(signal.point.read(signal.value), fake_quantise_weight(self.weight), self.bias)
        else:
            return self._whole_numbers(signal)
        return torch.relu(y) if self.relu else y

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.conv2d(x, weight, bias, self.stride, self.padding, 1, self.groups)

    def _whole_sums(self, x: Tensor) -> Tensor:
        """The sums of whole numbers, exact: in float32 where that holds them, else in float64."""
        weight = self._whole_weight().values
        return self._convolved(x.to(weight.dtype), weight, None)

    def _whole_weight(self) -> _WholeWeight:
        """The weights as whole numbers, worked out once for as long as they stay the same."""
        kept = self._whole
        # A load or an optimiser writes in place, which a tensor counts, unless it was made for inference alone.
        version = -1 if self.weight.is_inference() else self.weight._version
        state = (version, self.weight.device)
        if kept is None or kept.source is not self.weight or kept.state != state or version < 0:
            with torch.no_grad():
                scales = weight_scales(self.weight)
                # From the rounded weights, which converters take: a division may put a half on the other side.
                values = (fake_quantise_weight(self.weight) / scales[:, None, None, None]).round()
                largest_sum = float(values.abs().sum((1, 2, 3)).max()) * (Q_MAX + 1)
                values = values if largest_sum < _EXACT_IN_FLOAT32 else values.double()
            kept = self._whole = _WholeWeight(self.weight, state, values, scales)
        return kept

    def _whole_numbers(self, signal: Signal) -> Tensor:
        sums = self._whole_sums(signal.point.integers(signal.value)).float()
        steps = self.steps(signal.point)
        return scale_sums(sums, steps, (self.bias / steps).round() * steps, relu=self.relu)

    def _sums(self, signal: Signal) -> Sums:
        scales = self._whole_weight().scales
        x = (signal.value / signal.point.log_scale.exp()).round()
        sums = self._whole_sums(x)
        steps = signal.point.log_scale.detach().exp() * scales
        # Both are whole numbers, so that float32 rounds their sum once, as an int32 is rounded on its way to float32.
        values = sums.add_(self.bias_steps(signal.point)[:, None, None]).float()
        return Sums(values.relu_() if self.relu else values, steps)

    def steps(self, point: Point) -> Tensor:
        """What a sum's 1 is worth, (O,); computed as ncnn does from the inverse scales in its files."""
        scales = weight_scales(self.weight) if self.training else self._whole_weight().scales
        return 1 / ((1 / point.log_scale.detach().exp()) * (1 / scales))

    def bias_steps(self, point: Point) -> Tensor:
        """The bias as whole steps (O,), which TFLite's biases are; ncnn's are floats and can hold the same."""
        return (self.bias / self.steps(point)).round()

    @torch.no_grad()
    def bake(self) -> None:
        """Round weight and bias for good. The layer must have run once, to know the point that it reads."""
        (point,) = self.reads
        self.bias.copy_(self.bias_steps(point) * self.steps(point))
        self.weight.copy_(fake_quantise_weight(self.weight))


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
    """Round weights and biases of the int8 layers for good, so that a float graph of them holds the int8 values.

    The network must have run once.
    """
    for _, conv in convolutions(net):
        if conv.int8:
            conv.bake()


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
