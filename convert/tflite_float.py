"""ONNX operators that are written for TFLite in float alone: the larger or smaller of two maps, and the L2 norm."""

from __future__ import annotations

import numpy as np
import onnx

from edgeface.runtime.engines.tflite_writer import made

from .tflite_graph import Translation, attributes, refused
from .tflite_ops import writes

# What TFLite's kernel takes a smaller norm for.
_LEAST_NORM = 1e-6
# What torch.nn.functional.normalize is after its ReduceL2: the least norm, its copies for every channel, the division.
_NORMALIZE = ("Clip", "Expand", "Div")


@writes("Max", "Min")
def _extreme(t: Translation, node: onnx.NodeProto) -> None:
    if len(node.input) != 2:
        raise refused(node, f"{len(node.input)} maps: use two at a time")
    left, right = (t.as_float(t.value(node, i)) for i in (0, 1))
    if left.shape != right.shape:
        raise refused(node, f"maps of different shapes {left.shape} and {right.shape}: make them equal")
    out = t.new(node.output[0], None)
    operator = "MAXIMUM" if node.op_type == "Max" else "MINIMUM"
    t.network.add(operator, [left, right], [out], made("MaximumMinimumOptionsT"))
    t.give(node.output[0], out)


@writes("ReduceL2")
def _normalised(t: Translation, node: onnx.NodeProto) -> None:
    nodes = [node]
    for kind in _NORMALIZE:
        reader = t.fused_reader(nodes[-1].output[0], kind)
        if reader is None:
            raise refused(node, f"alone it is not written for TFLite: use normalize(x, dim=1, eps={_LEAST_NORM:g})")
        nodes.append(reader)
    _, least, copies, divided = nodes
    if attributes(node).get("axes") != [1] or list(divided.input) != [node.input[0], copies.output[0]]:
        raise refused(node, "only a map divided by its own norm over the channels is written for TFLite")
    floor = t.optional(least, 1)
    if floor is None or not np.isclose(float(floor), _LEAST_NORM, rtol=1e-3) or t.optional(least, 2) is not None:
        raise refused(node, f"its least norm must be {_LEAST_NORM:g}, which TFLite has built in")
    x = t.as_float(t.value(node))
    out = t.new(divided.output[0], None)
    t.network.add("L2_NORMALIZATION", [x], [out], made("L2NormOptionsT"))
    t.give(divided.output[0], out)
