"""What is done to a foreign graph: read, cut behind its last convolutions, and given other inputs and outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeface.errors import ConversionError
from edgeface.regular_files import open_regular

from .pair import OPSET, Pair

Floats = NDArray[np.float32]
Size = tuple[int, int]

MAX_BYTES = 1 << 30
# The convolution of one pixel that turns the picture to RGB and takes the mean from it.
PIXELS_NODE = "ef_input"
# The size that a graph of free size is looked at with: two sides that differ tell height from width.
_FREE: Size = (640, 480)
_CHECKPOINT_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Head:
    """One of the last convolutions: its ``node``, the ``outputs`` of the file that it leads to, what it is multiplied
    by after it, its channels and the pixels of the input a cell of it."""

    node: onnx.NodeProto
    outputs: tuple[str, ...]
    factor: float
    channels: int
    stride: int


@dataclass(frozen=True)
class Output:
    """An output of a new graph: what ``head`` gives, its channels as the rows of ``matrix`` (K, channels) say, plus
    ``offset`` (K,)."""

    head: Head
    matrix: Floats
    offset: Floats


class ForeignGraph:
    """A detector with one picture as its input, an ONNX file or an ncnn pair's .param, simplified at one size.

    ``size`` (width, height): the file's own, or where it takes any, one to look at; ``is_free``: whether it takes any.
    ``outputs``: name -> shape at that size. Raises ConversionError for what is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pair = Pair(path, _FREE) if path.suffix == ".param" else None
        if self._pair is not None:
            original = self._pair.to_onnx()
            self.input, self.is_free, self.size = self._pair.input, self._pair.is_free, self._pair.size
        else:
            original = _read(path)
            self.input, shape = _picture_input(path, original)
            self.is_free = not all(shape[2:])
            self.size = _FREE if self.is_free else (shape[3], shape[2])
            try:
                self._session = _session(str(path))
            except Exception as error:  # its own classes differ between its versions
                raise ConversionError(f"{path}: onnxruntime cannot load it: {_first_line(error)}") from None
        seen = [1, 3, self.size[1], self.size[0]]
        self.outputs = {name: each.shape for name, each in self.run(np.zeros(seen, np.float32)).items()}
        self._model = _simplified(path, original, {self.input: seen}, self.outputs)
        self._constants = {each.name: numpy_helper.to_array(each) for each in self._model.graph.initializer}
        self._makers = {name: node for node in self._model.graph.node for name in node.output}
        inferred = onnx.shape_inference.infer_shapes(self._model).graph
        self._shapes = {
            each.name: tuple(d.dim_value for d in each.type.tensor_type.shape.dim)
            for each in (*inferred.value_info, *inferred.output)
        }

    @property
    def reference(self) -> str:
        """What ``run`` runs the file by."""
        by = "onnxruntime" if self._pair is None else "ncnn"
        return f"{by} {version(by)} on the file"

    def run(self, x: Floats) -> dict[str, Floats]:
        """The file's own outputs for ``x``, float32 (1, 3, H, W), of a pair by ncnn. Raises ConversionError when that
        or onnxruntime fails."""
        if self._pair is not None:
            return self._pair.run(x)
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, {self.input: x}), strict=True))
        except Exception as error:  # as above
            raise ConversionError(f"{self.path}: onnxruntime cannot run it: {_first_line(error)}") from None

    def describe(self) -> str:
        """Its outputs for people, at its size."""
        width, height = self.size
        listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in list(self.outputs.items())[:16])
        more = f" and {len(self.outputs) - 16} more" if len(self.outputs) > 16 else ""
        return f"{len(self.outputs)} at {width}x{height}: {listed}{more}"

    def heads(self) -> list[Head]:
        """The last convolutions before the outputs, each once, by stride and then in the file's order."""
        leads: dict[str, list[str]] = defaultdict(list)
        factors: dict[str, float] = {}
        for output in self.outputs:
            for name, factor in self._behind(output):
                if output not in leads[name]:
                    leads[name].append(output)
                factors[name] = factor
        heads = [
            Head(self._makers[name], tuple(outputs), factors[name], *self._channels_and_stride(name))
            for name, outputs in leads.items()
        ]
        return sorted(heads, key=lambda head: head.stride)

    def rebuilt(self, outputs: Mapping[str, Output], *, input_name: str, is_rgb: bool, mean: Sequence[float]) -> Any:
        """A new graph, (1, 3, H, W) BGR less nothing -> ``outputs``, maps (1, K, h, w): the old one, which takes RGB
        where ``is_rgb``, on pixels less ``mean`` (3, as it takes them), behind its ``outputs``."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        del graph.output[:]
        _make_room(graph, outputs)
        _take_bgr(graph, self.input, input_name, is_rgb, mean)
        for name, output in outputs.items():
            _give(graph, name, output, self._constants)
            graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        _free_resizes(graph, self._shapes)
        _say_splits(graph, self._shapes)
        width, height = self.size
        return _simplified(self.path, model, {input_name: [1, 3, height, width]}, {})

    def _behind(self, output: str) -> Iterator[tuple[str, float]]:
        """The names of what the last convolutions before an output give, in the order of its inputs, and the constant
        that each is multiplied by."""
        waiting, seen = [(output, 1.0)], set()
        while waiting:
            name, factor = waiting.pop()
            node = self._makers.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.op_type == "Conv":
                yield name, factor
                continue
            if node.op_type == "Mul":
                numbers = [self._constants[each] for each in node.input if each in self._constants]
                factor *= float(numbers[0].reshape(-1)[0]) if numbers and numbers[0].size == 1 else 1.0
            waiting += [(each, factor) for each in reversed(node.input)]

    def _channels_and_stride(self, name: str) -> tuple[int, int]:
        _, channels, height, _ = self._shapes[name]
        return channels, 1 << round(float(np.log2(self.size[1] / height)))


def run_outputs(model: onnx.ModelProto, names: Sequence[str]) -> Callable[[Floats], dict[str, Floats]]:
    """What runs a graph of one picture, float32 (1, 3, H, W), and gives its tensors ``names``."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    entry = shown.graph.input[0].name
    del shown.graph.output[:]
    for name in names:
        shown.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = _session(shown.SerializeToString())
    return lambda x: dict(zip(names, session.run(list(names), {entry: x}), strict=True))


