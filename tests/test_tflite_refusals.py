"""What the TFLite writer refuses, each in one line that names the operator and what to use instead."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from edgeface.errors import ConversionError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert.schema_py_generated")

from edgeface.convert.tflite import tflite_bytes  # noqa: E402

from tflite_builders import EXACT, FLOAT, Builder, built, picture, up  # noqa: E402
from tflite_nets import INPUT, Net, quantised  # noqa: E402


def refused(model: onnx.ModelProto, precision: str = "fp32") -> str:
    with pytest.raises(ConversionError) as caught:
        tflite_bytes(model, precision=precision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_weight_that_half_precision_cannot_hold_is_refused() -> None:
    net = Net(1, 3, 8, 8)
    net.op("Conv", [INPUT, net.constant(np.full((2, 3, 1, 1), 7e4, np.float32))], ["out"])
    assert "Conv conv_0: a weight is over 65504" in refused(net.model("out"), "fp16")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda net, x: net.op("Transpose", [x], perm=[0, 1, 3, 2]), "Transpose transpose_1: not written for TFLite"),
        (lambda net, x: net.op("Elu", [x]), "Elu elu_1: not written"),
        (lambda net, x: net.conv(x, 8, 8, 3, 1, groups=2), "Conv conv_1: 2 groups of 8 channels"),
        (lambda net, x: net.op("Softmax", [x], axis=3), "Softmax softmax_1: only a Softmax over the channels"),
        (lambda net, x: up(net, x, mode="linear"), "Resize resize_1: only nearest"),
        (lambda net, x: up(net, x, nearest_mode="ceil"), "Resize resize_1: only nearest"),
        (lambda net, x: net.op("Add", [x, net.constant(np.float32(1))]), "Add add_1: its input c2 is a constant"),
        (
            lambda net, x: net.op("Clip", [x, net.constant(np.float32(0)), net.constant(np.float32(1))]),
            "Clip clip_1: only a Clip from 0 to 6",
        ),
        (lambda net, x: net.op("Slice", [x, *(net.constant(np.array([n])) for n in (2, 7, 2))]), "slice of a height"),
        (lambda net, x: net.op("Concat", [x, x], axis=0), "Concat concat_1: axis 0"),
        (
            lambda net, x: net.op("Reshape", [x, net.constant(np.array([1, 16, 12, 8]))]),
            "Reshape reshape_1: only flattening .* channel shuffle as slices",
        ),
        (lambda net, x: net.op("Relu", [net.op("Flatten", [x])]), "Relu relu_2: after a flattened map only Gemm"),
        (
            lambda net, x: net.op(
                "AveragePool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
            ),
            "AveragePool averagepool_1: its padding",
        ),
        (
            lambda net, x: net.op("MaxPool", [x], kernel_shape=[2, 2], strides=[1, 1], dilations=[2, 2]),
            "MaxPool maxpool_1: a pooling with dilation",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_named(add: Builder, message: str) -> None:
    assert re.search(message, refused(built("", add)))


def test_an_unquantised_graph_is_no_int8_one() -> None:
    model = built("", EXACT["3x3"])
    assert refused(model, "int8") == "the graph has no scales: run edgeface quantize first"
    assert "convert it as int8, not fp16" in refused(quantised(model, picture(12, 16)), "fp16")


def test_scales_that_tflite_cannot_follow_are_refused() -> None:
    x = picture(12, 16)
    good = quantised(built("", EXACT["pointwise"]), x)

    def changed(name: str, values: Any) -> onnx.ModelProto:
        model = onnx.ModelProto.FromString(good.SerializeToString())
        (found,) = [c for c in model.graph.initializer if c.name == name]
        found.CopyFrom(onnx.numpy_helper.from_array(values, name))
        return model

    assert "zero point 0" in refused(changed(f"{INPUT}:zero", np.array(3, np.int8)), "int8")
    assert "zero point 0" in refused(changed(f"{INPUT}:zero", np.array(0, np.uint8)), "int8")
    for scale in (0.0, -1.0, np.nan, np.inf):
        assert "positive" in refused(changed(f"{INPUT}:scale", np.array(scale, np.float32)), "int8")
        assert "positive" in refused(changed("c0:scale", np.full(8, scale, np.float32)), "int8")
    assert "-127" in refused(changed("c0:int8", np.full((8, 3, 3, 3), -128, np.int8)), "int8")
    # A layer whose output nobody quantises.
    kept = quantised(built("", FLOAT["sigmoid"]), x)
    for node in kept.graph.node:
        node.input[:] = ["t0" if name == "t0:dq" else name for name in node.input]
    assert "Conv conv_0: its int8 output has no scale" in refused(kept, "int8")


def test_a_graph_of_another_shape_is_refused() -> None:
    batch = Net(2, 3, 8, 8)
    batch.conv(INPUT, 3, 4, 1, out="out")
    assert "fixed (1, C, H, W)" in refused(batch.model("out"))
    net = Net(1, 3, 8, 8)
    net.op("Identity", [net.conv(INPUT, 3, 4, 1, out="out")], ["same"])
    assert "output same is no tensor of its own" in refused(net.model("out", "same"))
