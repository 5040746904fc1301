"""From an ONNX graph to a TFLite network: what is constant, what is int8 with which scale, and what is still float.

Maps (1, C, H, W) become (1, H, W, C), vectors (1, N) become (1, 1, 1, N), and no operator is needed for that: whatever
names a channel names the last axis instead. A QuantizeLinear and its DequantizeLinear are no operators either where
the tensor was written as int8 at once; the operators in tflite_ops.py ask for the scale that their output shall have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeface.errors import ConversionError
from edgeface.runtime.engines.tflite_writer import Network, Quantisation, Tensor

Operators = Mapping[str, Callable[["Translation", onnx.NodeProto], None]]

# Where the axes of (1, C, H, W) are in (1, H, W, C); the axis 1 of a vector is its channels too.
AXES = {0: 0, 1: 3, 2: 1, 3: 2}
_LARGEST_HALF = 65504.0
# DEQUANTIZE: the version of its kernel that takes the type.
_FROM_INT8, _FROM_HALF = 2, 3


@dataclass(frozen=True)
class QuantisedWeight:
    """A constant behind a DequantizeLinear: ``integers`` (O, ...) int8, ``scale`` (O,) float32."""

    integers: NDArray[np.int8]
    scale: NDArray[np.float32]

    @property
    def real(self) -> NDArray[np.float32]:
        """Its values, float32 of the same shape."""
        return self.integers * self.scale.reshape(-1, *(1,) * (self.integers.ndim - 1))


class OnnxGraph:
    """An ONNX graph and what its nodes are asked about."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.constants: dict[str, NDArray[Any]] = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
                continue
            self.nodes.append(node)
            for name in node.input:
                self.consumers[name].append(node)
        inputs = [i.name for i in graph.input if i.name not in self.constants]
        if len(inputs) != 1:
            raise ConversionError(f"an ONNX graph with {len(inputs)} inputs: a net here has one")
        self.input = inputs[0]
        self.outputs = [o.name for o in graph.output]
        self._shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in (*graph.value_info, *graph.input, *graph.output)
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape (1, C, H, W) or (1, N) of a tensor; raises ConversionError for any other one."""
        shape = self._shapes.get(name, ())
        if len(shape) not in (2, 4) or shape[0] != 1 or 0 in shape:
            raise ConversionError(f"tensor {name} has shape {shape}: TFLite nets need fixed (1, C, H, W) or (1, N)")
        return shape

    def nhwc(self, name: str) -> tuple[int, int, int, int]:
        """The shape that the tensor has in the TFLite network."""
        shape = self.shape(name)
        if len(shape) == 2:
            return 1, 1, 1, shape[1]
        return 1, shape[2], shape[3], shape[1]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name, strings decoded."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}


def refused(node: onnx.NodeProto, why: str) -> ConversionError:
    """The error for a node that cannot be written."""
    return ConversionError(f"{node.op_type} {node.name or node.output[0]}: {why}")


class Translation:
    """The state while nodes are translated one after the other; ``half`` stores weights as float16, and no operator
    may depend on the sizes of the dimensions of (1, H, W, C) in ``free``."""

    def __init__(self, source: OnnxGraph, *, half: bool, free: frozenset[int]) -> None:
        self.source, self.free, self._half = source, free, half
        self.network = Network()
        self._values: dict[str, Tensor] = {}
        self._weights: dict[str, QuantisedWeight] = {}
        self._flattened: set[str] = set()
        self._fused: set[str] = set()
        self._floats: dict[Tensor, Tensor] = {}

    def run(self, operators: Operators) -> tuple[Tensor, list[Tensor]]:
        """Translate every node; gives the input and the outputs. Raises ConversionError."""
        source = self.source
        self._values[source.input] = entry = self.new(source.input, self.output_scale(source.input))
        entry.free = self.free
        for node in source.nodes:
            if node.output[0] in self._fused:
                continue
            if node.op_type not in operators:
                raise refused(node, f"not written for TFLite: use one of {', '.join(sorted(operators))}")
            operators[node.op_type](self, node)
        outputs: list[Tensor] = []
        for name in source.outputs:
            tensor = self._values[name]
            if tensor is entry or tensor in outputs or name in self._flattened:
                raise ConversionError(f"output {name} is no tensor of its own: leave it out")
            outputs.append(tensor)
        for name, tensor in zip(source.outputs, outputs, strict=True):
            self.network.rename(tensor, name)
        return entry, outputs

    # What a node reads.

    def constant(self, node: onnx.NodeProto, i: int) -> NDArray[Any]:
        """Input ``i`` of a node as an array; raises ConversionError when it is computed."""
        name = node.input[i]
        if name in self._weights:
            return self._weights[name].real
        if name not in self.source.constants:
            raise refused(node, f"its input {name} is computed: it must be a constant")
        return self.source.constants[name]

    def optional(self, node: onnx.NodeProto, i: int) -> NDArray[Any] | None:
        """As ``constant``; None where the node has no such input."""
        return self.constant(node, i) if len(node.input) > i and node.input[i] else None

    def quantised_weight(self, node: onnx.NodeProto, i: int) -> QuantisedWeight | None:
        """Input ``i`` where it is an int8 constant behind a DequantizeLinear."""
        return self._weights.get(node.input[i])

    def value(self, node: onnx.NodeProto, i: int = 0, *, flattened: bool = False) -> Tensor:
        """The tensor of a computed input, float32 or int8; raises ConversionError for a constant.

        Only with ``flattened`` may it be a map that the node sees as a vector, in the order of (C, H, W).
        """
        name = node.input[i]
        if name in self._flattened and not flattened:
            raise refused(node, "after a flattened map only Gemm is written for TFLite")
        if name not in self._values:
            raise refused(node, f"its input {name} is a constant: fold it into a convolution")
        return self._values[name]

    def as_float(self, tensor: Tensor) -> Tensor:
        """The tensor in float32, by a DEQUANTIZE where it is int8."""
        if tensor.dtype != np.int8:
            return tensor
        if tensor not in self._floats:
            self._floats[tensor] = self.network.tensor(f"{tensor.name};float", tensor.shape, np.float32)
            self.network.add("DEQUANTIZE", [tensor], [self._floats[tensor]], version=_FROM_INT8)
        return self._floats[tensor]

    def as_int8(self, tensor: Tensor, scale: np.float32) -> Tensor:
        """The tensor in int8 with that scale, by a QUANTIZE where it has not."""
        if tensor.scale == scale:
            return tensor
        out = self.network.tensor(f"{tensor.name};int8", tensor.shape, np.int8, Quantisation.per_tensor(scale))
        self.network.add("QUANTIZE", [tensor], [out])
        return out

    # What a node gives.

    def output_scale(self, name: str) -> np.float32 | None:
        """The scale with which all that read this tensor quantise it; None where something takes it as it is."""
        readers = self.source.consumers[name]
        if name in self.source.outputs or not readers or any(n.op_type != "QuantizeLinear" for n in readers):
            return None
        first, *others = {self.scale(n) for n in readers}
        return None if others else first

    def scale(self, node: onnx.NodeProto) -> np.float32:
        """The scale of a QuantizeLinear or DequantizeLinear of an activation; raises ConversionError."""
        scale, zero = self.constant(node, 1), self.optional(node, 2)
        if zero is None or zero.dtype != np.int8 or zero.any():
            raise refused(node, "it is not int8 with zero point 0: quantise symmetrically")
        if scale.size != 1 or not np.isfinite(scale).all() or not (scale > 0).all():
            raise refused(node, "an activation has one scale, which is positive")
        value: np.float32 = scale.astype(np.float32).reshape(-1)[0]
        return value

    def fused_activation(self, name: str) -> tuple[int, str]:
        """The activation that alone reads the tensor, as the schema's number, and what it calls its result."""
        from ai_edge_litert.schema_py_generated import ActivationFunctionType

        readers = self.source.consumers[name]
        if len(readers) == 1 and name not in self.source.outputs:
            (reader,) = readers
            kind = ActivationFunctionType.RELU if reader.op_type == "Relu" else ActivationFunctionType.NONE
            if reader.op_type == "Clip" and self.is_relu6(reader):
                kind = ActivationFunctionType.RELU6
            if kind != ActivationFunctionType.NONE:
                self._fused.add(reader.output[0])
                return kind, reader.output[0]
        return ActivationFunctionType.NONE, name

    def fused_reader(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node of that kind that alone reads the tensor, from now on a part of what gives it; None without one."""
        readers = self.source.consumers[name]
        if len(readers) != 1 or readers[0].op_type != kind or name in self.source.outputs:
            return None
        self._fused.add(readers[0].output[0])
        return readers[0]

    def is_relu6(self, node: onnx.NodeProto) -> bool:
        """Whether a Clip is from 0 to 6."""
        low, high = self.optional(node, 1), self.optional(node, 2)
        return low is not None and high is not None and float(low) == 0.0 and float(high) == 6.0

    def new(self, name: str, scale: np.float32 | None) -> Tensor:
        """A tensor for the ONNX tensor of that name: int8 with a scale, float32 without."""
        shape = self.source.nhwc(name)
        if scale is None:
            return self.network.tensor(name, shape, np.float32)
        return self.network.tensor(name, shape, np.int8, Quantisation.per_tensor(scale))

    def give(self, name: str, tensor: Tensor) -> None:
        """The tensor is what the ONNX graph calls ``name``."""
        self._values[name] = tensor

    def give_flattened(self, name: str, tensor: Tensor) -> None:
        """The tensor is a map (1, H, W, C) that the ONNX graph calls ``name`` and sees as a vector (1, C * H * W)."""
        self._values[name] = tensor
        if tensor.shape[1] * tensor.shape[2] > 1:
            self._flattened.add(name)

    def give_same(self, node: onnx.NodeProto, tensor: Tensor) -> None:
        """The node's output is ``tensor`` with the layout of its input."""
        self._values[node.output[0]] = tensor
        if node.input[0] in self._flattened:
            self._flattened.add(node.output[0])

    def give_weight(self, name: str, weight: QuantisedWeight) -> None:
        """The constant that the ONNX graph calls ``name``."""
        self._weights[name] = weight

    def weight_tensor(self, node: onnx.NodeProto, values: NDArray[np.float32]) -> Tensor:
        """A float weight, in half precision where the file is to hold that; raises ConversionError."""
        name = f"{node.output[0]};weight"
        if not self._half:
            return self.network.constant(name, values.astype(np.float32))
        if not np.abs(values).max() <= _LARGEST_HALF:
            raise refused(node, "a weight is over 65504, the largest float16: choose fp32")
        stored = self.network.constant(f"{name};half", values.astype(np.float16))
        out = self.network.tensor(name, values.shape, np.float32)
        self.network.add("DEQUANTIZE", [stored], [out], version=_FROM_HALF)
        return out
