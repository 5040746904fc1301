"""The layers of an ncnn pair as ONNX nodes, one function a kind: (graph, layer, arrays) -> None.

An axis of ncnn is the next one of ONNX, which has the batch before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeface.errors import ConversionError
from edgeface.runtime.engines.ncnn_files import Layer, weight_shape

Arrays = Mapping[str, NDArray[Any]]

_BINARY = {0: "Add", 1: "Sub", 2: "Mul", 3: "Div", 4: "Max", 5: "Min", 6: "Pow"}
_UNARY = {0: "Abs", 1: "Neg", 5: "Sqrt", 7: "Exp", 8: "Log", 16: "Tanh"}
_ELTWISE = {0: "Mul", 1: "Sum", 2: "Max"}
# By ncnn's order_type, of (c, h, w): which axis comes to which place.
_ORDERS = {0: (0, 1, 2), 1: (0, 2, 1), 2: (1, 0, 2), 3: (1, 2, 0), 4: (2, 0, 1), 5: (2, 1, 0)}


class PairGraph:
    """An ONNX graph that grows; ``shapes`` are those of the blobs."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self.shapes = path, shapes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        name = f"ef_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attributes: Any) -> str:
        given = list(outputs or [f"ef_between_{len(self.nodes)}"])
        name = f"ef_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), given, name, **attributes))
        return given[0]

    def refused(self, layer: Layer, why: str) -> ConversionError:
        return ConversionError(f"{self.path}: layer {layer.name}, {layer.kind}: {why}: give the ONNX file")


def floats(layer: Layer, key: int) -> list[float]:
    """An array parameter, which is written as its length and its values under -23300 less its key."""
    return [float(value) for value in layer.params.get(-23300 - key, "0").split(",")[1:]]


def _number(layer: Layer, key: int, otherwise: float) -> float:
    return float(layer.params.get(key, otherwise))


def _activated(g: PairGraph, layer: Layer, x: str) -> None:
    """Give ``x``, what the layer computes, with the activation that is fused into it."""
    kind, values, out = layer.integer(9), floats(layer, 10), [layer.produces[0]]
    if kind == 0:
        g.node("Identity", [x], out)
    elif kind == 1:
        g.node("Relu", [x], out)
    elif kind == 2:
        g.node("LeakyRelu", [x], out, alpha=values[0])
    elif kind == 3:
        g.node("Clip", [x, g.constant(values[0]), g.constant(values[1])], out)
    elif kind == 4:
        g.node("Sigmoid", [x], out)
    elif kind == 6:
        g.node("Mul", [x, g.node("HardSigmoid", [x], alpha=values[0], beta=values[1])], out)
    else:
        raise g.refused(layer, f"activation {kind} is not imported")


def _pads(g: PairGraph, layer: Layer, keys: tuple[int, int, int, int]) -> list[int]:
    """Top, left, bottom, right by the keys of left, right, top and bottom, each of which is the one before's otherwise.
    """
    left = layer.integer(keys[0])
    right, top = layer.integer(keys[1], left), layer.integer(keys[2], left)
    bottom = layer.integer(keys[3], top)
    if min(left, right, top, bottom) < 0:
        raise g.refused(layer, "padding that depends on the size is not imported")
    return [top, left, bottom, right]


def _convolution(g: PairGraph, layer: Layer, arrays: Arrays) -> None:
    weight = arrays["weight"].astype(np.float32).reshape(weight_shape(layer))
    if _number(layer, 18, 0):
        raise g.refused(layer, "it pads with other values than 0")
    inputs = [layer.consumes[0], g.constant(weight)]
    inputs += [g.constant(arrays["bias"])] if "bias" in arrays else []
    stride, dilation = layer.integer(3, 1), layer.integer(2, 1)
    _activated(g, layer, g.node(
        "Conv", inputs, kernel_shape=list(weight.shape[2:]), strides=[layer.integer(13, stride), stride],
        dilations=[layer.integer(12, dilation), dilation], pads=_pads(g, layer, (4, 15, 14, 16)),
        group=layer.integer(7, 1) if layer.kind == "ConvolutionDepthWise" else 1,
    ))


