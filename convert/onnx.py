"""ONNX: the legacy torch exporter, opset 17, simplified by onnxsim and run once by onnxruntime."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import ConversionError
from edgeface.runtime.engines import Options
from edgeface.runtime.engines.onnx import open_onnx
from edgeface.torch_engine import TorchSession

from .matching import match_by_content
from .parity import FP32, MapSums, int8
from .targets import Target, target

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeface.int8.modules import Mode
    from edgeface.int8.scales import LayerScales
    from edgeface.models.family import Graph

OPSET = 17
# Two float implementations of the same graph differ by rounding only; a wrong graph is off by its whole range.
_EXPORT_TOLERANCE = 1e-3
# A value that falls on the other side of a half moves others downstream, so int8 graphs never agree closer than this on
# noise, and maps that hardly vary have few levels to differ by. A wrong scale or order leaves 6 dB at best; the parity
# report looks closer.
_LEAST_QDQ_DB = 10.0
_LARGEST_QDQ_SHARE = 0.15
# onnxruntime computes in float32 between the pairs that it cannot fuse, so its halves fall otherwise than int8's.
_LEAST_ONNX_DB = 20.0


def export(graph: Graph, path: Path, *, free: bool) -> None:
    """Write the graph as a simplified float32 ONNX file and check it against torch; int8 layers have baked weights.

    With ``free`` the dimensions in ``graph.free`` are symbolic, else the shapes are ``graph.shapes[0]``'s: fixed
    shapes leave no Shape or Gather nodes, which hide a channel shuffle from other converters. Raises ConversionError.
    """
    if graph.scales:
        graph = _baked(graph, "float")
    _write_onnx(graph, path, free)
    for shape in graph.shapes if free else graph.shapes[:1]:
        _check(graph, path, shape)


def export_qdq(graph: Graph, path: Path, *, free: bool) -> None:
    """Write an int8 graph with QuantizeLinear and DequantizeLinear at every point, and check it in onnxruntime.

    Activations pass through a pair after the node that gives them (Conv and its Relu, Add, ...), scale constant, zero
    point 0. The int8 layers' weights are int8 with a DequantizeLinear by output channel; they are found by content. The
    shapes are as in ``export``. Raises ConversionError.
    """
    import onnx

    _write_onnx(_baked(graph, "all"), path, free)
    model = onnx.load(path)
    _unshare(model)
    _with_int8_weights(model, graph.scales)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    for shape in graph.shapes if free else graph.shapes[:1]:
        _check(graph, path, shape)


def _baked(graph: Graph, mode: Mode) -> Graph:
    """A copy with baked weights and constant scales, whose points round in ``mode``."""
    from edgeface.int8.modules import bake, points, set_mode

    module = copy.deepcopy(graph.module)
    bake(module)
    set_mode(module, "float")
    for _, point in points(module):
        point.freeze()
        point.mode = mode
    return replace(graph, module=module)


def _write_onnx(graph: Graph, path: Path, free: bool) -> None:
    import onnx
    import onnxsim
    import torch

    names = [graph.input, *graph.outputs]
    with warnings.catch_warnings(), torch.inference_mode():
        # The newer exporter, which a warning here asks for, takes ten times as long and gives the same graph.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph.module, (torch.zeros(graph.shapes[0]),), path, dynamo=False, opset_version=OPSET,
                input_names=names[:1], output_names=names[1:],
                dynamic_axes=_free_axes(graph) if free else None,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ConversionError(f"{graph.stem}: torch cannot export it: {_last_line(error)}") from None
    try:
        model, same = onnxsim.simplify(onnx.load(path))
        onnx.checker.check_model(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ConversionError(f"{graph.stem}: onnxsim cannot simplify it: {_last_line(error)}") from None
    if not same:
        raise ConversionError(f"{graph.stem}: onnxsim changed what the graph computes: try another onnxsim")
    path.write_bytes(model.SerializeToString())


def _free_axes(graph: Graph) -> dict[str, dict[int, str]]:
    """Names of the free dimensions. Each output has its own: onnxruntime takes dimensions of one name for equal, and
    puts a map of stride 16 where one of stride 8 was."""
    outputs = {name: {axis: f"{name}_{free}" for axis, free in graph.free.items()} for name in graph.outputs}
    return {graph.input: graph.free, **outputs}


def _unshare(model: ModelProto) -> None:
    """Give every convolution weights and biases of its own, where a network uses a layer several times: onnxruntime
    quantises a shared bias for each and then finds it there already."""
    kept = {i.name: i for i in model.graph.initializer}
    used: set[str] = set()
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if node.op_type not in ("Conv", "Gemm") or name not in kept:
                continue
            if name in used:
                node.input[place] = f"{name}_{len(used)}"
                model.graph.initializer.add().CopyFrom(kept[name])
                model.graph.initializer[-1].name = node.input[place]
            used.add(node.input[place])


def _with_int8_weights(model: ModelProto, scales: Sequence[LayerScales]) -> None:
    """Put int8 weights and their DequantizeLinear in the place of the baked weights of these layers."""
    from onnx import helper, numpy_helper

    kept = {i.name: i for i in model.graph.initializer}
    weighted = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm") and n.input[1] in kept]
    weights = {n.input[1]: numpy_helper.to_array(kept[n.input[1]]) for n in weighted}
    nodes = []
    for name, found in match_by_content(scales, weights).items():
        model.graph.initializer.remove(kept[name])
        zero = np.zeros(len(found.weight_scale), np.int8)
        integers = found.integers.reshape(weights[name].shape)
        for array, suffix in ((integers, ""), (found.weight_scale, "_scale"), (zero, "_zero")):
            model.graph.initializer.append(numpy_helper.from_array(array, f"{name}_int8{suffix}"))
        inputs = [f"{name}_int8", f"{name}_int8_scale", f"{name}_int8_zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], f"{name}_dequantize", axis=0))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _check(graph: Graph, path: Path, shape: tuple[int, ...]) -> None:
    """Run the file once in onnxruntime, on noise, against torch; raises ConversionError."""
    noise = np.random.default_rng(0).uniform(-1, 1, shape[1:]).astype(np.float32)
    expected = TorchSession(graph, graph.stem, Options()).run(noise)
    actual = open_onnx(path.parent, [path.name], graph.input, Options()).run(noise)
    for name in graph.outputs:
        sums = MapSums(name)
        sums.add(expected.output(name), actual.output(name))
        parity = sums.parity()
        if graph.scales:
            near = parity.share <= _LARGEST_QDQ_SHARE or (parity.sqnr_db or 0.0) >= _LEAST_QDQ_DB
        else:
            near = parity.share <= _EXPORT_TOLERANCE
        if not near:
            raise ConversionError(
                f"{graph.stem}: ONNX output {name} is off by {parity.share:.2g} of its range at input {shape}: "
                "try another torch or onnxsim"
            )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _write(graph: Graph, paths: Sequence[Path], precision: str) -> None:
    (export_qdq if precision == "int8" else export)(graph, paths[0], free=True)


target("onnx")(
    Target(
        packages=("torch", "onnx", "onnxsim", "onnxruntime"),
        engine="onnx",
        tolerances={"fp32": FP32, "int8": int8(_LEAST_ONNX_DB)},
        suffixes=(".onnx",),
        write=_write,
    )
)
