"""A calibrated foreign graph with QuantizeLinear and DequantizeLinear, from which TFLite's int8 is written.

TFLite's int8 convolutions give int8, where ncnn's give float: so every map needs a scale, not only those that a
convolution reads. Maps that only move or pick values of another keep its scale, which costs no operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeface.int8.scales import LayerScales

_MOVES = frozenset({
    "AveragePool", "Clip", "Concat", "Dropout", "GlobalAveragePool", "Identity", "MaxPool", "Relu", "Resize", "Slice",
    "Split",
})
# What an operator that computes takes into itself where it alone reads the result.
_FUSED = frozenset({"Relu", "Clip"})
_FUSING = frozenset({"Conv", "Gemm", "Add", "Mul"})


def maps_to_quantise(model: onnx.ModelProto) -> list[str]:
    """The names of the maps that get a scale of their own: what is computed and is no output of the graph."""
    graph = model.graph
    readers = readers_by_name(graph.node)
    ends = {each.name for each in graph.output}
    names = []
    for node in graph.node:
        name = node.output[0]
        if node.op_type in _FUSING and name not in ends and len(readers.get(name, ())) == 1:
            (reader,) = readers[name]
            name = reader.output[0] if reader.op_type in _FUSED else name
        elif node.op_type in _MOVES:
            continue
        if name not in ends and name in readers:
            names.append(name)
    return names


def readers_by_name(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """Who reads each tensor, once for each time that it does."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def with_scales(
    model: onnx.ModelProto, layers: Mapping[str, LayerScales], scale_of: Mapping[str, float]
) -> onnx.ModelProto:
    """``model`` with the convolutions of ``layers``, by the name of what they give, in int8, and the maps of
    ``scale_of`` rounded to their scale."""
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    nodes = list(graph.node)
    renamed: dict[str, str] = {}
    _constant(graph, "ef_zero", np.zeros((), np.int8))
    made: list[onnx.NodeProto] = []
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        layer = layers.get(node.output[0])
        if layer is not None:
            made.append(_quantised_weight(graph, node, layer))
        made.append(node)
        for name in node.output:
            if name in scale_of:
                _constant(graph, f"{name};scale", np.float32(scale_of[name]))
                given = [f"{name};scale", "ef_zero"]
                made += [
                    helper.make_node("QuantizeLinear", [name, *given], [f"{name};int8"]),
                    helper.make_node("DequantizeLinear", [f"{name};int8", *given], [f"{name};real"]),
                ]
                renamed[name] = f"{name};real"
    del graph.node[:]
    graph.node.extend(made)
    return quantised


def _quantised_weight(graph: onnx.GraphProto, node: onnx.NodeProto, layer: LayerScales) -> onnx.NodeProto:
    stem = f"{node.output[0]};weight"
    _constant(graph, f"{stem};int8", layer.integers)
    _constant(graph, f"{stem};scale", layer.weight_scale)
    _constant(graph, f"{stem};zero", np.zeros(len(layer.weight_scale), np.int8))
    node.input[1] = f"{stem};real"
    return helper.make_node(
        "DequantizeLinear", [f"{stem};int8", f"{stem};scale", f"{stem};zero"], [f"{stem};real"], axis=0
    )


def _constant(graph: onnx.GraphProto, name: str, values: NDArray[np.generic] | np.generic) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