def _inner_product(g: PairGraph, layer: Layer, arrays: Arrays) -> None:
    weight = arrays["weight"].astype(np.float32).reshape(weight_shape(layer))
    bias = arrays["bias"] if "bias" in arrays else np.zeros(len(weight))
    flat = g.node("Flatten", [layer.consumes[0]])
    _activated(g, layer, g.node("Gemm", [flat, g.constant(weight), g.constant(bias)], transB=1))


def _pooling(g: PairGraph, layer: Layer, _: Arrays) -> None:
    kind = "Average" if layer.integer(0) else "Max"
    source, out = layer.consumes[0], list(layer.produces)
    if layer.integer(4):
        g.node("Flatten", [g.node(f"Global{kind}Pool", [source])], out)
        return
    mode, across = layer.integer(5), layer.integer(1)
    if mode > 1 or layer.integer(7):
        raise g.refused(layer, "padding or sizes that depend on the picture's are not imported")
    down, stride = layer.integer(11, across), layer.integer(2, 1)
    counts: dict[str, Any] = {"count_include_pad": layer.integer(6)} if kind == "Average" else {}
    g.node(
        f"{kind}Pool", [source], out, kernel_shape=[down, across], strides=[layer.integer(12, stride), stride],
        pads=_pads(g, layer, (3, 14, 13, 15)), ceil_mode=1 - mode, **counts,
    )


def _prelu(g: PairGraph, layer: Layer, arrays: Arrays) -> None:
    slopes = arrays["values"].astype(np.float32)
    axes = len(g.shapes[layer.consumes[0]]) - 2
    g.node("PRelu", [layer.consumes[0], g.constant(slopes.reshape(-1, *(1,) * axes))], layer.produces)


def _batch_norm(g: PairGraph, layer: Layer, arrays: Arrays) -> None:
    slope, mean, variance, bias = arrays["values"].astype(np.float32).reshape(4, -1)
    given = [layer.consumes[0], *map(g.constant, (slope, bias, mean, variance))]
    g.node("BatchNormalization", given, layer.produces, epsilon=_number(layer, 1, 0.0))


def _binary(g: PairGraph, layer: Layer, _: Arrays) -> None:
    kind, inputs = layer.integer(0), list(layer.consumes)
    inputs += [g.constant(_number(layer, 2, 0.0))] if layer.integer(1) else []
    if kind in (7, 8):      # with the operands in the other order
        kind, inputs = {7: 1, 8: 3}[kind], inputs[::-1]
    if kind not in _BINARY or len({len(g.shapes[name]) for name in layer.consumes}) > 1:
        raise g.refused(layer, "an operation of blobs of different axes, or of a kind that is not imported")
    g.node(_BINARY[kind], inputs, layer.produces)


def _eltwise(g: PairGraph, layer: Layer, _: Arrays) -> None:
    kind = layer.integer(0)
    if kind not in _ELTWISE or any(value != 1 for value in floats(layer, 1)) or len(layer.consumes) != 2:
        raise g.refused(layer, "a weighted sum, or of other than two blobs")
    g.node("Add" if kind == 1 else _ELTWISE[kind], layer.consumes, layer.produces)


def _unary(g: PairGraph, layer: Layer, _: Arrays) -> None:
    kind = layer.integer(0)
    if kind not in _UNARY:
        raise g.refused(layer, f"operation {kind} is not imported")
    g.node(_UNARY[kind], layer.consumes, layer.produces)


def _interp(g: PairGraph, layer: Layer, _: Arrays) -> None:
    kind = layer.integer(0)
    before, after = g.shapes[layer.consumes[0]], g.shapes[layer.produces[0]]
    if kind not in (1, 2) or layer.integer(6):
        raise g.refused(layer, "only nearest and bilinear resizing are imported")
    scales = g.constant([new / old for new, old in zip(after, before, strict=True)])
    how: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if kind == 2:
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    g.node("Resize", [layer.consumes[0], "", scales], layer.produces, **how)


def _concat(g: PairGraph, layer: Layer, _: Arrays) -> None:
    axis = layer.integer(0)
    g.node("Concat", layer.consumes, layer.produces, axis=axis + 1 if axis >= 0 else axis)


def _slice(g: PairGraph, layer: Layer, _: Arrays) -> None:
    axis = layer.integer(1)
    axis += 1 if axis >= 0 else len(g.shapes[layer.consumes[0]])
    parts = [g.shapes[name][axis] for name in layer.produces]
    g.node("Split", [layer.consumes[0], g.constant(parts, np.int64)], layer.produces, axis=axis)