def _read(path: Path) -> onnx.ModelProto:
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConversionError(f"{path}: {error.strerror}: give an ONNX file") from None
    if content.startswith(_CHECKPOINT_STARTS) or path.suffix in (".pth", ".pt", ".ckpt"):
        raise ConversionError(
            f"{path}: a PyTorch checkpoint, which says nothing of its network: export it with torch.onnx.export in its "
            "authors' code, and import that .onnx"
        )
    if path.suffix == ".bin":
        raise ConversionError(f"{path}: the weights of a pair: give the .param beside them")
    if path.suffix == ".tflite":
        raise ConversionError(f"{path}: .tflite files are not imported: give the ONNX file that it was made from")
    if len(content) > MAX_BYTES:
        raise ConversionError(f"{path}: more than {MAX_BYTES >> 20} MiB, which no light detector has")
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.node or not model.opset_import:
            raise ValueError("it holds no graph")
    except Exception as error:      # onnx's own classes and protobuf's differ between versions
        raise ConversionError(
            f"{path}: not an ONNX file that can be read ({_first_line(error)}): export it again"
        ) from None
    return model


def _picture_input(path: Path, model: onnx.ModelProto) -> tuple[str, list[int]]:
    constants = {each.name for each in model.graph.initializer}
    inputs = {
        each.name: [d.dim_value for d in each.type.tensor_type.shape.dim]
        for each in model.graph.input if each.name not in constants
    }
    name, shape = next(iter(inputs.items()), ("", []))
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (0, 3) or shape[0] not in (0, 1):
        listed = ", ".join(f"{each} {'x'.join(str(d or '?') for d in dims)}" for each, dims in inputs.items())
        raise ConversionError(
            f"{path}: its inputs are {listed or 'none'}: a detector to import has one, a picture 1x3xHxW"
        )
    return name, shape


def _simplified(
    path: Path, model: onnx.ModelProto, shapes: Mapping[str, list[int]], outputs: Mapping[str, tuple[int, ...]]
) -> onnx.ModelProto:
    try:
        for each in model.graph.input:
            if each.name in shapes:
                for dim, value in zip(each.type.tensor_type.shape.dim, shapes[each.name], strict=True):
                    dim.dim_value = value
        for each in model.graph.output:
            if each.name in outputs:
                each.CopyFrom(helper.make_tensor_value_info(each.name, onnx.TensorProto.FLOAT, outputs[each.name]))
        model = onnx.shape_inference.infer_shapes(model)
        if model.opset_import[0].version != OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        simplified: onnx.ModelProto
        simplified, same = onnxsim.simplify(model)
    except Exception as error:      # onnxsim raises what its C++ throws
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ConversionError(f"{path}: its graph cannot be simplified ({reason}): export it again") from None
    if not same:
        raise ConversionError(f"{path}: onnxsim changed what the graph computes: try another onnxsim")
    return simplified


