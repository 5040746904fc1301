"""int8 for ncnn: float layers rewritten with trained scales.

ncnn quantises the input of an int8 convolution and gives float32. Where every consumer is an int8 convolution with the
same input scale, the layer can give int8 at once ("requantise"), and nothing is float on the way. That is not done
unless asked for: ncnn's x86 and NEON code multiply, add and round in another order there, so that now and then a value
is a level off, and after fifty layers most are. Without it, and with the depthwise layers' steps made exact
(``edgeface.int8.exact``), both give the same to the last bit.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeface.errors import ConversionError
from edgeface.int8.scales import Q_MAX, LayerScales
from edgeface.runtime.engines.ncnn_files import (
    CHAINED,
    INT8_KINDS,
    INT8_TERM,
    REQUANTISES,
    WEIGHTED,
    Layer,
    consumers,
    weight_shape,
)
from edgeface.runtime.engines.ncnn_layers import Int8, ModelLayer

from .matching import match_by_content

# Of a quantisation step. A baked weight is off by float32 rounding, 1e-5; one that was not baked by up to a half.
_BAKED_WITHIN = 1e-3
_WIDTH = 100
# The largest depthwise kernel that ncnn has code for in int8.
_DEPTHWISE = 3
# Channels of a picture. What is the first to compute on them is a tenth to a half slower in int8 on a Cortex-A72.
_PICTURE = 4


@dataclass(frozen=True)
class Form:
    """How int8 is written. ``requantise``: layers give int8 where they can, see above; ``drops_slow``: what ncnn
    computes more slowly in int8 than in float stays float, with its baked weights, which is another network than the
    one with fake quantisation."""

    requantise: bool
    drops_slow: bool


EXACT, FAST = Form(requantise=False, drops_slow=False), Form(requantise=True, drops_slow=True)
# Of another network's file, which is held against its faces: nothing is known of its layers beforehand.
IMPORTED = Form(requantise=False, drops_slow=True)


@dataclass(frozen=True)
class Blocker:
    """Why a layer gives float: ``group``, the heading to count it under, and ``text``, what it is exactly."""

    group: str
    text: str


@dataclass(frozen=True)
class Int8LayerReport:
    """One int8 layer: its ``name`` in the network and in the ``file``; it requantises when nothing blocks it."""

    name: str
    file: str
    blockers: tuple[Blocker, ...]

    @property
    def fused(self) -> bool:
        return not self.blockers


@dataclass(frozen=True)
class Int8Report:
    """What became of a graph's layers: ``layers`` in int8, and the ``floats`` that stay, by their name in the file.
    ``requantise``: whether layers were to requantise where they can. ``slow``: those that ncnn runs badly in int8, by
    their name in the network, with why; they stay float where ``drops_slow``."""

    stem: str
    layers: tuple[Int8LayerReport, ...]
    floats: tuple[str, ...]
    requantise: bool
    slow: Mapping[str, str] = field(default_factory=dict)
    drops_slow: bool = False

    def slow_lines(self) -> list[str]:
        """What to say of the slow layers, a line a kind."""
        kinds: dict[str, list[str]] = {}
        for name, why in self.slow.items():
            kinds.setdefault(why, []).append(name)
        what = "left in float" if self.drops_slow else "in int8 all the same, as the checkpoint has them"
        return [f"{self.stem}: {', '.join(names)}: {why}: {what}" for why, names in kinds.items()]

    def summary(self) -> str:
        """One line: how many layers requantise, and what the others feed, each counted under its first reason."""
        if not self.requantise:
            return f"{self.stem}: {len(self.layers)} int8 layers; none requantises, so that all processors agree"
        fused = sum(layer.fused for layer in self.layers)
        line = f"{self.stem}: {fused} of {len(self.layers)} int8 layers requantise"
        groups = Counter(layer.blockers[0].group for layer in self.layers if not layer.fused)
        if groups:
            line += "; the others feed " + ", ".join(f"{group} ({n})" for group, n in groups.most_common())
        return line

    def to_text(self) -> str:
        """The summary, the layers that requantise, and a line for every other one, without a line end at the end."""
        lines = [self.summary(), *self.slow_lines()]
        if not self.requantise:
            return "\n".join([*lines, *_wrapped("stay float", self.floats)])
        lines += _wrapped("requantise", [layer.name for layer in self.layers if layer.fused])
        lines += _wrapped("stay float", self.floats)
        unfused = [layer for layer in self.layers if not layer.fused]
        width = max((len(layer.name) for layer in unfused), default=0)
        lines += [f"  {layer.name:<{width}}  {'; '.join(b.text for b in layer.blockers)}" for layer in unfused]
        return "\n".join(lines)


def _wrapped(label: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return textwrap.wrap(
        f"{label}: {', '.join(names)}", _WIDTH, initial_indent="  ", subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False,
    )


def quantise(
    stem: str, model: Sequence[ModelLayer], scales: Sequence[LayerScales], *, form: Form = EXACT
) -> tuple[list[ModelLayer], Int8Report]:
    """The float ``model`` with every layer that ``scales`` knows in int8, and what requantises and what does not.

    ``stem`` names the graph in the report. Layers are found by their weights, see ``match_by_content``. Raises
    ConversionError when that fails, when a weight is not made of multiples of its scale, and for a grouped convolution
    that is not depthwise, whose channels ncnn gives one scale a group.
    """
    for layer_scales in scales:
        _check(layer_scales)
    floats = {
        layer.name: layer.weight
        for layer in model
        if layer.line.kind in INT8_KINDS and isinstance(layer.weight, np.ndarray)
    }
    matched = match_by_content(scales, floats)
    slow = {layer.name: why for layer in model if layer.name in matched and (why := _slow(layer.line, form))}
    told = {matched[name].name: why for name, why in slow.items()}
    if form.drops_slow:
        matched = {name: found for name, found in matched.items() if name not in slow}
    factors = {name: _input_factor(found) for name, found in matched.items()}
    taken = consumers([layer.line for layer in model])
    done: list[ModelLayer] = []
    reports: list[Int8LayerReport] = []
    for layer in model:
        if layer.name not in matched:
            done.append(layer)
            continue
        blockers = _blockers(layer.line, taken, factors)
        output_scale = None
        if form.requantise and not blockers:
            consumer = taken[layer.line.produces[0]][0]
            assert consumer is not None
            output_scale = factors[consumer.name]
        done.append(_in_int8(layer, matched[layer.name], output_scale))
        reports.append(Int8LayerReport(matched[layer.name].name, layer.name, blockers))
    stay = tuple(layer.name for layer in model if layer.line.kind in WEIGHTED and layer.name not in matched)
    return done, Int8Report(stem, tuple(reports), stay, form.requantise, told, form.drops_slow)


def _slow(line: Layer, form: Form) -> str | None:
    """Why ncnn is slower with this layer in int8 than in float; None where it is not, or hardly and the layer has to
    stay what it is."""
    kernel = max(line.integer(1), line.integer(11, line.integer(1)))
    if line.kind == "ConvolutionDepthWise" and kernel > _DEPTHWISE:
        return f"depthwise, {_kernel(line)}, some ten times as slow in ncnn's int8 as in float"
    if form.requantise and line.kind == "Convolution" and kernel > 1 and weight_shape(line)[1] <= _PICTURE:
        return f"{_kernel(line)} on a picture's channels, slower in ncnn's int8 than in float"
    return None


def _kernel(line: Layer) -> str:
    return f"{line.integer(11, line.integer(1))}x{line.integer(1)}"


def _blockers(
    line: Layer, taken: Mapping[str, Sequence[Layer | None]], factors: Mapping[str, np.float32]
) -> tuple[Blocker, ...]:
    """``factors``: the input scale of every int8 layer, ncnn's; ``taken``: the consumers of every blob."""
    if line.kind not in CHAINED:
        return (Blocker(f"what takes {line.kind}'s float", f"{line.kind} always gives float"),)
    found: dict[Blocker, None] = {}     # a set that keeps its order
    for blob in line.produces:
        for consumer in taken[blob]:
            if consumer is None:
                found[Blocker("outputs", "feeds an output")] = None
            elif consumer.kind not in CHAINED:
                found[Blocker(consumer.kind, f"feeds {consumer.kind} {consumer.name}")] = None
            elif consumer.name not in factors:
                found[Blocker("float convolutions", f"its consumer {consumer.name} stays float")] = None
    if not found:
        different = {c.name: factors[c.name] for blob in line.produces for c in taken[blob] if c is not None}
        if len(set(different.values())) > 1:
            each = ", ".join(f"{name} {1 / factor:.4g}" for name, factor in different.items())
            found[Blocker("different scales", f"its consumers have different scales: {each}")] = None
    return tuple(found)


