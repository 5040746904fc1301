"""What a quantised ONNX graph gives where all is int8: NumPy integers, with nothing rounded inside a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import numpy_helper

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Levels:
    """real value = scale * levels, any shape."""

    levels: Integers
    scale: float

    @property
    def real(self) -> Doubles:
        return self.levels * self.scale


def windows(x: NDArray[Any], kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], fill: float) -> Any:
    """(C, H, W) -> (C, H', W', kh, kw)."""
    x = np.pad(x, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    return sliding_window_view(x, kernel, axis=(1, 2))[:, :: stride[0], :: stride[1]]


def convolved(x: Levels, weight: Integers, scale: Doubles, bias: Doubles, a: dict[str, Any]) -> Doubles:
    """The exact sums, with the bias rounded to a multiple of the sums' scale, as a real value (O, H', W')."""
    groups = a.get("group", 1)
    seen = windows(x.levels, weight.shape[2:], a.get("strides", [1, 1]), a.get("pads", [0] * 4), 0)
    inputs, outputs = len(seen) // groups, len(weight) // groups
    sums = np.concatenate([
        np.einsum("chwij,ocij->ohw", seen[g * inputs :][:inputs], weight[g * outputs :][:outputs], optimize=True)
        for g in range(groups)
    ])
    assert np.abs(sums).max() < 2**31
    step = np.float32(x.scale) * scale.astype(np.float32)
    whole = np.rint(bias / step)
    real: Doubles = (sums + whole[:, None, None]) * step.astype(np.float64)[:, None, None]
    return real


def run_integers(model: onnx.ModelProto, x: NDArray[np.float32]) -> dict[str, Levels | Doubles]:
    """Outputs by name of an input (C, H, W): levels where the output is quantised, else real values."""
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    values: dict[str, Any] = {model.graph.input[0].name: x.astype(np.float64)}
    weights: dict[str, tuple[Integers, Doubles]] = {}
    for node in model.graph.node:
        a = {i.name: onnx.helper.get_attribute_value(i) for i in node.attribute}
        given = [values.get(name) for name in node.input]
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            scale = np.atleast_1d(constants[node.input[1]]).astype(np.float64)
            weights[node.output[0]] = constants[node.input[0]].astype(np.int64), scale
        elif node.op_type == "DequantizeLinear":
            values[node.output[0]] = given[0]
        elif node.op_type == "QuantizeLinear":
            scale = float(constants[node.input[1]])
            levels = np.rint(_real(given[0]) / scale).clip(-128, 127).astype(np.int64)
            values[node.output[0]] = Levels(levels, scale)
        elif node.op_type in ("Conv", "Gemm"):
            values[node.output[0]] = _weighted(node, given[0], weights, constants, a)
        elif node.op_type == "Split":
            ends = np.cumsum(constants[node.input[1]])[:-1]
            for name, part in zip(node.output, np.split(given[0].levels, ends), strict=True):
                values[name] = Levels(part, given[0].scale)
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
    node: onnx.NodeProto, x: Levels | Doubles, weights: dict[str, tuple[Integers, Doubles]],
    constants: dict[str, NDArray[Any]], a: dict[str, Any],
) -> Doubles:
    bias = constants[node.input[2]].astype(np.float64)
    if node.input[1] not in weights:
        # Kept in float: the same sums over real values, at a scale of 1 with nothing rounded.
        weight = constants[node.input[1]].astype(np.float64)
        ones, zeros = np.ones(len(bias)), np.zeros(len(bias))
        return convolved(Levels(_real(x), 1.0), weight, ones, zeros, a) + bias[:, None, None]
    weight, scale = weights[node.input[1]]
    assert isinstance(x, Levels)
    if node.op_type == "Gemm":
        x, weight, a = Levels(x.levels.reshape(-1, 1, 1), x.scale), weight[:, :, None, None], {}
    return convolved(x, weight, np.broadcast_to(scale, len(bias)), bias, a)


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
