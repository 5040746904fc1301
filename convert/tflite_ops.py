"""The ONNX operators that a TFLite network is written from, one function each: (translation, node) -> None.

Operators that only move or pick values (concatenation, slices, pooling, upsampling) keep the scale of what they read;
those that compute need one, and compute in float where what they read is float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeface.runtime.engines.tflite_writer import Quantisation, Tensor, made

from .tflite_graph import AXES, QuantisedWeight, Translation, attributes, refused
from .tflite_windows import Window, fitted

Operator = Callable[[Translation, onnx.NodeProto], None]
OPERATORS: dict[str, Operator] = {}

_CHANNELS = 3
_NEAREST = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
# Kernels that take int8 are a later version of their operator.
_INT8_CONV, _INT8 = 3, 2

# XNNPACK leaves larger concatenations to a slower kernel, and every operator that it leaves is a border for it.
_MOST_JOINED = 4

_LARGEST_BIAS = 2.0**30
# Requantising by less than this would only ever give 0, and kernels refuse it.
_LEAST_RATIO = 2.0**-31
# What a channel without weights takes: its bias is then exact to a thousandth of an output step.
_BIAS_ONLY_RATIO = 2.0**-10


def writes(*names: str) -> Callable[[Operator], Operator]:
    """Decorator of the function that translates the ONNX operators of these names."""

    def register(function: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = function
        return function

    return register


def _version(tensor: Tensor) -> int:
    return _INT8 if tensor.dtype == np.int8 else 1


def _axis(node: onnx.NodeProto, axis: int, rank: int) -> int:
    axis += rank if axis < 0 else 0
    if axis not in range(1, rank):
        raise refused(node, f"axis {axis} is not written for TFLite: use the channels")
    return AXES[axis]


@writes("QuantizeLinear")
def _quantize(t: Translation, node: onnx.NodeProto) -> None:
    t.give_same(node, t.as_int8(t.value(node, flattened=True), t.scale(node)))


@writes("DequantizeLinear")
def _dequantize(t: Translation, node: onnx.NodeProto) -> None:
    integers = t.source.constants.get(node.input[0])
    if integers is None:
        tensor, scale = t.value(node, flattened=True), t.scale(node)
        if tensor.scale != scale:
            raise refused(node, f"its scale {scale} is not the {tensor.scale} of its QuantizeLinear")
        t.give_same(node, tensor)
        return
    scales, zero = t.constant(node, 1), t.optional(node, 2)
    if integers.dtype != np.int8 or (zero is not None and zero.any()) or (integers == -128).any():
        raise refused(node, "a quantised weight must be int8 from -127 to 127 with zero point 0")
    if attributes(node).get("axis", 1) != 0 and scales.size > 1:
        raise refused(node, "the scales of a weight must be those of its output channels, axis 0")
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise refused(node, "a weight's scale is not positive")
    per_channel = np.broadcast_to(scales.reshape(-1), len(integers)).astype(np.float32)
    t.give_weight(node.output[0], QuantisedWeight(integers, per_channel))


@writes("Conv")
def _conv(t: Translation, node: onnx.NodeProto) -> None:
    x, a = t.value(node), attributes(node)
    shape, groups = t.constant(node, 1).shape, a.get("group", 1)
    channels = x.shape[_CHANNELS]
    depthwise = groups > 1
    if len(shape) != 4 or (depthwise and (groups != channels or shape[1] != 1)):
        raise refused(node, f"{groups} groups of {channels} channels: use 1 group, or 1 channel a group (depthwise)")
    window = Window.of(node, shape[2:])
    x, padding = fitted(t, node, x, window, 0)
    stride = {"strideH": window.stride[0], "strideW": window.stride[1]}
    dilation = {"dilationHFactor": window.dilation[0], "dilationWFactor": window.dilation[1]}
    kind, result = t.fused_activation(node.output[0])
    if depthwise:
        options = made(
            "DepthwiseConv2DOptionsT", padding=padding, **stride, depthMultiplier=shape[0] // channels,
            fusedActivationFunction=kind, **dilation,
        )
        _weighted(t, node, result, x, "DEPTHWISE_CONV_2D", (1, 2, 3, 0), shape, options)
    else:
        options = made("Conv2DOptionsT", padding=padding, **stride, fusedActivationFunction=kind, **dilation)
        _weighted(t, node, result, x, "CONV_2D", (0, 2, 3, 1), shape, options)


@writes("Gemm")
def _gemm(t: Translation, node: onnx.NodeProto) -> None:
    # A convolution over the whole map: it needs no reshape, and weights per channel work in every version of TFLite.
    x, a = t.value(node, flattened=True), attributes(node)
    if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0) or not a.get("transB", 0):
        raise refused(node, "only a fully connected layer's Gemm is written for TFLite (transB=1, no factors)")
    _, height, width, channels = x.shape
    out = t.constant(node, 1).shape[0]
    kind, result = t.fused_activation(node.output[0])
    options = made(
        "Conv2DOptionsT", padding=schema.Padding.VALID, strideW=1, strideH=1, fusedActivationFunction=kind
    )
    _weighted(t, node, result, x, "CONV_2D", (0, 2, 3, 1), (out, channels, height, width), options)


def _weighted(
    t: Translation, node: onnx.NodeProto, result: str, x: Tensor, operator: str, order: tuple[int, ...],
    shape: tuple[int, ...], options: Any,
) -> None:
    """A convolution; its weight is seen as ``shape`` (O, I, kh, kw) and written with the axes in ``order``."""
    bias = t.optional(node, 2)
    bias = np.zeros(shape[0], np.float32) if bias is None else np.broadcast_to(bias, (1, shape[0]))[0]
    weight = t.quantised_weight(node, 1)
    if weight is None or x.dtype != np.int8:
        values = t.constant(node, 1).reshape(shape).transpose(order)
        inputs = [
            t.as_float(x), t.weight_tensor(node, values),
            t.network.constant(f"{node.output[0]};bias", bias.astype(np.float32)),
        ]
        out = t.new(result, None)
        t.network.add(operator, inputs, [out], options)
    else:
        scale = t.output_scale(result)
        if scale is None:
            raise refused(node, "its int8 output has no scale: quantise its output, or keep the layer in float")
        assert x.scale is not None
        integers, scales, sums = _folded_bias(weight, bias, x.scale, scale)
        name = node.output[0]
        inputs = [
            x,
            t.network.constant(
                f"{name};weight", integers.reshape(shape).transpose(order), Quantisation(scales, order.index(0))
            ),
            t.network.constant(f"{name};bias", sums, Quantisation(x.scale * scales)),
        ]
        out = t.new(result, scale)
        t.network.add(operator, inputs, [out], options, _INT8_CONV)
    t.give(result, out)


def _folded_bias(
    weight: QuantisedWeight, bias: NDArray[np.float32], x_scale: np.float32, out_scale: np.float32
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
    """Weights, their scales, and the bias as int32 with scale x_scale * weight scale.

    The scales are the trained ones, but where that would not hold the bias: a channel without weights has a free scale,
    and in one whose weights are next to nothing beside its bias, or beside an output step, they are rounded more.
    """
    flat = weight.integers.reshape(len(bias), -1).astype(np.float64)
    weighted = flat.any(axis=1)
    ratio = np.where(weighted, _LEAST_RATIO, _BIAS_ONLY_RATIO)
    least = np.maximum(ratio * float(out_scale), np.abs(bias.astype(np.float64)) / _LARGEST_BIAS) / float(x_scale)
    used = np.where(weighted, np.maximum(weight.scale, least), least).astype(np.float32)
    integers = np.rint(flat * (weight.scale / used)[:, None]).reshape(weight.integers.shape).astype(np.int8)
    sums = np.rint(bias / (x_scale * used)).astype(np.int32)
    return integers, used, sums


@writes("Add", "Mul")
def _arithmetic(t: Translation, node: onnx.NodeProto) -> None:
    left, right = t.value(node, 0), t.value(node, 1)
    if left.shape != right.shape:
        raise refused(node, f"maps of different shapes {left.shape} and {right.shape}: make them equal")
    kind, result = t.fused_activation(node.output[0])
    scale = t.output_scale(result)
    if left.dtype == np.int8 and right.dtype == np.int8:
        if scale is None:
            raise refused(node, "its int8 output has no scale: quantise its output")
    else:
        left, right, scale = t.as_float(left), t.as_float(right), None
    out = t.new(result, scale)
    options = made(f"{node.op_type}OptionsT", fusedActivationFunction=kind)
    t.network.add(node.op_type.upper(), [left, right], [out], options, _version(out))
    t.give(result, out)


@writes("PRelu", "LeakyRelu")
def _sloped(t: Translation, node: onnx.NodeProto) -> None:
    x, scale = t.value(node), t.output_scale(node.output[0])
    if x.dtype != np.int8 or scale is None:
        x, scale = t.as_float(x), None
    out = t.new(node.output[0], scale)
    if node.op_type == "LeakyRelu":
        alpha = attributes(node).get("alpha", 0.01)
        t.network.add("LEAKY_RELU", [x], [out], made("LeakyReluOptionsT", alpha=alpha), _version(x))
    else:
        slopes = t.constant(node, 1).reshape(-1).astype(np.float32)
        slopes = np.broadcast_to(slopes, x.shape[_CHANNELS:])[None, None]
        name, quantisation = f"{node.output[0]};slopes", None
        if scale is not None:
            step = np.float32(max(float(np.abs(slopes).max()), 1e-6) / 127)
            slopes, quantisation = np.rint(slopes / step).astype(np.int8), Quantisation.per_tensor(step)
        t.network.add("PRELU", [x, t.network.constant(name, slopes, quantisation)], [out])
    t.give(node.output[0], out)


@writes("Relu", "Clip")
def _relu(t: Translation, node: onnx.NodeProto) -> None:
    if node.op_type == "Clip" and not t.is_relu6(node):
        raise refused(node, "only a Clip from 0 to 6 is written for TFLite: use Relu")
    x = t.value(node)
    out = t.new(node.output[0], x.scale)
    t.network.add("RELU" if node.op_type == "Relu" else "RELU6", [x], [out], version=_version(x))
    t.give(node.output[0], out)


@writes("Sigmoid", "Softmax")
def _in_float(t: Translation, node: onnx.NodeProto) -> None:
    # TFLite's int8 kernels of these have a scale and a zero point of their own.
    x, options = t.as_float(t.value(node)), None
    out = t.new(node.output[0], None)
    if node.op_type == "Softmax":
        if _axis(node, attributes(node).get("axis", -1), len(t.source.shape(node.input[0]))) != _CHANNELS:
            raise refused(node, "only a Softmax over the channels is written for TFLite")
        options = made("SoftmaxOptionsT", beta=1.0)
    t.network.add("LOGISTIC" if node.op_type == "Sigmoid" else "SOFTMAX", [x], [out], options)
    t.give(node.output[0], out)


@writes("MaxPool", "AveragePool")
def _pool(t: Translation, node: onnx.NodeProto) -> None:
    x, a = t.value(node), attributes(node)
    window = Window.of(node, a["kernel_shape"])
    if window.dilation != (1, 1):
        raise refused(node, "a pooling with dilation is not written for TFLite: use a convolution")
    if node.op_type == "MaxPool":
        x, padding = fitted(t, node, x, window, -128 if x.dtype == np.int8 else np.finfo(np.float32).min)
    else:
        x, padding = fitted(t, node, x, window, 0, counts_padding=bool(a.get("count_include_pad", 0)))
    out = t.new(node.output[0], x.scale)
    options = made(
        "Pool2DOptionsT", padding=padding, strideH=window.stride[0], strideW=window.stride[1],
        filterHeight=window.kernel[0], filterWidth=window.kernel[1],
    )
    t.network.add("MAX_POOL_2D" if node.op_type == "MaxPool" else "AVERAGE_POOL_2D", [x], [out], options, _version(x))
    t.give(node.output[0], out)


@writes("GlobalAveragePool")
def _mean(t: Translation, node: onnx.NodeProto) -> None:
    x = t.value(node)
    out = t.new(node.output[0], x.scale)
    axes = t.network.setting(np.array([1, 2], np.int32))
    t.network.add("MEAN", [x, axes], [out], made("ReducerOptionsT", keepDims=True), _version(x))
    t.give(node.output[0], out)


@writes("Concat")
def _concat(t: Translation, node: onnx.NodeProto) -> None:
    inputs = [t.value(node, i) for i in range(len(node.input))]
    scales = {tensor.scale for tensor in inputs}
    scale = t.output_scale(node.output[0])
    if None in scales and scale is None:
        inputs = [t.as_float(tensor) for tensor in inputs]
    else:
        # Scales that differ without one to choose: the largest clips nothing.
        scale = max(s for s in scales if s is not None) if scale is None else scale
        inputs = [t.as_int8(tensor, scale) for tensor in inputs]
    axis = _axis(node, attributes(node)["axis"], len(t.source.shape(node.input[0])))
    while len(inputs) > _MOST_JOINED:
        inputs = [_joined(t, f"{node.output[0]};part", inputs[:_MOST_JOINED], axis), *inputs[_MOST_JOINED:]]
    t.give(node.output[0], _joined(t, node.output[0], inputs, axis))


def _joined(t: Translation, name: str, parts: Sequence[Tensor], axis: int) -> Tensor:
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    out = t.network.tensor(name, shape, parts[0].dtype.type, parts[0].quantisation)
    t.network.add("CONCATENATION", parts, [out], made("ConcatenationOptionsT", axis=axis), _version(out))
    return out


@writes("Split")
def _split(t: Translation, node: onnx.NodeProto) -> None:
    x = t.value(node)
    axis = _axis(node, attributes(node).get("axis", 0), len(t.source.shape(node.input[0])))
    begin = 0
    for name in node.output:
        size = t.source.nhwc(name)[axis]
        _slice_of(t, name, x, axis, begin, size)
        begin += size


@writes("Slice")
def _slice(t: Translation, node: onnx.NodeProto) -> None:
    x, rank = t.value(node), len(t.source.shape(node.input[0]))
    starts = t.constant(node, 1).reshape(-1)
    axes, steps = t.optional(node, 3), t.optional(node, 4)
    if len(starts) != 1 or axes is None or (steps is not None and (steps != 1).any()):
        raise refused(node, "only a slice of one axis in steps of 1 is written for TFLite: use Split")
    axis = _axis(node, int(axes[0]), rank)
    if axis in t.free:
        raise refused(node, "a slice of a height or width, in a net for every size: slice channels")
    length, start = x.shape[axis], int(starts[0])
    begin = min(max(start + length if start < 0 else start, 0), length)
    _slice_of(t, node.output[0], x, axis, begin, t.source.nhwc(node.output[0])[axis])


def _slice_of(t: Translation, name: str, x: Tensor, axis: int, begin: int, size: int) -> None:
    # STRIDED_SLICE: its masks leave the other axes whole at any size. SLICE with sizes of -1 keeps those of the first
    # allocation (tflite-runtime 2.14 gives wrong shapes, litert 2.3 refuses), and XNNPACK leaves it to a slower kernel.
    out = t.new(name, x.scale)
    first, end = np.zeros(4, np.int32), np.zeros(4, np.int32)
    first[axis], end[axis] = begin, begin + size
    inputs = [x, *(t.network.setting(values) for values in (first, end, np.ones(4, np.int32)))]
    others = 0b1111 & ~(1 << axis)
    options = made("StridedSliceOptionsT", beginMask=others, endMask=others)
    t.network.add("STRIDED_SLICE", inputs, [out], options, _version(x))
    t.give(name, out)


@writes("Resize")
def _resize(t: Translation, node: onnx.NodeProto) -> None:
    x, a = t.value(node), attributes(node)
    out = t.new(node.output[0], x.scale)
    (factor_h, rest_h), (factor_w, rest_w) = (divmod(out.shape[i], x.shape[i]) for i in (1, 2))
    how = a.get("coordinate_transformation_mode", "half_pixel"), a.get("nearest_mode", "round_prefer_floor")
    if a.get("mode") != "nearest" or how not in _NEAREST or rest_h or rest_w or factor_h != factor_w or factor_h < 2:
        raise refused(node, "only nearest upsampling by a whole factor is written for TFLite")
    if t.free:
        _spread(t, x, out, factor_h)
    else:
        size = t.network.setting(np.array(out.shape[1:3], np.int32))
        options = made("ResizeNearestNeighborOptionsT")
        t.network.add("RESIZE_NEAREST_NEIGHBOR", [x, size], [out], options, _version(x))
    t.give(node.output[0], out)


def _spread(t: Translation, x: Tensor, out: Tensor, factor: int) -> None:
    """Upsampling without a size: copies of the channels, of which DEPTH_TO_SPACE makes every pixel's block."""
    copies = x
    for _ in range(2):
        copies = _joined(t, f"{out.name};copies", [copies] * factor, _CHANNELS)
    t.network.add("DEPTH_TO_SPACE", [copies], [out], made("DepthToSpaceOptionsT", blockSize=factor))


@writes("Flatten", "Reshape")
def _flatten(t: Translation, node: onnx.NodeProto) -> None:
    x = t.value(node, flattened=True)
    if len(t.source.shape(node.output[0])) != 2:
        raise refused(node, "only flattening to (1, N) is written for TFLite; export a channel shuffle as slices")
    t.give_flattened(node.output[0], x)


@writes("Identity", "Dropout")
def _same(t: Translation, node: onnx.NodeProto) -> None:
    t.give_same(node, t.value(node, flattened=True))