def _split(g: PairGraph, layer: Layer, _: Arrays) -> None:
    for name in layer.produces:
        g.node("Identity", layer.consumes, [name])


def _softmax(g: PairGraph, layer: Layer, _: Arrays) -> None:
    axis = layer.integer(0)
    g.node("Softmax", layer.consumes, layer.produces, axis=axis + 1 if axis >= 0 else axis)


def _permute(g: PairGraph, layer: Layer, _: Arrays) -> None:
    order, rank = layer.integer(0), len(g.shapes[layer.consumes[0]]) - 1
    axes = _ORDERS.get(order) if rank == 3 else {0: (0, 1), 1: (1, 0)}.get(order)
    if axes is None:
        raise g.refused(layer, f"order {order} of {rank} axes is not imported")
    g.node("Transpose", layer.consumes, layer.produces, perm=[0, *(axis + 1 for axis in axes)])


def _reshape(g: PairGraph, layer: Layer, _: Arrays) -> None:
    shape = g.shapes[layer.produces[0]]
    g.node("Reshape", [layer.consumes[0], g.constant(shape, np.int64)], layer.produces)


def _shuffle(g: PairGraph, layer: Layer, _: Arrays) -> None:
    channels, height, width = g.shapes[layer.consumes[0]][1:]
    groups = layer.integer(0, 1)
    groups = channels // groups if layer.integer(1) else groups
    apart = [1, groups, channels // groups, height, width]
    x = g.node("Reshape", [layer.consumes[0], g.constant(apart, np.int64)])
    x = g.node("Transpose", [x], perm=[0, 2, 1, 3, 4])
    g.node("Reshape", [x, g.constant([1, channels, height, width], np.int64)], layer.produces)


def _relu(g: PairGraph, layer: Layer, _: Arrays) -> None:
    slope = _number(layer, 0, 0.0)
    if slope:
        g.node("LeakyRelu", layer.consumes, layer.produces, alpha=slope)
    else:
        g.node("Relu", layer.consumes, layer.produces)


def _clip(g: PairGraph, layer: Layer, _: Arrays) -> None:
    bounds = [g.constant(_number(layer, key, otherwise)) for key, otherwise in ((0, -3.4e38), (1, 3.4e38))]
    g.node("Clip", [layer.consumes[0], *bounds], layer.produces)


def _swish(g: PairGraph, layer: Layer, _: Arrays) -> None:
    g.node("Mul", [layer.consumes[0], g.node("Sigmoid", layer.consumes)], layer.produces)


def _hard(g: PairGraph, layer: Layer, _: Arrays) -> None:
    x = layer.consumes[0]
    how: dict[str, Any] = {"alpha": _number(layer, 0, 0.2), "beta": _number(layer, 1, 0.5)}
    if layer.kind == "HardSigmoid":
        g.node("HardSigmoid", [x], layer.produces, **how)
    else:
        g.node("Mul", [x, g.node("HardSigmoid", [x], **how)], layer.produces)


def _as(kind: str) -> Callable[[PairGraph, Layer, Arrays], None]:
    def same(g: PairGraph, layer: Layer, _: Arrays) -> None:
        g.node(kind, layer.consumes, layer.produces)

    return same


LAYERS: dict[str, Callable[[PairGraph, Layer, Arrays], None]] = {
    "Input": lambda g, layer, arrays: None,
    "Convolution": _convolution, "ConvolutionDepthWise": _convolution, "InnerProduct": _inner_product,
    "Pooling": _pooling, "PReLU": _prelu, "BatchNorm": _batch_norm, "BinaryOp": _binary, "Eltwise": _eltwise,
    "UnaryOp": _unary, "Interp": _interp, "Concat": _concat, "Slice": _slice, "Split": _split, "Softmax": _softmax,
    "Permute": _permute, "Reshape": _reshape, "ShuffleChannel": _shuffle, "ReLU": _relu, "Clip": _clip,
    "Swish": _swish, "HardSwish": _hard, "HardSigmoid": _hard, "Sigmoid": _as("Sigmoid"), "TanH": _as("Tanh"),
    "Dropout": _as("Identity"), "Noop": _as("Identity"), "Flatten": _as("Flatten"),
}
