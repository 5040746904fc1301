"""The walk: a layer that was damaged in a converted file is the one that is named, on every engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from edgeface.convert import ParityReport, check_parity, convert
from edgeface.convert.ncnn_model import read
from edgeface.convert.traces import FoundLayer
from edgeface.convert.walk import Layer, first_departure, pair
from msgspec.structs import replace as replace_fields
from numpy.typing import NDArray

from edgeface.bundle import describe_file, read_bundle, write_manifest
from edgeface.errors import ConversionError
from edgeface.runtime.engines.ncnn_layers import Int8, to_bin
from int8_mos import save_int8_mos
from lively_mos import scenes

onnx = pytest.importorskip("onnx")

SIZE_PX = 96
LAYER = 30      # of the dense net's convolutions, in the file's order


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    cv2.imwrite(str(folder / "0.png"), scenes(1)[0])
    return folder


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    int8 = save_int8_mos(tmp_path_factory.mktemp("int8") / "tiny_int8.pt", channels=16)
    return {"fp32": tiny_checkpoint, "int8": int8}


@pytest.fixture(scope="module")
def make(
    checkpoints: dict[str, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """A bundle for a target in a precision, made once."""
    folder = tmp_path_factory.mktemp("bundles")

    def made(target_name: str, precision: str) -> Path:
        out = folder / f"{target_name}-{precision}"
        if not out.exists():
            # The untrained int8 net finds faces in noise, which the packed kernels' rounding is enough to move.
            convert(
                checkpoints[precision], target_name, precision=precision, out=out, pictures=pictures, size_px=SIZE_PX,
                force=precision == "int8",
            )
        return out

    return made


def flipped(weight: NDArray[np.generic], channels: int = 0) -> NDArray[np.generic]:
    """The weight with the sign of half of its output channels turned; ``channels`` is their dimension."""
    turned = np.moveaxis(weight.copy(), channels, 0)
    turned[::2] *= -1       # type: ignore[operator]  # of signed numbers
    return np.ascontiguousarray(np.moveaxis(turned, 0, channels))


def damage_ncnn(directory: Path) -> str:
    path = directory / "dense.bin"
    model = read((directory / "dense.param").read_text(), path.read_bytes())
    i = [i for i, layer in enumerate(model) if layer.weight is not None][LAYER]
    weight = model[i].weight
    if isinstance(weight, Int8):
        model[i] = replace(model[i], weight=replace(weight, integers=flipped(weight.integers)))
    else:
        assert weight is not None
        model[i] = replace(model[i], weight=flipped(weight))
    path.write_bytes(to_bin(model))
    return model[i].name


def damage_ncnn_bias(directory: Path) -> str:
    path = directory / "dense.bin"
    model = read((directory / "dense.param").read_text(), path.read_bytes())
    i = [i for i, layer in enumerate(model) if layer.bias is not None][LAYER]
    bias = model[i].bias
    assert bias is not None
    model[i] = replace(model[i], bias=bias + 1)
    path.write_bytes(to_bin(model))
    return model[i].name


def damage_ncnn_scale(directory: Path) -> str:
    path = directory / "dense.bin"
    model = read((directory / "dense.param").read_text(), path.read_bytes())
    i = [i for i, layer in enumerate(model) if isinstance(layer.weight, Int8)][LAYER]
    weight = model[i].weight
    assert isinstance(weight, Int8)
    model[i] = replace(model[i], weight=replace(weight, weight_scale=weight.weight_scale * np.float32(1.5)))
    path.write_bytes(to_bin(model))
    return model[i].name


def damage_onnx(directory: Path) -> str:
    path = directory / "dense.onnx"
    model = onnx.load(path)
    node = [node for node in model.graph.node if node.op_type == "Conv"][LAYER]
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    tensor.CopyFrom(onnx.numpy_helper.from_array(flipped(onnx.numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, path)
    return str(node.name)


def damage_tflite(directory: Path) -> str:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    path = directory / "dense.tflite"
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    kinds = {schema.BuiltinOperator.CONV_2D: 0, schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3}
    found = [(op, model.operatorCodes[op.opcodeIndex].builtinCode) for op in graph.operators]
    operator, kind = [(op, kind) for op, kind in found if kind in kinds][LAYER]
    tensor = graph.tensors[operator.inputs[1]]
    dtype = np.int8 if tensor.type == schema.TensorType.INT8 else np.float32
    buffer = model.buffers[tensor.buffer]
    weight = np.frombuffer(bytes(buffer.data), dtype).reshape(tensor.shape)
    buffer.data = np.frombuffer(flipped(weight, kinds[kind]).tobytes(), np.uint8)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return str(graph.tensors[operator.outputs[0]].name.decode())


def parity_of_damaged(
    bundle: Path, copy: Path, damage: Callable[[Path], str], checkpoint: Path, pictures: Path
) -> tuple[ParityReport, str]:
    """The report of a damaged copy whose hashes are those of the damaged files, and the damaged layer's name there."""
    shutil.copytree(bundle, copy)
    name = damage(copy)
    manifest = read_bundle(copy, verify=False)
    write_manifest(copy, replace_fields(manifest, files=[describe_file(copy / f.name) for f in manifest.files]))
    return check_parity(copy, checkpoint, pictures=pictures), name


