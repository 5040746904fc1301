"""Graphs of one operator each for the TFLite writer, and what opens and reads the files that it makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.runtime.engines import Options, Session, engine

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


from tflite_nets import INPUT, Floats, Net  # noqa: E402

Builder = Callable[[Net, str], str]
UP = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def up(net: Net, x: str, factor: float = 2.0, **more: Any) -> str:
    scales = net.constant(np.array([1, 1, factor, factor], np.float32))
    return net.op("Resize", [x, "", scales], **{**UP, **more})


def many(net: Net, x: str) -> str:
    parts = [net.conv(x, 8, 3 + i, 1) for i in range(6)]
    return net.op("Concat", parts, axis=1)


def split(net: Net, x: str) -> str:
    wide = net.op("Relu", [net.conv(x, 8, 24, 1)])
    names = ["part0", "part1", "part2"]
    net.op("Split", [wide, net.constant(np.array([8, 4, 12]))], names, axis=1)
    return net.op("Concat", [names[2], names[0]], axis=1)


def sliced(net: Net, x: str) -> str:
    ends = [net.constant(np.array([n])) for n in (2, 7, 1)]
    return net.op("Slice", [x, *ends])


def residual(net: Net, x: str) -> str:
    return net.op("Relu", [net.op("Add", [net.conv(x, 8, 8, 3, 1), x])])


def pyramid(net: Net, x: str) -> str:
    small = net.op("Relu", [net.conv(x, 8, 8, 3, 1, strides=[2, 2])])
    return net.op("Add", [up(net, small), x])


def relu6(net: Net, x: str) -> str:
    limits = [net.constant(np.array(n, np.float32)) for n in (0, 6)]
    return net.op("Clip", [net.conv(x, 8, 8, 1), *limits])


# What each makes of a map of 8 channels, of which a convolution before it makes one.
EXACT: dict[str, Builder] = {
    "pointwise": lambda net, x: net.conv(x, 8, 16, 1),
    "pointwise and relu": lambda net, x: net.op("Relu", [net.conv(x, 8, 16, 1)]),
    "3x3": lambda net, x: net.conv(x, 8, 5, 3, 1),
    "3x3 unpadded": lambda net, x: net.conv(x, 8, 5, 3),
    "3x3 stride 2": lambda net, x: net.conv(x, 8, 5, 3, 1, strides=[2, 2]),
    "3x3 stride 3 unpadded": lambda net, x: net.conv(x, 8, 5, 3, strides=[3, 3]),
    "5x5 stride 2": lambda net, x: net.conv(x, 8, 5, 5, 2, strides=[2, 2]),
    "depthwise": lambda net, x: net.conv(x, 8, 8, 3, 1, groups=8),
    "depthwise stride 2": lambda net, x: net.conv(x, 8, 8, 3, 1, groups=8, strides=[2, 2]),
    "depthwise by 2": lambda net, x: net.conv(x, 8, 16, 3, 1, groups=8),
    "max pool": lambda net, x: net.op("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]),
    "padded max pool": lambda net, x: net.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "add": residual,
    "concatenation": lambda net, x: net.op("Concat", [x, net.op("Relu", [x])], axis=1),
    "split": split,
    "slice": sliced,
    "upsampling": up,
    "pyramid": pyramid,
}
FLOAT: dict[str, Builder] = EXACT | {
    "many": many,
    "relu6": relu6,
    "multiply": lambda net, x: net.op("Mul", [net.conv(x, 8, 8, 1), x]),
    "max pool, ceil": lambda net, x: net.op("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "average pool": lambda net, x: net.op("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2]),
    "padded average pool": lambda net, x: net.op(
        "AveragePool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1
    ),
    "average pool that leaves padding out": lambda net, x: net.op(
        "AveragePool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4
    ),
    "global average": lambda net, x: net.op("GlobalAveragePool", [x]),
    "prelu": lambda net, x: net.op("PRelu", [x, net.constant(net.noise(8, 1, 1))]),
    "leaky relu": lambda net, x: net.op("LeakyRelu", [x], alpha=0.1),
    "sigmoid": lambda net, x: net.op("Sigmoid", [x]),
    "softmax": lambda net, x: net.op("Softmax", [x], axis=1),
    "relu of a slice": lambda net, x: net.op("Relu", [sliced(net, x)]),
}


def built(name: str, builder: Builder, *, relu: bool = False) -> onnx.ModelProto:
    net = Net(1, 3, 12, 16)
    x = net.conv(INPUT, 3, 8, 3, 1)
    out = builder(net, net.op("Relu", [x]) if relu else x)
    net.nodes[-1].output[0] = "out"
    assert out != "out"
    return net.model("out")


def opened(folder: Path, content: bytes, input_name: str = INPUT) -> Session:
    (folder / "net.tflite").write_bytes(content)
    return engine.get("tflite")(folder, ["net.tflite"], input_name, Options())


def picture(height: int, width: int, channels: int = 3) -> Floats:
    pixels = np.random.default_rng(1).integers(-128, 128, (channels, height, width))
    return (pixels / 128).astype(np.float32)


def pixels_of(x: Floats) -> NDArray[np.int8]:
    """The picture (H, W, 3) less 128 that is ``picture``'s."""
    return np.ascontiguousarray((x * 128).astype(np.int8).transpose(1, 2, 0))


def parsed(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content)


def operators(content: bytes) -> Counter[str]:
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = parsed(content)
    return Counter(names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators)
