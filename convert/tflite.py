"""TFLite: our own writer from the ONNX graph onto the flatbuffer schema that the litert wheel ships.

Why our own: the trained scales go into the file as they are; a map's channels are named as the last axis, so that the
file has no TRANSPOSE at all and XNNPACK takes it whole; and whoever converts needs no more than whoever runs,
ai-edge-litert with flatbuffers (60 MB). litert-torch with ai-edge-quantizer needs 640 MB more (litert-converter 288,
jaxlib 349), calibrates where scales are given, and puts TRANSPOSEs around an NCHW network; onnx2tf needs Python 3.12,
and made float convolutions of a quantised graph.

One file serves every input size, as the interpreter resizes it: nothing in it says a height or width. That is why
upsampling is a concatenation and a DEPTH_TO_SPACE: RESIZE_NEAREST_NEIGHBOR has its size as a constant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import ConversionError
from edgeface.runtime.engines.tflite_files import check_tflite

from .onnx import export, export_qdq
from .parity import FP16, FP32, int8
from .targets import Target, target

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeface.models.family import Graph

_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_INT8_SQNR_DB = 30.0


def tflite_bytes(model: ModelProto, *, precision: str, free: Collection[int] = (2, 3)) -> bytes:
    """A simplified ONNX graph (opset 13 to 17, one input, fixed shapes (1, C, H, W)) as the content of a .tflite file.

    ``precision`` "int8" takes a graph with QuantizeLinear and DequantizeLinear, "fp32" and "fp16" one without; "fp16"
    stores weights in half precision. ``free`` are the axes of the input (1, C, H, W) whose sizes may be others when it
    runs; with none of them the file is for the graph's own size, as some delegates need it. Input and outputs keep
    their ONNX names; maps are (1, H, W, C), vectors (1, 1, 1, N).

    Raises ConversionError, which names the operator and its layer.
    """
    from . import tflite_float  # noqa: F401  (registers its operators)
    from .tflite_graph import AXES, OnnxGraph, Translation
    from .tflite_ops import OPERATORS

    source = OnnxGraph(model)
    if (precision == "int8") != any(node.op_type in _QUANTISERS for node in source.nodes):
        raise ConversionError(
            "the graph has no scales: run edgeface quantize first" if precision == "int8" else
            f"the graph is quantised: convert it as int8, not {precision}"
        )
    translation = Translation(source, half=precision == "fp16", free=frozenset(AXES[axis] for axis in free))
    entry, outputs = translation.run(OPERATORS)
    return translation.network.to_bytes([entry], outputs, f"edgeface {precision}")


def _write(graph: Graph, paths: Sequence[Path], precision: str) -> None:
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgeface-tflite-") as scratch:
        path = Path(scratch) / f"{graph.stem}.onnx"
        (export_qdq if precision == "int8" else export)(graph, path, free=False)
        model = onnx.load(path)
    try:
        content = tflite_bytes(model, precision=precision, free=graph.free)
    except ConversionError as error:
        raise ConversionError(f"{graph.stem}: {error}") from None
    paths[0].write_bytes(content)


def _scales(path: Path) -> dict[str, float]:
    net = check_tflite(path.read_bytes(), path)
    return {tensor.name: tensor.scale for tensor in (*net.inputs, *net.outputs) if tensor.scale is not None}


target("tflite")(
    Target(
        packages=("torch", "onnx", "onnxsim", "onnxruntime", "ai_edge_litert"),
        engine="tflite",
        tolerances={"int8": int8(_INT8_SQNR_DB), "fp16": FP16, "fp32": FP32},
        suffixes=(".tflite",),
        write=_write,
        scales=_scales,
    )
)
