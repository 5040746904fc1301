"""Scales for a foreign graph: what its convolutions read on pictures, and weights rounded to their channels' scales.

The convolutions that read the picture and those that give the outputs stay float: the first see pixels, of which 127
levels are half, and the last give logits and edges, whose rounding nothing evens out. So do those that engines have no
one scale for, and those that move the scores most (``int8_spared.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeface.errors import ConversionError, InputError
from edgeface.int8.clipping import BINS, LEAST_SCALE, Seen, mse
from edgeface.int8.scales import Q_MAX, LayerScales

from .graph import PIXELS_NODE, run_outputs
from .int8_spared import spared

Floats = NDArray[np.float32]
# Gives every calibration picture as the graph takes it, float32 (1, 3, H, W), each time that it is called.
Inputs = Callable[[], Iterable[Floats]]
# On how many pictures a layer's harm is measured.
_JUDGED = 4


@dataclass(frozen=True)
class Calibrated:
    """The float ``model`` with baked weights, multiples of their scales, and its int8 ``layers`` by the name of what
    they give; ``map_scales`` are those of the maps that were asked for."""

    model: onnx.ModelProto
    layers: dict[str, LayerScales]
    map_scales: dict[str, float]


def calibrated(model: onnx.ModelProto, inputs: Inputs, scores: Sequence[str], maps: Sequence[str] = ()) -> Calibrated:
    """Calibrate a simplified graph of one picture on ``inputs``, by least squared error of what each layer reads, and
    of the ``maps``; what would move the outputs ``scores``, logits, too far stays float.

    Raises InputError without pictures, and ConversionError for a graph without a layer that int8 is made of, or one
    that gives values that are no numbers.
    """
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    layers = _layers(baked)
    if not layers:
        raise ConversionError("no convolution of it can be int8: take fp16")
    seen = _seen(baked, sorted({*maps, *(node.input[0] for node in layers)}), inputs)
    scales = {name: max(mse(each) / Q_MAX, LEAST_SCALE) for name, each in seen.items()}
    constants = {each.name: each for each in baked.graph.initializer}
    found = {}
    for node in layers:
        weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
        steps = _weight_scales(weight)
        per_channel = steps.reshape(-1, 1, 1, 1)
        weight = (np.rint(weight / per_channel).clip(-Q_MAX, Q_MAX) * per_channel).astype(np.float32)
        name = node.name or node.output[0]
        found[node.output[0]] = LayerScales(name, weight, steps, scales[node.input[0]])
    for name in spared(model, found, scores, list(islice(inputs(), _JUDGED))):
        del found[name]
    for node in layers:
        if node.output[0] in found:
            initializer = constants[node.input[1]]
            initializer.CopyFrom(numpy_helper.from_array(found[node.output[0]].weight, initializer.name))
    return Calibrated(baked, found, {name: scales[name] for name in maps})


def _layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions that become int8, in the graph's order."""
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    ends = {each.name for each in (*graph.input, *graph.output)}
    # What only takes a mean from the pixels is no reader of the picture: the convolution behind it is.
    ends |= {name for node in graph.node if node.name == PIXELS_NODE for name in node.output}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    found = []
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in constants or uses[node.input[1]] > 1:
            continue
        shape = tuple(constants[node.input[1]].dims)
        group = next((each.i for each in node.attribute if each.name == "group"), 1)
        # ncnn has one scale a group.
        is_plain = group == 1 or (group == shape[0] and shape[1] == 1)
        if is_plain and len(shape) == 4 and not ends & {node.input[0], node.output[0]}:
            found.append(node)
    return found


def _weight_scales(weight: Floats) -> Floats:
    """The scale (O,) of each output channel, by its largest weight."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales: Floats = np.maximum(largest / np.float32(Q_MAX), np.float32(1e-12)).astype(np.float32)
    return scales


def _seen(model: onnx.ModelProto, names: Sequence[str], inputs: Inputs) -> dict[str, Seen]:
    """What each tensor of ``names`` holds on the pictures. Goes through them twice: histograms need the ranges."""
    run = run_outputs(model, names)
    largest = dict.fromkeys(names, 0.0)
    count = 0
    for x in inputs():
        count += 1
        for name, values in run(x).items():
            most = float(np.abs(values).max())
            if not np.isfinite(most):
                raise ConversionError(f"{name} holds values that are no numbers on the calibration pictures")
            largest[name] = max(largest[name], most)
    if not count:
        raise InputError("no pictures to calibrate on: give --calibrate a folder of pictures")
    counts = {name: np.zeros(BINS) for name in names}
    for x in inputs():
        for name, values in run(x).items():
            if largest[name] > 0:
                counts[name] += np.histogram(np.abs(values), BINS, (0, largest[name]))[0]
    return {name: Seen(largest[name], counts[name]) for name in names}