def _check(scales: LayerScales) -> None:
    name = scales.name
    steps = np.append(scales.weight_scale, scales.input_scale)
    if scales.weight_scale.shape != scales.weight.shape[:1] or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ConversionError(
            f"layer {name} has no positive scale for each of its {len(scales.weight)} outputs and its input: "
            "quantize the checkpoint again"
        )
    integers = scales.weight / scales.weight_scale.reshape(-1, *(1,) * (scales.weight.ndim - 1))
    rounded = np.rint(integers)
    off = float(np.abs(integers - rounded).max(initial=0.0))
    if not off <= _BAKED_WITHIN or np.abs(rounded).max(initial=0.0) > Q_MAX:
        raise ConversionError(
            f"layer {name} has weights that are no multiples of its scales within +-{Q_MAX} (off by {off:.2g} of a "
            "step): quantize the checkpoint again"
        )


def _input_factor(scales: LayerScales) -> np.float32:
    """ncnn's input scale, the inverse of the network's."""
    factor: np.float32 = np.float32(1 / float(np.float32(scales.input_scale)))
    return factor


def _in_int8(layer: ModelLayer, scales: LayerScales, output_scale: np.float32 | None) -> ModelLayer:
    assert isinstance(layer.weight, np.ndarray)
    line = layer.line
    if line.kind == "ConvolutionDepthWise" and line.integer(7, 1) != line.outputs:
        raise ConversionError(
            f"layer {scales.name}: ncnn has one scale a group, and this one has {line.integer(7, 1)} groups for "
            f"{line.outputs} outputs: keep it in float (--keep-float {scales.name})"
        )
    term = INT8_KINDS[line.kind] + (REQUANTISES if output_scale is not None else 0)
    return replace(
        layer,
        line=replace(line, params={**line.params, INT8_TERM: str(term)}),
        weight=Int8(
            scales.integers.reshape(layer.weight.shape),
            (1 / scales.weight_scale.astype(np.float64)).astype(np.float32),
            _input_factor(scales),
            output_scale,
        ),
    )