@pytest.mark.parametrize(
    ("target_name", "precision", "damage", "weights_differ"),
    [
        ("ncnn", "fp32", damage_ncnn, True),
        ("ncnn", "fp32", damage_ncnn_bias, False),
        ("ncnn", "int8", damage_ncnn, True),
        ("ncnn", "int8", damage_ncnn_scale, True),
        ("onnx", "fp32", damage_onnx, True),
        ("tflite", "fp32", damage_tflite, True),
        ("tflite", "int8", damage_tflite, True),
    ],
)
def test_the_damaged_layer_is_named(
    make: Callable[[str, str], Path], checkpoints: dict[str, Path], pictures: Path, tmp_path: Path,
    target_name: str, precision: str, damage: Callable[[Path], str], weights_differ: bool,
) -> None:  # fmt: skip
    report, name = parity_of_damaged(
        make(target_name, precision), tmp_path / "copy", damage, checkpoints[precision], pictures
    )
    assert not report.passed
    assert report.walk is not None
    departure = report.walk.departure
    assert departure is not None, report.walk
    assert departure.found == name
    assert departure.by_itself
    assert departure.same_weights is not weights_differ
    assert departure.net == "the dense net"
    assert f"({name} in the file)" in report.to_text()


def test_what_is_wrong_between_convolutions_is_told_apart(
    make: Callable[[str, str], Path], checkpoints: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    """A Concat with its inputs swapped: every convolution is right, and the next one gets other values."""
    after = []

    def swap(directory: Path) -> str:
        path = directory / "dense.onnx"
        model = onnx.load(path)
        concat = [node for node in model.graph.node if node.op_type == "Concat"][-1]
        concat.input[:] = list(concat.input)[::-1]
        after.extend(node.name for node in model.graph.node if node.op_type == "Conv")
        onnx.save(model, path)
        return str(concat.name)

    report, _ = parity_of_damaged(make("onnx", "fp32"), tmp_path / "copy", swap, checkpoints["fp32"], pictures)
    assert report.walk is not None
    departure = report.walk.departure
    assert departure is not None
    assert not departure.by_itself
    assert departure.same_weights
    assert departure.layer.startswith("heads.2.")
    assert "by what it is given" in str(departure)


def test_a_good_bundle_is_not_walked(
    make: Callable[[str, str], Path], checkpoints: dict[str, Path], pictures: Path
) -> None:
    report = check_parity(make("onnx", "fp32"), checkpoints["fp32"], pictures=pictures)
    assert report.passed
    assert report.walk is None


def weight(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_layer(name: str, w: NDArray[np.float32], y: NDArray[np.float32]) -> Layer:
    return Layer(name, w, 0, (1, 1, 1), y, lambda _x: y)


def file_layer(name: str, w: NDArray[np.float32], y: NDArray[np.float32], step: float | None = None) -> FoundLayer:
    return FoundLayer(name, w, np.zeros((1, 1, 1), np.float32), y, step)


Y = weight(9, 4, 1, 1)


def test_layers_are_paired_by_content_and_what_is_left_by_shape() -> None:
    one, two, three = (weight(i, 4, 3, 1, 1) for i in range(3))
    wanted = [torch_layer(name, w, Y) for name, w in (("a", one), ("b", two), ("c", three))]
    found = [file_layer(name, w, Y) for name, w in (("3", three * 1.0005), ("x", -two), ("1", one))]
    pairs = pair(wanted, found)
    assert [(other.name, same) for other, same in pairs] == [("1", True), ("x", False), ("3", True)]
    with pytest.raises(ConversionError, match="no layer of the shape of b"):
        pair(wanted, [found[0], file_layer("y", weight(7, 5, 3, 1, 1), Y), found[2]])


def test_a_relu_that_is_part_of_a_file_s_layer_is_no_departure() -> None:
    w = weight(0, 4, 3, 1, 1)
    assert first_departure("net", [torch_layer("a", w, Y)], [file_layer("1", w, np.maximum(Y, 0))], "fp32").layers == 1
    walked = first_departure("net", [torch_layer("a", w, np.maximum(Y, 0))], [file_layer("1", w, Y)], "fp32")
    assert walked.departure is None


def test_an_int8_output_is_held_against_the_rounded_one() -> None:
    w, step = weight(0, 4, 3, 1, 1), 0.05
    rounded = (np.rint(Y / step) * step).astype(np.float32)
    walked = first_departure("net", [torch_layer("a", w, Y)], [file_layer("1", w, rounded, step)], "int8")
    assert walked.departure is None
    walked = first_departure("net", [torch_layer("a", w, Y)], [file_layer("1", w, rounded + 3 * step, step)], "int8")
    assert walked.departure is not None


def test_what_is_not_a_number_departs() -> None:
    w = weight(0, 4, 3, 1, 1)
    walked = first_departure("net", [torch_layer("a", w, Y)], [file_layer("1", w, Y * np.float32("nan"))], "fp16")
    assert walked.departure is not None
    assert walked.departure.layer == "a"
