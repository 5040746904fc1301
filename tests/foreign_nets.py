"""Tiny ONNX files with the outputs of other people's detectors, random weights in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """An ONNX graph that grows by calls; names are given by the order of these."""

    def __init__(self, width: int, height: int) -> None:
        self.rng = np.random.default_rng(3)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.size = width, height

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, before: int, after: int, *, k: int = 3, stride: int = 1, group: int = 1,
             bias: float = 0.0, gain: float = 1.0) -> str:
        fan = before // group * k * k
        weight = self.constant(self.rng.normal(0, gain * (2 / fan) ** 0.5, (after, before // group, k, k)))
        return self.node(
            "Conv", x, weight, self.constant(self.rng.normal(bias, 0.1, after)), kernel_shape=[k, k],
            strides=[stride] * 2, pads=[k // 2] * 4, group=group,
        )

    def trunk(self, levels: int) -> list[str]:
        """Maps of 8 channels at strides 8, 16, ..., that see pixels of 0 to 255."""
        x, maps = self.node("Mul", "data", self.constant(0.01)), []
        for number in range(levels + 2):
            x = self.node("Relu", self.conv(x, 3 if number == 0 else 8, 8, stride=2))
            maps.append(x)
        return maps[2:]

    def rows(self, x: str, count: int) -> str:
        turned = self.node("Transpose", x, perm=[0, 2, 3, 1])
        return self.node("Reshape", turned, self.constant([1, -1, count], np.int64))

    def give(self, x: str, name: str) -> None:
        self.nodes.append(helper.make_node("Identity", [x], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def save(self, path: Path) -> Path:
        width, height = self.size
        picture = helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, height, width])
        graph = helper.make_graph(self.nodes, "tiny", [picture], self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        return path


def yunet(path: Path) -> Path:
    """As libfacedetection.train exports: heads whose last convolution is depthwise, flattened, of a fixed size."""
    b = Builder(128, 96)
    for stride, x in zip((8, 16, 32), b.trunk(3), strict=True):
        for name, count in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            head = b.conv(b.conv(x, 8, count, k=1), count, count, group=count, gain=0.5)
            rows = b.rows(head, count)
            b.give(b.node("Sigmoid", rows) if count == 1 else rows, f"{name}_{stride}")
    return b.save(path)


def scrfd(path: Path) -> Path:
    """As insightface exports: all scores, then all boxes, which a number multiplies, then all points."""
    b = Builder(128, 96)
    maps = b.trunk(3)
    for what, count in (("score", 1), ("bbox", 4), ("kps", 10)):
        for i, x in enumerate(maps):
            head = b.conv(x, 8, 2 * count, bias=1.0 if count == 4 else 0.0, gain=0.4 if count == 4 else 2.0)
            rows = b.rows(b.node("Mul", head, b.constant(1.25)) if count == 4 else head, count)
            b.give(b.node("Sigmoid", rows) if count == 1 else rows, f"{what}{i}")
    return b.save(path)


def yolov5face(path: Path) -> Path:
    """Three maps before the sigmoid."""
    b = Builder(128, 96)
    for stride, x in zip((8, 16, 32), b.trunk(3), strict=True):
        b.give(b.conv(x, 8, 48, bias=1.0), f"stride_{stride}")
    return b.save(path)


def retinaface(path: Path) -> Path:
    """Boxes, scores and points of all levels in one output each, of a fixed size."""
    b = Builder(128, 96)
    maps = b.trunk(3)
    for name, count in (("boxes", 4), ("scores", 2), ("landmarks", 10)):
        joined = b.node("Concat", *(b.rows(b.conv(x, 8, 2 * count), count) for x in maps), axis=1)
        b.give(b.node("Softmax", joined, axis=-1) if count == 2 else joined, name)
    return b.save(path)


def ultralight(path: Path) -> Path:
    """Scores, and boxes that the file decodes by priors clipped to its size, 320x240."""
    b = Builder(320, 240)
    sides = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    maps = b.trunk(4)
    for name, count in (("scores", 2), ("boxes", 4)):
        joined = b.node("Concat", *(
            b.rows(b.conv(x, 8, count * len(level)), count) for x, level in zip(maps, sides, strict=True)
        ), axis=1)
        b.give(b.node("Softmax", joined, axis=-1) if count == 2 else _decoded(b, joined, sides), name)
    return b.save(path)


def _decoded(b: Builder, offsets: str, sides: tuple[tuple[int, ...], ...]) -> str:
    width, height = b.size
    priors = []
    for stride, level in zip((8, 16, 32, 64), sides, strict=True):
        for row in range(-(-height // stride)):
            for column in range(-(-width // stride)):
                for side in level:
                    centre = ((column + 0.5) * stride / width, (row + 0.5) * stride / height)
                    priors.append([*centre, min(side / width, 1), min(side / height, 1)])
    centre, size = (np.array(priors)[None, :, part] for part in (slice(2), slice(2, 4)))
    one, two = (
        b.node("Slice", offsets, *(b.constant(each, np.int64) for each in ([first], [first + 2], [2])))
        for first in (0, 2)
    )
    shift = b.node("Mul", one, b.constant(0.1 * size))
    middle = b.node("Add", shift, b.constant(centre))
    half = b.node("Mul", b.node("Exp", b.node("Mul", two, b.constant(0.2))), b.constant(size / 2))
    return b.node("Concat", b.node("Sub", middle, half), b.node("Add", middle, half), axis=2)
