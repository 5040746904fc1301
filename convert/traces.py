"""What each convolution of a converted file computes, by engine: its weights and its output, as floats."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle
from edgeface.errors import ConversionError, UnknownEngineError
from edgeface.registry import Registry
from edgeface.runtime.engines import Options
from edgeface.runtime.engines.ncnn import open_ncnn_traced
from edgeface.runtime.engines.ncnn_layers import Int8
from edgeface.runtime.engines.onnx import open_onnx
from edgeface.runtime.engines.tflite import TfliteSession
from edgeface.runtime.engines.tflite_files import check_tflite

from .ncnn_model import read

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FoundLayer:
    """A convolution in a file: its name there, its weight (O, I / groups, kh, kw), its input and output (C, H, W).

    int8 values are given as the real values that they stand for; ``step`` is the scale of an int8 output.
    """

    name: str
    weight: Floats
    input: Floats
    output: Floats
    step: float | None = None


class Tracer(Protocol):
    """Runs a net of one engine on one input and looks into it."""

    def __call__(
        self, directory: Path, files: Sequence[str], input_name: str, x: NDArray[Any], options: Options
    ) -> list[FoundLayer]:
        """Every convolution of the net in ``files`` on ``x``, an input as the engine's session takes it. Raises
        EngineError and ConversionError."""
        ...


tracer: Registry[Tracer] = Registry("engine to look into", UnknownEngineError)


def trace(
    bundle: Bundle, directory: Path, files: Sequence[str], input_name: str, x: NDArray[Any]
) -> list[FoundLayer]:
    """``Tracer`` for one net of ``bundle``; UnknownEngineError for an engine that cannot be looked into."""
    return tracer.get(bundle.engine)(directory, files, input_name, x, Options(1, bundle.form))


@tracer("ncnn")
def trace_ncnn(
    directory: Path, files: Sequence[str], input_name: str, x: NDArray[Any], options: Options
) -> list[FoundLayer]:
    """Errors as in ``Tracer``."""
    param, weights = (directory / name for name in files)
    run = open_ncnn_traced(directory, files, input_name, options).run(x)
    model = read(param.read_text("ascii"), weights.read_bytes())
    # By the blobs that are int8: what a 1 in them is worth, also behind a Split.
    steps: dict[str, float] = {}
    layers = []
    for layer in model:
        (given, *_), (made, *_) = layer.line.consumes or [""], layer.line.produces
        if layer.line.kind == "Split" and given in steps:
            steps |= dict.fromkeys(layer.line.produces, steps[given])
        if layer.weight is None:
            continue
        weight = layer.weight
        if isinstance(weight, Int8):
            if weight.output_scale is not None:
                steps[made] = 1 / float(weight.output_scale)
            weight = _per_channel(weight.integers, 1 / weight.weight_scale)
        x_in, y = (run.output(blob) * np.float32(steps.get(blob, 1)) for blob in (given, made))
        layers.append(FoundLayer(layer.name, weight, x_in, y, steps.get(made)))
    return layers


@tracer("onnx")
def trace_onnx(
    directory: Path, files: Sequence[str], input_name: str, x: NDArray[Any], options: Options
) -> list[FoundLayer]:
    """Errors as in ``Tracer``; outputs are what comes before a ReLU, and before it is rounded to int8."""
    import onnx
    from onnx import numpy_helper

    path = directory / files[0]
    model = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = _per_channel(constants[node.input[0]], constants[node.input[1]])
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    shown = {output.name for output in model.graph.output} | {input_name}
    for node in convolutions:
        for name in (node.input[0], node.output[0]):
            if name not in shown:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
                shown.add(name)
        if node.input[1] not in constants:
            raise ConversionError(f"{path}: layer {node.name} has weights that are no constants")
    with tempfile.TemporaryDirectory(prefix="edgeface-walk-") as scratch:
        onnx.save(model, Path(scratch) / path.name)
        run = open_onnx(Path(scratch), [path.name], input_name, options).run(x)
    return [
        FoundLayer(
            node.name, constants[node.input[1]].astype(np.float32),
            x if node.input[0] == input_name else run.output(node.input[0]), run.output(node.output[0]),
        )
        for node in convolutions
    ]


# By TFLite's operators: what makes their weight (O, I / groups, h, w), from (O, h, w, I) or (1, h, w, O).
_TFLITE_WEIGHTS = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2)}


@tracer("tflite")
def trace_tflite(
    directory: Path, files: Sequence[str], input_name: str, x: NDArray[Any], options: Options
) -> list[FoundLayer]:
    """Errors as in ``Tracer``."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    path = directory / files[0]
    content = path.read_bytes()
    interpreters = []

    def make(threads: int) -> Any:
        # XNNPACK, which runs otherwise, keeps its tensors to itself.
        interpreters.append(
            Interpreter(
                model_content=content, num_threads=threads, experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
        )
        return interpreters[-1]

    TfliteSession(check_tflite(content, path), str(path), make, options.threads).compute(x)
    (interpreter,) = interpreters
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}

    def scales_of(index: int) -> Floats:
        scales: Floats = details[index]["quantization_parameters"]["scales"]
        return scales

    def real(index: int) -> Floats:
        values, scales = interpreter.get_tensor(index), scales_of(index)
        if not len(scales):
            return np.asarray(values, np.float32)
        shape = [1] * values.ndim
        shape[details[index]["quantization_parameters"]["quantized_dimension"]] = len(scales)
        out: Floats = (values * scales.reshape(shape)).astype(np.float32)
        return out

    layers = []
    for operator in interpreter._get_ops_details():
        if operator["op_name"] not in _TFLITE_WEIGHTS:
            continue
        (given, weight, *_), (made,) = operator["inputs"], operator["outputs"]
        x_in, y = (np.ascontiguousarray(real(index)[0].transpose(2, 0, 1)) for index in (given, made))
        kernel = np.ascontiguousarray(real(weight).transpose(_TFLITE_WEIGHTS[operator["op_name"]]))
        step = float(scales_of(made)[0]) if len(scales_of(made)) else None
        layers.append(FoundLayer(str(details[made]["name"]), kernel, x_in, y, step))
    return layers


def _per_channel(integers: NDArray[Any], scale: NDArray[Any]) -> Floats:
    """``integers`` (O, ...) times ``scale``, one a channel, or one for all, or one a group of channels."""
    scales = np.repeat(scale.reshape(-1), len(integers) // scale.size) if scale.size > 1 else scale.reshape(-1)
    out: Floats = (integers * scales.reshape(-1, *(1,) * (integers.ndim - 1))).astype(np.float32)
    return out
