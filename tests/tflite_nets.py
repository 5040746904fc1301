"""Small ONNX graphs for tests of the TFLite writer, and quantised ones made from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Floats = NDArray[np.float32]

INPUT = "data"
_WEIGHTED = ("Conv", "Gemm")
# What computes gets a scale; what only moves values keeps the one that it reads.
_SCALED = ("Conv", "Gemm", "Add", "Mul", "PRelu", "LeakyRelu")
_ACTIVATIONS = ("Relu", "Clip")


class Net:
    """Collects nodes and constants; ``model`` gives the graph. Weights are seeded noise."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.shape = shape
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any) -> str:
        """The name of a new constant; a list of whole numbers is int64."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def noise(self, *shape: int, scale: float = 1.0) -> Floats:
        """Seeded normal noise."""
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def op(self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Append a node; gives its first output, which is named after the node's number where no name is given."""
        outputs = outputs or [f"t{len(self.nodes)}"]
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def conv(
        self, x: str, i: int, o: int, kernel: int, pad: int = 0, groups: int = 1, out: str = "", **more: Any
    ) -> str:
        """A convolution with bias."""
        weight = self.noise(o, i // groups, kernel, kernel, scale=(i // groups * kernel * kernel) ** -0.5)
        names = [x, self.constant(weight), self.constant(self.noise(o, scale=0.3))]
        return self.op("Conv", names, [out] if out else (), pads=[pad] * 4, group=groups, **more)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The graph with these outputs, shapes inferred."""
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "net", [info(INPUT, onnx.TensorProto.FLOAT, self.shape)],
            [info(name, onnx.TensorProto.FLOAT, None) for name in outputs], self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run_onnx(model: onnx.ModelProto, x: Floats, names: Sequence[str] | None = None) -> dict[str, Floats]:
    """Outputs by name of an input (C, H, W), each without the batch; the model's own outputs, or any float tensors."""
    if names is not None:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.x64quantprecision", "1")     # or sums saturate where VNNI is missing
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    outputs = [o.name for o in session.get_outputs()]
    return {n: v[0] for n, v in zip(outputs, session.run(outputs, {INPUT: x[None]}), strict=True)}


def quantised(
    model: onnx.ModelProto, x: Floats, *, keep: Sequence[str] = (), input_scale: float | None = 1 / 128,
    scales: Mapping[str, float] | None = None,
) -> onnx.ModelProto:
    """The graph with int8 weights and QuantizeLinear/DequantizeLinear behind the input and all that computes.

    Scales are the largest values on ``x`` (C, H, W) over 127, or those of ``scales`` by tensor. Nodes in ``keep`` stay
    in float; without ``input_scale`` the input does, too.
    """
    graph = model.graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    readers = Counter(name for n in graph.node for name in n.input)
    fused = {
        n.input[0] for n in graph.node
        if n.op_type in _ACTIVATIONS and _maker(graph, n.input[0]) in _SCALED and readers[n.input[0]] == 1
    }
    points = [
        n.output[0] for n in graph.node
        if (n.op_type in _SCALED and n.output[0] not in fused) or (n.op_type in _ACTIVATIONS and n.input[0] in fused)
    ]
    values = run_onnx(model, x, points)
    largest = {name: float(np.abs(v).max()) / 127 for name, v in values.items()} | dict(scales or {})
    nodes: list[onnx.NodeProto] = []
    extra: list[onnx.TensorProto] = []
    renamed: dict[str, str] = {}

    def pair(name: str, scale: float, result: str) -> None:
        extra.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}:scale"))
        extra.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}:zero"))
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}:scale", f"{name}:zero"], [f"{name}:q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}:q", f"{name}:scale", f"{name}:zero"], [result]))

    if input_scale is not None:
        pair(INPUT, input_scale, f"{INPUT}:dq")
        renamed[INPUT] = f"{INPUT}:dq"
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        new = onnx.NodeProto.FromString(node.SerializeToString())
        new.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type in _WEIGHTED and node.name not in keep:
            new.input[1] = _quantised_weight(node.input[1], constants, nodes, extra)
        nodes.append(new)
        name = node.output[0]
        if name in points:
            result = name if name in outputs else f"{name}:dq"
            if name in outputs:
                new.output[0] = name = f"{name}:real"
            renamed[node.output[0]] = result
            pair(name, largest[node.output[0]], result)
    out = helper.make_graph(nodes, "net", graph.input, graph.output, [*graph.initializer, *extra])
    return onnx.shape_inference.infer_shapes(
        helper.make_model(out, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), strict_mode=True
    )


def _maker(graph: onnx.GraphProto, name: str) -> str:
    return next((n.op_type for n in graph.node if name in n.output), "")


def _quantised_weight(
    name: str, constants: Mapping[str, Floats], nodes: list[onnx.NodeProto], extra: list[onnx.TensorProto]
) -> str:
    weight = constants[name]
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    integers = np.rint(weight / scale.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.int8)
    for suffix, values in (("int8", integers), ("scale", scale), ("zero", np.zeros(len(scale), np.int8))):
        extra.append(numpy_helper.from_array(values, f"{name}:{suffix}"))
    parts = [f"{name}:{suffix}" for suffix in ("int8", "scale", "zero")]
    nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}:dq"], axis=0))
    return f"{name}:dq"