def _session(model: str | bytes) -> Any:
    """onnxruntime on a file's path, or on its content, on one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _make_room(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Rename what is called as a new output is to be called."""
    taken = frozenset(names)
    for node in graph.node:
        for fields in (node.input, node.output):
            for i, name in enumerate(fields):
                if name in taken:
                    fields[i] = f"{name}_of_the_file"


def _take_bgr(graph: onnx.GraphProto, old: str, new: str, is_rgb: bool, mean: Sequence[float]) -> None:
    """Let the graph take BGR: by its first convolutions' weights where these alone read the picture and nothing is to
    be subtracted, else by a convolution of one pixel before them."""
    readers = [node for node in graph.node if old in node.input]
    constants = {each.name: each for each in graph.initializer}
    shape = next(each for each in graph.input if each.name == old)
    shape.name = new
    in_place = not any(mean) and all(node.op_type == "Conv" and node.input[1] in constants for node in readers)
    if in_place:
        for node in readers:
            node.input[0] = new
            if is_rgb:
                weight = constants[node.input[1]]
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))
        return
    weight = np.eye(3, dtype=np.float32)[::-1 if is_rgb else 1].reshape(3, 3, 1, 1)
    for name, values in (("ef_bgr", weight), ("ef_mean", -np.array(mean, np.float32))):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    graph.node.insert(0, helper.make_node("Conv", [new, "ef_bgr", "ef_mean"], [old], PIXELS_NODE, kernel_shape=[1, 1]))


def _give(graph: onnx.GraphProto, name: str, output: Output, constants: Mapping[str, NDArray[Any]]) -> None:
    """Append ``output``: a copy of its convolution with other weights where it mixes all channels, or a convolution of
    one pixel behind one that does not."""
    node, matrix = output.head.node, output.matrix * np.float32(output.head.factor)
    weight = constants[node.input[1]]
    group = next((each.i for each in node.attribute if each.name == "group"), 1)
    bias = constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    source = node.input[0]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    diagonal = matrix.shape[0] == matrix.shape[1] and np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
    if group == 1:
        weight = np.tensordot(matrix, weight, axes=1)
    elif diagonal:
        weight = weight * np.diag(matrix)[:, None, None, None]
    else:
        copy = helper.make_node("Conv", [], [], kernel_shape=[1, 1])
        source, weight, bias = node.output[0], matrix[:, :, None, None], np.zeros(matrix.shape[1], np.float32)
    bias = matrix @ bias + output.offset
    del copy.input[:], copy.output[:]
    copy.name = f"ef_{name}"
    copy.input.extend([source, f"{copy.name}_weight", f"{copy.name}_bias"])
    copy.output.append(name)
    for suffix, values in (("weight", weight), ("bias", bias)):
        array = np.ascontiguousarray(values, np.float32)
        graph.initializer.append(numpy_helper.from_array(array, f"{copy.name}_{suffix}"))
    graph.node.append(copy)


def _free_resizes(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Say resizes by a factor, where they say a size: then the graph serves every size."""
    for number, node in enumerate(graph.node):
        if node.op_type != "Resize" or len(node.input) < 4 or not node.input[3]:
            continue
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if before is None or after is None:
            continue
        name = f"ef_scales_{number}"
        scales = np.array([new / old for new, old in zip(after, before, strict=True)], np.float32)
        graph.initializer.append(numpy_helper.from_array(scales, name))
        del node.input[3:]
        node.input[2] = name


def _say_splits(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Say the sizes of parts where a split into equal ones leaves them out, which converters do not read."""
    for number, node in enumerate(graph.node):
        if node.op_type != "Split" or (len(node.input) > 1 and node.input[1]):
            continue
        axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
        name = f"ef_parts_{number}"
        parts = np.array([shapes[output][axis] for output in node.output], np.int64)
        graph.initializer.append(numpy_helper.from_array(parts, name))
        node.input[1:] = [name]
