"""Sliding windows in TFLite: padding is SAME or VALID there, and where neither is ONNX's, an operator of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

from edgeface.runtime.engines.tflite_writer import Tensor, made

from .tflite_graph import Translation, attributes, refused


@dataclass(frozen=True)
class _Side:
    """A window along one axis: ``extent`` is the kernel with its dilation; padding before and after."""

    extent: int
    stride: int
    before: int
    after: int
    ceil: bool

    def count(self, size: int) -> int:
        """Windows on ``size`` values, as ONNX counts them."""
        room = size + self.before + self.after - self.extent
        count = (-(-room // self.stride) if self.ceil else room // self.stride) + 1
        # A window that would begin in the padding behind the values is left out.
        return count - 1 if self.ceil and (count - 1) * self.stride >= size + self.before else count

    def is_valid(self, size: int) -> bool:
        """Whether TFLite's VALID has the same windows."""
        return self.before == 0 and self.count(size) == (size - self.extent) // self.stride + 1

    def is_same(self, size: int) -> bool:
        """Whether TFLite's SAME has the same windows: what exceeds an even padding it puts behind."""
        count = -(-size // self.stride)
        total = max((count - 1) * self.stride + self.extent - size, 0)
        return self.count(size) == count and total // 2 == self.before

    def missing(self, size: int) -> int:
        """How much padding behind ``size`` values the last window reaches into."""
        return max((self.count(size) - 1) * self.stride + self.extent - size - self.before, 0)


@dataclass(frozen=True)
class Window:
    """kernel, stride and dilation as (height, width), and the padding of each side."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    sides: tuple[_Side, _Side]

    @classmethod
    def of(cls, node: onnx.NodeProto, kernel: Sequence[int]) -> Window:
        """The window of a Conv or a pooling; raises ConversionError for what is not two-dimensional."""
        a = attributes(node)
        if len(kernel) != 2 or a.get("auto_pad", "NOTSET") != "NOTSET":
            raise refused(node, "it must slide over height and width, with its padding given as numbers")
        stride, dilation = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
        pads, ceil = a.get("pads", [0, 0, 0, 0]), bool(a.get("ceil_mode", 0))
        sides = [
            _Side((kernel[i] - 1) * dilation[i] + 1, stride[i], pads[i], pads[i + 2], ceil) for i in (0, 1)
        ]
        return cls(
            (int(kernel[0]), int(kernel[1])), (stride[0], stride[1]), (dilation[0], dilation[1]), (sides[0], sides[1])
        )


def fitted(
    t: Translation, node: onnx.NodeProto, x: Tensor, window: Window, fill: float, *, counts_padding: bool = True
) -> tuple[Tensor, int]:
    """What the operator is to read, padded with ``fill`` where it must be, and TFLite's padding.

    SAME fills with what does not count, for a convolution zeros; with ``counts_padding`` a mean counts it, so SAME will
    not do for that. Raises ConversionError when neither says it.
    """
    sizes = [_sizes(side, x.shape[i], free=i in t.free) for i, side in enumerate(window.sides, start=1)]
    if all(side.is_valid(n) for side, some in zip(window.sides, sizes, strict=True) for n in some):
        return x, schema.Padding.VALID
    same = all(side.is_same(n) for side, some in zip(window.sides, sizes, strict=True) for n in some)
    if same and not (node.op_type == "AveragePool" and counts_padding):
        return x, schema.Padding.SAME
    if node.op_type == "AveragePool" and (not counts_padding or any(side.ceil for side in window.sides)):
        raise refused(node, "its padding is not TFLite's: pad evenly and count the padding, or use a convolution")
    if any(side.ceil and i in t.free for i, side in enumerate(window.sides, start=1)):
        raise refused(node, "ceil_mode that depends on the size, in a net for every size: use kernel 2 and stride 2")
    before_after = np.zeros((4, 2), np.int32)
    for i, side in enumerate(window.sides, start=1):
        after = side.missing(x.shape[i]) if side.ceil else side.after
        before_after[i] = side.before, after
    padded = (1, *(int(n + before_after[i].sum()) for i, n in enumerate(x.shape[1:], start=1)))
    out = t.network.tensor(f"{node.output[0]};padded", padded, x.dtype.type, x.quantisation)
    inputs = [x, t.network.setting(before_after)]
    if fill == 0:
        t.network.add("PAD", inputs, [out], made("PadOptionsT"), 2 if x.scale else 1)
    else:
        inputs.append(t.network.constant(f"{node.output[0]};fill", np.array([fill], x.dtype), x.quantisation))
        t.network.add("PADV2", inputs, [out], made("PadV2OptionsT"), 2 if x.scale else 1)
    return out, schema.Padding.VALID


def _sizes(side: _Side, size: int, *, free: bool) -> Iterable[int]:
    """The sizes that an axis may have: where it is free, enough of them to see every remainder of the stride."""
    if not free:
        return [size]
    least = max(1, side.extent - side.before - side.after)
    return range(least, least + side.extent + 4 * side.stride)
