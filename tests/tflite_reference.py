"""What a quantised ONNX graph gives where all is int8: NumPy integers, rounded at the end of a layer as XNNPACK does.

XNNPACK multiplies a convolution's whole sum, bias included, as float32 with the float32 input scale * weight scale /
output scale, and rounds halves to even; an addition has multipliers of 21 bits and rounds halves up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]
_ADD_BITS = 21


@dataclass(frozen=True)
class Levels:
    """real value = scale * levels, any shape."""

    levels: Integers
    scale: np.float32

    @property
    def real(self) -> Doubles:
        return self.levels * float(self.scale)


@dataclass(frozen=True)
class Sums:
    """A convolution before it is rounded: ``sums`` (O, H, W) in units of ``step`` (O,); ``least``: 0 behind a ReLU."""

    sums: Integers
    step: NDArray[np.float32]
    least: int = -128

    def rounded(self, scale: np.float32) -> Levels:
        factor = (self.step / scale)[:, None, None]
        levels = np.rint(self.sums.astype(np.float32) * factor).clip(self.least, 127)
        return Levels(levels.astype(np.int64), scale)


@dataclass(frozen=True)
class Addition:
    """Two tensors that are added; ``least`` as in ``Sums``."""

    left: Levels
    right: Levels
    least: int = -128

    def rounded(self, scale: np.float32) -> Levels:
        factors = [float(side.scale / scale) for side in (self.left, self.right)]
        shift = _ADD_BITS - int(np.frexp(max(factors))[1])
        left, right = (int(np.rint(np.ldexp(factor, shift))) for factor in factors)
        total = self.left.levels * left + self.right.levels * right + (1 << (shift - 1))
        return Levels((total >> shift).clip(self.least, 127), scale)


def windows(x: NDArray[Any], kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], fill: float) -> Any:
    """(C, H, W) -> (C, H', W', kh, kw)."""
    x = np.pad(x, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    return sliding_window_view(x, kernel, axis=(1, 2))[:, :: stride[0], :: stride[1]]


def convolved(x: NDArray[Any], weight: NDArray[Any], a: dict[str, Any]) -> NDArray[Any]:
    """(I, H, W) * (O, I / groups, kh, kw) -> (O, H', W'), nothing rounded where both are integers."""
    groups = a.get("group", 1)
    seen = windows(x, weight.shape[2:], a.get("strides", [1, 1]), a.get("pads", [0] * 4), 0)
    inputs, outputs = len(seen) // groups, len(weight) // groups
    return np.concatenate([
        np.einsum("chwij,ocij->ohw", seen[g * inputs :][:inputs], weight[g * outputs :][:outputs], optimize=True)
        for g in range(groups)
    ])


def run_integers(model: onnx.ModelProto, x: NDArray[np.float32]) -> dict[str, Levels | Doubles]:
    """Outputs by name of an input (C, H, W): levels where the output is quantised, else real values."""
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    values: dict[str, Any] = {model.graph.input[0].name: x.astype(np.float64)}
    weights: dict[str, tuple[Integers, NDArray[np.float32]]] = {}
    for node in model.graph.node:
        a = {i.name: onnx.helper.get_attribute_value(i) for i in node.attribute}
        given = [values.get(name) for name in node.input]
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights[node.output[0]] = constants[node.input[0]].astype(np.int64), constants[node.input[1]]
        elif node.op_type == "DequantizeLinear":
            values[node.output[0]] = given[0]
        elif node.op_type == "QuantizeLinear":
            scale = constants[node.input[1]][()]
            if isinstance(given[0], (Sums, Addition)):
                values[node.output[0]] = given[0].rounded(scale)
            else:
                levels = np.rint(_real(given[0]) / float(scale)).clip(-128, 127)
                values[node.output[0]] = Levels(levels.astype(np.int64), scale)
        elif node.op_type in ("Conv", "Gemm"):
            values[node.output[0]] = _weighted(node, given[0], weights, constants, a)
        elif node.op_type == "Split":
            ends = np.cumsum(constants[node.input[1]])[:-1]
            for name, part in zip(node.output, np.split(given[0].levels, ends), strict=True):
                values[name] = Levels(part, given[0].scale)
        elif node.op_type == "Add" and isinstance(given[0], Levels):
            values[node.output[0]] = Addition(given[0], given[1])
        elif node.op_type == "Relu" and isinstance(given[0], (Sums, Addition)):
            values[node.output[0]] = replace(given[0], least=0)
        elif node.op_type == "Relu" and isinstance(given[0], Levels):
            values[node.output[0]] = Levels(np.maximum(given[0].levels, 0), given[0].scale)
        elif node.op_type in _REAL:
            values[node.output[0]] = _REAL[node.op_type](*(_real(v) for v in given))
        else:
            kept = [v.levels if isinstance(v, Levels) else v for v in given if v is not None]
            moved = _MOVED[node.op_type](kept, a, [constants.get(name) for name in node.input])
            values[node.output[0]] = Levels(moved, given[0].scale) if isinstance(given[0], Levels) else moved
    return {o.name: values[o.name] for o in model.graph.output}


def _real(value: Levels | Doubles) -> Doubles:
    return value.real if isinstance(value, Levels) else value


def _weighted(
    node: onnx.NodeProto, x: Levels | Doubles, weights: dict[str, tuple[Integers, NDArray[np.float32]]],
    constants: dict[str, NDArray[Any]], a: dict[str, Any],
) -> Sums | Doubles:
    bias = constants[node.input[2]].astype(np.float64)
    if node.input[1] not in weights:
        real: Doubles = convolved(_real(x), constants[node.input[1]].astype(np.float64), a) + bias[:, None, None]
        return real
    weight, scale = weights[node.input[1]]
    assert isinstance(x, Levels)
    levels = x.levels
    if node.op_type == "Gemm":
        levels, weight, a = levels.reshape(-1, 1, 1), weight[:, :, None, None], {}
    step = np.broadcast_to(x.scale * scale, len(bias))
    sums = convolved(levels, weight, a) + np.rint(bias / step).astype(np.int64)[:, None, None]
    assert np.abs(sums).max() < 2**31
    return Sums(sums, step)


_REAL: dict[str, Callable[..., Doubles]] = {
    "Add": lambda x, y: x + y, "Mul": lambda x, y: x * y, "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
_MOVED: dict[str, Callable[[list[Any], dict[str, Any], list[Any]], Any]] = {
    "Concat": lambda xs, a, _: np.concatenate(xs),
    "MaxPool": lambda xs, a, _: windows(
        xs[0], a["kernel_shape"], a["strides"], a.get("pads", [0] * 4), -128
    ).max(axis=(3, 4)),
    "AveragePool": lambda xs, a, _: np.rint(
        windows(xs[0], a["kernel_shape"], a["strides"], a.get("pads", [0] * 4), 0).mean(axis=(3, 4))
    ),
    "Resize": lambda xs, a, _: xs[0].repeat(2, axis=1).repeat(2, axis=2),
    "Slice": lambda xs, a, c: xs[0][int(c[1][0]) : int(c[2][0])],
    "Flatten": lambda xs, a, _: xs[0].reshape(-1),
}
