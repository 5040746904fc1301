"""Fake quantisation: values rounded to what int8 can hold and kept as floats, with gradients that pass through.

Symmetric, -127 to 127, zero point 0. The scale of an activation is learned with the gradient of LSQ (Esser et al. 2020,
eq. 3), by its logarithm, so that a step of the optimiser is a relative change; weights take theirs from their largest
value, which is trained as well.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgeface.int8.scales import Q_MAX

_SMALLEST_SCALE = 1e-8


class _FakeQuantise(torch.autograd.Function):
    """(x, scale ()) -> x of the same shape on the grid of ``scale``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        y = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -Q_MAX, Q_MAX)
        ctx.save_for_backward(x, y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (gradient,) = gradients
        x, y, scale = ctx.saved_tensors
        passed = gradient * (x.abs() <= Q_MAX * scale)
        if not ctx.needs_input_grad[1]:
            return passed, None, None
        # Inside the range dy/ds is (y - x) / s, outside it is y / s, so both are these two dot products.
        pull = torch.dot(gradient.flatten(), y.flatten()) - torch.dot(passed.flatten(), x.flatten())
        return passed, pull / scale / math.sqrt(x.numel() * Q_MAX), None

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, zero_point: Any) -> Any:
        """QuantizeLinear and DequantizeLinear, for the exporter; ``scale`` must be a constant by then."""
        zero = g.op("Cast", zero_point, to_i=torch.onnx.TensorProtoDataType.INT8)
        return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)


def fake_quantise(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """``x`` (any shape, float32) rounded to multiples of ``scale`` (), at most 127 of them each way.

    ``zero_point`` is an int32 0 (), taken as an argument because a buffer moves between devices and a constant does
    not. The gradient to ``scale`` is divided by sqrt(127 * x.numel()), as in LSQ, section 2.2.
    """
    out: Tensor = _FakeQuantise.apply(x, scale, zero_point)  # type: ignore[no-untyped-call]  # untyped in torch
    return out


def weight_scales(weight: Tensor) -> Tensor:
    """Per-channel scales (O,) of a weight (O, ...): its largest absolute value over 127, 1 where all is zero."""
    largest = weight.detach().float().flatten(1).abs().amax(1)
    return torch.where(largest > 0, (largest / Q_MAX).clamp_min(_SMALLEST_SCALE), torch.ones_like(largest))


def fake_quantise_weight(weight: Tensor) -> Tensor:
    """A weight (O, ...) with each output channel rounded to multiples of its scale; the gradient passes through."""
    zero_points = torch.zeros(weight.shape[0], dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, weight_scales(weight), zero_points, 0, -Q_MAX, Q_MAX)
