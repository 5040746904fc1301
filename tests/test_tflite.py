"""The TFLite writer: operators in float against onnxruntime, in int8 against NumPy integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface.errors import ConversionError
from edgeface.runtime.engines import Options, engine

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

from edgeface.convert.tflite import tflite_bytes  # noqa: E402

from tflite_builders import EXACT, FLOAT, built, many, opened, operators, parsed, picture, pixels_of  # noqa: E402
from tflite_nets import INPUT, Floats, Net, quantised, run_onnx  # noqa: E402
from tflite_reference import Levels, run_integers  # noqa: E402


@pytest.mark.parametrize("name", FLOAT)
def test_an_operator_in_float_at_every_size(name: str, tmp_path: Path) -> None:
    model = built(name, FLOAT[name])
    session = opened(tmp_path, tflite_bytes(model, precision="fp32"))
    free = onnx.ModelProto.FromString(model.SerializeToString())
    del free.graph.value_info[:]
    for i in (2, 3):
        free.graph.input[0].type.tensor_type.shape.dim[i].dim_param = "free"
    # 12 x 16 is the file's own; the others are odd, smaller and larger.
    for height, width in ((12, 16), (12, 16), (24, 20), (8, 4), (7, 9), (13, 16)):
        if "pyramid" in name and (height % 2 or width % 2):
            continue
        x = picture(height, width)
        np.testing.assert_allclose(session.run(x).output("out"), run_onnx(free, x)["out"], atol=2e-5)


@pytest.mark.parametrize("name", ["3x3 stride 2", "upsampling", "pyramid", "padded max pool", "split"])
def test_an_operator_in_float_at_its_own_size_alone(name: str, tmp_path: Path) -> None:
    model = built(name, FLOAT[name])
    content = tflite_bytes(model, precision="fp32", free=())
    assert ("RESIZE_NEAREST_NEIGHBOR" in operators(content)) == (name in ("upsampling", "pyramid"))
    x = picture(12, 16)
    np.testing.assert_allclose(opened(tmp_path, content).run(x).output("out"), run_onnx(model, x)["out"], atol=2e-5)


def test_a_pooling_whose_ceil_depends_on_the_size(tmp_path: Path) -> None:
    model = built("", lambda net, x: net.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))
    with pytest.raises(ConversionError, match="MaxPool maxpool_1: ceil_mode"):
        tflite_bytes(model, precision="fp32")
    for size in ((12, 16), (11, 14)):
        net = Net(1, 8, *size)
        net.op("MaxPool", [INPUT], ["out"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        x = picture(*size, channels=8) - 2
        session = opened(tmp_path, tflite_bytes(net.model("out"), precision="fp32", free=()))
        np.testing.assert_array_equal(session.run(x).output("out"), run_onnx(net.model("out"), x)["out"])


def compare_levels(actual: Floats, expected: Any, differing: float) -> None:
    assert isinstance(expected, Levels)
    levels = np.rint(actual / np.float32(expected.scale))
    np.testing.assert_allclose(levels * np.float32(expected.scale), actual, rtol=1e-6)
    apart = np.abs(levels - expected.levels)
    assert levels.shape == expected.levels.shape
    assert len(np.unique(expected.levels)) > min(20, levels.size // 2)
    assert apart.max() <= 1
    assert (apart > 0).mean() <= differing


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_an_operator_in_int8(name: str, relu: bool, tmp_path: Path) -> None:
    x = picture(12, 16)
    model = quantised(built(name, EXACT[name], relu=relu), x)
    content = tflite_bytes(model, precision="int8")
    assert not {"QUANTIZE", "DEQUANTIZE", "TRANSPOSE", "RESHAPE"} & operators(content).keys()
    session = opened(tmp_path, content)
    assert session.takes == "pixels"
    compare_levels(session.run(pixels_of(x)).output("out"), run_integers(model, x)["out"], 0)


def test_an_average_in_int8(tmp_path: Path) -> None:
    x = picture(12, 16)
    for pads in ([0] * 4, [1] * 4):
        model = quantised(built("", lambda net, x, pads=pads: net.op(
            "AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], pads=pads, count_include_pad=1
        )), x)
        out = opened(tmp_path, tflite_bytes(model, precision="int8")).run(pixels_of(x)).output("out")
        compare_levels(out, run_integers(model, x)["out"], 0.3)     # of four values, a half is a frequent sum


@pytest.mark.parametrize("kind", ["prelu", "leaky relu", "multiply", "global average"])
def test_the_other_operators_in_int8_are_near(kind: str, tmp_path: Path) -> None:
    x = picture(12, 16)
    model = quantised(built(kind, FLOAT[kind]), x)
    out = opened(tmp_path, tflite_bytes(model, precision="int8")).run(pixels_of(x)).output("out")
    expected = run_onnx(model, x)["out"]
    assert np.abs(out - expected).max() <= 0.03 * np.abs(expected).max()


def test_concatenation_of_different_scales_takes_the_largest(tmp_path: Path) -> None:
    x = picture(12, 16)
    model = quantised(built("", many), x)
    content = tflite_bytes(model, precision="int8")
    assert operators(content)["QUANTIZE"] == 5
    out = opened(tmp_path, content).run(pixels_of(x)).output("out")
    expected = run_onnx(model, x)["out"]
    (scale,) = parsed(content).subgraphs[0].tensors[parsed(content).subgraphs[0].outputs[0]].quantization.scale
    assert np.abs(out - expected).max() <= 1.01 * scale


def test_a_layer_kept_in_float_between_int8_ones(tmp_path: Path) -> None:
    def three(net: Net, x: str) -> str:
        return net.conv(net.conv(net.conv(x, 8, 8, 1), 8, 8, 3, 1), 8, 8, 1)

    x = picture(12, 16)
    model = quantised(built("", three), x, keep=["conv_2"])
    content = tflite_bytes(model, precision="int8")
    kinds = operators(content)
    assert (kinds["CONV_2D"], kinds["DEQUANTIZE"], kinds["QUANTIZE"]) == (4, 1, 1)
    compare_levels(
        opened(tmp_path, content).run(pixels_of(x)).output("out"), run_integers(model, x)["out"], 0.02
    )


def test_what_only_float_has_follows_int8(tmp_path: Path) -> None:
    x = picture(12, 16)
    model = quantised(built("", FLOAT["sigmoid"]), x)
    out = opened(tmp_path, tflite_bytes(model, precision="int8")).run(pixels_of(x)).output("out")
    np.testing.assert_allclose(out, run_integers(model, x)["out"], atol=5e-3)


def vectors() -> onnx.ModelProto:
    net = Net(1, 3, 12, 16)
    x = net.op("MaxPool", [net.conv(INPUT, 3, 8, 3, 1)], kernel_shape=[4, 4], strides=[4, 4])
    flat = net.op("Flatten", [x])
    weight, bias = net.noise(10, 8 * 3 * 4, scale=0.1), net.noise(10)
    hidden = net.op("Relu", [net.op("Gemm", [flat, net.constant(weight), net.constant(bias)], transB=1)])
    weight, bias = net.noise(40, 10, scale=0.3), net.noise(40)
    net.op("Gemm", [hidden, net.constant(weight), net.constant(bias)], ["out"], transB=1)
    return net.model("out")


def test_fully_connected_layers(tmp_path: Path) -> None:
    x, model = picture(12, 16), vectors()
    out = opened(tmp_path, tflite_bytes(model, precision="fp32", free=())).run(x).output("out")
    assert out.shape == (40, 1, 1)
    np.testing.assert_allclose(out[:, 0, 0], run_onnx(model, x)["out"], atol=1e-5)
    whole = quantised(model, x)
    session = opened(tmp_path, tflite_bytes(whole, precision="int8", free=()))
    compare_levels(session.run(pixels_of(x)).output("out"), run_integers(whole, x)["out"], 0)


def test_the_file_holds_the_trained_scales(tmp_path: Path) -> None:
    def two(net: Net, x: str) -> str:
        return net.conv(net.op("Relu", [net.conv(x, 8, 8, 3, 1, groups=8)]), 8, 6, 1)

    x = picture(12, 16)
    model = quantised(built("", two), x)
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    graph = parsed(tflite_bytes(model, precision="int8")).subgraphs[0]
    tensors = graph.tensors
    first = tensors[graph.inputs[0]]
    assert (first.name, first.type, list(first.shape)) == (INPUT.encode(), schema.TensorType.INT8, [1, 12, 16, 3])
    assert list(first.shapeSignature) == [1, -1, -1, 3]
    assert tensors[graph.outputs[0]].name == b"out"
    for tensor in tensors:
        if tensor.quantization is not None and tensor.quantization.zeroPoint is not None:
            assert not np.any(tensor.quantization.zeroPoint)
    activations = {t.quantization.scale[0] for t in tensors if t.type == schema.TensorType.INT8 and not t.buffer}
    assert activations == {
        np.float32(v) for n, v in constants.items() if n.endswith(":scale") and v.ndim == 0
    }
    weights = [n for n in constants if f"{n}:int8" in constants]
    for op, name in zip(graph.operators, weights, strict=True):
        entry, weight, bias = (tensors[i] for i in op.inputs)
        depthwise = constants[name].shape[1] == 1
        np.testing.assert_array_equal(weight.quantization.scale, constants[f"{name}:scale"])
        assert weight.quantization.quantizedDimension == (3 if depthwise else 0)
        np.testing.assert_array_equal(
            bias.quantization.scale, entry.quantization.scale[0] * constants[f"{name}:scale"]
        )
        assert bias.type == schema.TensorType.INT32


def test_a_bias_that_its_channel_s_scale_cannot_hold(tmp_path: Path) -> None:
    net = Net(1, 3, 12, 16)
    weight, bias = net.noise(4, 3, 1, 1), np.array([0.3, 0.3, 0.7, -0.4], np.float32)
    weight[1] = 0           # its scale is 1, far coarser than the output's
    weight[2] *= 1e-12      # its bias is over 2**31 steps of its scale
    net.op("Conv", [INPUT, net.constant(weight), net.constant(bias)], ["out"])
    x = picture(12, 16)
    model = quantised(net.model("out"), x)
    out = opened(tmp_path, tflite_bytes(model, precision="int8")).run(pixels_of(x)).output("out")
    step = float(np.abs(run_onnx(net.model("out"), x)["out"]).max()) / 127
    np.testing.assert_allclose(out, run_onnx(net.model("out"), x)["out"], atol=0.75 * step + 0.01)
    np.testing.assert_allclose(out[1], 0.3, atol=0.51 * step)
    np.testing.assert_allclose(out[2], 0.7, atol=0.51 * step)


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    def wide(net: Net, x: str) -> str:
        return net.conv(net.op("Relu", [net.conv(x, 8, 128, 1)]), 128, 64, 3, 1)

    model, x = built("", wide), picture(12, 16)
    half, full = (tflite_bytes(model, precision=precision) for precision in ("fp16", "fp32"))
    assert len(half) < 0.51 * len(full)
    out = opened(tmp_path, half).run(x).output("out")
    expected = run_onnx(model, x)["out"]
    assert 0 < np.abs(out - expected).max() < 0.01


def test_several_outputs_keep_their_names(tmp_path: Path) -> None:
    net = Net(1, 3, 8, 8)
    features = net.op("Relu", [net.conv(INPUT, 3, 8, 3, 1)], ["features"])
    net.conv(features, 8, 2, 1, out="score")
    net.op("Concat", [features, net.conv(features, 8, 4, 1)], ["both"], axis=1)
    model, x = net.model("score", "features", "both"), picture(8, 8)
    for precision, made in (("fp32", model), ("int8", quantised(model, x))):
        content = tflite_bytes(made, precision=precision)
        graph = parsed(content).subgraphs[0]
        assert [graph.tensors[i].name for i in graph.outputs] == [b"score", b"features", b"both"]
        session = opened(tmp_path, content)
        run = session.run(pixels_of(x) if precision == "int8" else x)
        for name, expected in run_onnx(made, x).items():
            np.testing.assert_allclose(run.output(name), expected, atol=1e-4 if precision == "fp32" else 0.05)


def test_a_net_on_features_takes_their_scale(tmp_path: Path) -> None:
    net = Net(1, 16, 3, 15)
    net.conv(net.op("Relu", [net.conv(INPUT, 16, 8, 3, strides=[3, 3])]), 8, 6, 1, out="logits")
    for patches in (5, 1, 9):
        x = np.random.default_rng(2).standard_normal((16, 3, 3 * patches)).astype(np.float32)
        model = quantised(net.model("logits"), np.resize(x, (16, 3, 15)), input_scale=0.03)
        session = opened(tmp_path, tflite_bytes(model, precision="int8", free={3: "width"}))
        assert session.takes == "planes"
        compare_levels(session.run(x).output("logits"), run_integers(model, x)["logits"], 0)


def test_the_target_writes_the_nets_of_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from edgeface.convert.targets import target

    from edgeface.models.checkpoint import load_checkpoint
    from edgeface.models.mos_export import graphs
    from edgeface.torch_engine import TorchSession

    goal = target.get("tflite")
    assert next(iter(goal.tolerances)) == "int8"
    for graph in graphs(load_checkpoint(tiny_checkpoint).build())[:2]:
        (name,) = goal.files(graph.stem)
        goal.write(graph, [tmp_path / name], "fp32")
        assert not {"TRANSPOSE", "RESHAPE"} & operators((tmp_path / name).read_bytes()).keys()
        session = engine.get("tflite")(tmp_path, [name], graph.input, Options())
        reference = TorchSession(graph, graph.stem, Options())
        for shape in graph.shapes:
            x = np.random.default_rng(0).uniform(-1, 1, shape[1:]).astype(np.float32)
            actual, expected = session.run(x), reference.run(x)
            for output in graph.outputs:
                span = np.ptp(expected.output(output))
                np.testing.assert_allclose(actual.output(output), expected.output(output), atol=1e-4 * span)


def test_the_target_writes_the_scales_of_a_quantised_net(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A net of three convolutions is followed to the last bit, but for ties."""
    import torch
    from edgeface.convert.targets import target

    from edgeface.int8.modules import points, set_mode
    from edgeface.models.checkpoint import load_checkpoint
    from edgeface.models.deploy import deploy
    from edgeface.models.mos import MOS
    from edgeface.models.mos_export import graphs
    from edgeface.torch_engine import TorchSession

    trained = load_checkpoint(tiny_checkpoint).build()
    assert isinstance(trained, MOS)
    net = deploy(trained).eval()
    for _, point in points(net):
        if point.log_scale.requires_grad:
            point.set_scale(0.02)
    set_mode(net, "all")
    with torch.no_grad():
        net.maps(torch.zeros(1, 3, 32, 32))
    graph = graphs(net)[1]
    goal = target.get("tflite")
    goal.write(graph, [tmp_path / "pose.tflite"], "int8")
    session = engine.get("tflite")(tmp_path, ["pose.tflite"], graph.input, Options())
    reference = TorchSession(graph, graph.stem, Options())
    x = np.random.default_rng(0).uniform(-2.5, 2.5, graph.shapes[0][1:]).astype(np.float32)
    levels = (session.run(x).output("logits") - reference.run(x).output("logits")) / 0.02
    assert np.abs(levels).max() < 1.01
    assert (np.abs(levels) > 0.01).mean() < 0.01
