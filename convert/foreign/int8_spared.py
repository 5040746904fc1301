"""Which layers stay float since rounding them would move the scores: measured on pictures, one layer at a time.

Some nets lose most in a few early layers, whose maps have a wide range and few channels: there is no one scale for
them that serves dim and bright pictures alike. Such a layer alone moves the logits of faces more than forty others do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeface.int8.scales import LayerScales

from .graph import run_outputs

Floats = NDArray[np.float32]
# Where faces are, if anywhere: so many of the best cells of each level of a picture.
_CELLS = 16
# How far scores may move, root mean square in logits: at 0.5 that is 0.05.
LARGEST_NOISE = 0.2
# Of a net where most layers are to blame, int8 is another network, which the comparison says.
_MOST_SPARED = 0.25


def spared(
    model: onnx.ModelProto, layers: Mapping[str, LayerScales], scores: Sequence[str], pictures: Sequence[Floats]
) -> list[str]:
    """The layers, by the name of what they give, to leave float so that the others' noise in the logits ``scores`` of
    ``pictures``, each float32 (1, 3, H, W), is at most LARGEST_NOISE; those that lose most first, a quarter at most.
    """
    exact = list(_run(model, scores, pictures))
    best = [[np.argsort(level, axis=None)[-_CELLS:] for level in levels] for levels in exact]
    lost = {}
    for name, layer in layers.items():
        rounded = _run(_with_one(model, name, layer), scores, pictures)
        lost[name] = float(np.mean([
            np.square(new.reshape(-1)[cells] - old.reshape(-1)[cells]).mean()
            for new_levels, old_levels, places in zip(rounded, exact, best, strict=True)
            for new, old, cells in zip(new_levels, old_levels, places, strict=True)
        ]))
    left, found = sum(lost.values()), []
    for name in sorted(lost, key=lambda each: -lost[each])[: int(len(lost) * _MOST_SPARED)]:
        if left <= LARGEST_NOISE**2:
            break
        found.append(name)
        left -= lost[name]
    return found


def _run(model: onnx.ModelProto, scores: Sequence[str], pictures: Sequence[Floats]) -> Iterable[list[Floats]]:
    run = run_outputs(model, scores)
    for x in pictures:
        given = run(x)
        yield [given[name] for name in scores]


def _with_one(model: onnx.ModelProto, name: str, layer: LayerScales) -> onnx.ModelProto:
    """The float model with that one layer rounded: its weights, and what it reads."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    number, node = next((i, each) for i, each in enumerate(graph.node) if each.output[0] == name)
    source, given = node.input[0], ["ef_one_scale", "ef_one_zero"]
    for constant, values in (
        ("ef_one_weight", layer.weight), (given[0], np.float32(layer.input_scale)), (given[1], np.int8(0))
    ):
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), constant))
    node.input[0], node.input[1] = "ef_one_real", "ef_one_weight"
    graph.node.insert(number, helper.make_node("QuantizeLinear", [source, *given], ["ef_one_int8"]))
    graph.node.insert(number + 1, helper.make_node("DequantizeLinear", ["ef_one_int8", *given], ["ef_one_real"]))
    return rounded
