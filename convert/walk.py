"""Walking a network that departed from its checkpoint: the first layer, in the network's order, whose output is wrong.

Exporters rename layers, so a file's layers are found by the content of their weights; what is left over, which a
damaged layer is, by shape and order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeface.bundle import Bundle, file_sets
from edgeface.errors import ConversionError, EdgefaceError
from edgeface.int8.scales import Q_MAX
from edgeface.runtime.engines import Session
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.stages.kind import Sight, Trial
from edgeface.runtime.stages.kinds import kind_of
from edgeface.torch_engine import TorchSession

from .parity import Departure, Floats, Walk, sqnr_db
from .raw import Sessions
from .traces import FoundLayer, trace

# What a layer must reach on the inputs that the engine itself gives it, where only its own arithmetic can differ.
LEAST_DB = {"fp32": 80.0, "fp16": 40.0, "int8": 30.0}
# Rounding adds up from layer to layer, little by little; what is wrong between two convolutions is a fall.
FALL_DB = 25.0
# Half precision keeps a weight within 0.05 % of itself and an int8 file exactly what was baked: this is between that
# and another layer's weights, whose difference is as large as they are.
_SAME_WEIGHTS = 0.01


@dataclass(frozen=True)
class Layer:
    """A convolution of the reference: its weight (O, I / groups, kh, kw), what it gave, (C, H, W), and the shape of
    what it was given. ``compute`` gives its output for another input of that shape."""

    name: str
    weight: Floats
    padding: int
    input_shape: tuple[int, ...]
    output: Floats
    compute: Callable[[Floats], Floats]


def walk(
    reference: Bundle, sessions: Sessions, candidate: Bundle, directory: Path, sight: Sight
) -> Walk:
    """Compare every convolution of ``candidate`` in ``directory`` with the torch networks ``sessions``, in one sight.

    Both are bundles of one model. Where the layers cannot be looked into, the walk's ``obstacle`` says why.
    """
    try:
        return _walk(reference, sessions, candidate, directory, sight)
    except EdgefaceError as error:
        # The report that this is for must not be lost with it.
        return Walk(0, None, None, obstacle=str(error))


def _walk(
    reference: Bundle, sessions: Sessions, candidate: Bundle, directory: Path, sight: Sight
) -> Walk:
    count, least = 0, None
    for session, files, input_name, trial in _nets(reference, sessions, candidate, directory, sight):
        assert isinstance(session, TorchSession)
        wanted = layers_of(session, trial.x)
        found = trace(candidate, candidate.folder(directory, files), files, input_name, trial.z)
        result = first_departure(trial.name, wanted, found, candidate.precision)
        count += result.layers
        if result.departure is not None:
            return Walk(count, result.least_db, result.departure)
        least = _least(least, result.least_db)
    return Walk(count, least, None)


def _nets(
    reference: Bundle, sessions: Sessions, candidate: Bundle, directory: Path, sight: Sight
) -> Iterator[tuple[Session, Sequence[str], str, Trial]]:
    """(torch session, candidate's files, its input's name, what they are tried on)."""
    opened = open_sessions(directory, candidate, 1)
    for stage, own, nets, others in zip(reference.stages, candidate.stages, sessions, opened, strict=True):
        kind = kind_of(stage)
        for trial in kind.trials(reference, stage, (nets, others), sight):
            yield nets[trial.net], file_sets(own)[trial.net], own.input, trial
        if kind.gives_maps:
            run = nets[0].run(trial.x)
            sight.maps = {name: run.output(name) for name in trial.outputs}


def layers_of(session: TorchSession, x: Floats) -> list[Layer]:
    """Every convolution that ``session`` runs on ``x`` (C, H, W), in the order in which it runs them."""
    import torch

    from edgeface.int8.fake import fake_quantise_weight
    from edgeface.int8.modules import FoldedConv, Signal, Sums

    module = session.graph.module
    layers: list[Layer] = []
    kinds = FoldedConv, torch.nn.Conv2d     # a network that has no int8 form has plain ones
    names = {conv: name for name, conv in module.named_modules() if isinstance(conv, kinds)}

    def real(output: torch.Tensor | Sums) -> Floats:
        if isinstance(output, Sums):
            output = output.values * output.steps[:, None, None]
        values: Floats = output[0].float().cpu().numpy()
        return values

    def note(
        conv: torch.nn.Module, inputs: tuple[Signal | torch.Tensor, ...], output: torch.Tensor | Sums
    ) -> None:
        assert isinstance(conv, kinds)
        (given,) = inputs

        def compute(values: Floats) -> Floats:
            with torch.inference_mode():
                x = torch.from_numpy(values)[None].to(conv.weight.device)
                return real(conv(Signal(x, given.point) if isinstance(given, Signal) else x))

        weight = conv.weight
        padding = conv.padding if isinstance(conv.padding, int) else int(conv.padding[0])
        if isinstance(conv, FoldedConv) and conv.mode != "float" and conv.int8:
            weight = fake_quantise_weight(weight)
        shape = (given.value if isinstance(given, Signal) else given).shape
        layers.append(
            Layer(
                names[conv].removeprefix("net."), weight.detach().cpu().numpy(), padding, tuple(shape[1:]),
                real(output).copy(), compute,
            )
        )

    handles = [conv.register_forward_hook(note) for conv in names]
    try:
        session.compute(x)
    finally:
        for handle in handles:
            handle.remove()
    return layers


def first_departure(net: str, wanted: Sequence[Layer], found: Sequence[FoundLayer], precision: str) -> Walk:
    """Hold each of ``wanted``, a net's layers in its order, against its partner in ``found``.

    A layer departs when it gives other values than torch's layer does for the same input, or when what it is given has
    got far worse since the layer before. Raises ConversionError when a layer has no partner of its shape.
    """
    own_least: float | None = None
    least: float | None = None
    for layer, (other, same) in zip(wanted, pair(wanted, found), strict=True):
        given = _without_padding(other.input, layer)
        own = _compared(layer.compute(given), other)
        if own is not None and not own >= LEAST_DB[precision]:
            departure = Departure(net, layer.name, other.name, own, own_least, same, by_itself=True)
            return Walk(len(wanted), own, departure)
        own_least = _least(own_least, own)
        whole = _compared(layer.output, other)
        if whole is not None and not whole >= min(LEAST_DB[precision], math.inf if least is None else least) - FALL_DB:
            departure = Departure(net, layer.name, other.name, whole, least, same, by_itself=False)
            return Walk(len(wanted), whole, departure)
        least = _least(least, whole)
    return Walk(len(wanted), own_least, None)


def _least(so_far: float | None, decibel: float | None) -> float | None:
    return min((d for d in (so_far, decibel) if d is not None), default=None)


def _without_padding(values: Floats, layer: Layer) -> Floats:
    """An engine's input (C, H, W) of ``layer`` as torch's; engines may pad in an operation before it."""
    if values.shape == layer.input_shape:
        return values
    begin, (_, height, width) = layer.padding, layer.input_shape
    inner = values[:, begin : begin + height, begin : begin + width]
    if inner.shape != layer.input_shape:
        raise ConversionError(f"layer {layer.name} is given {values.shape}, in torch {layer.input_shape}")
    return np.ascontiguousarray(inner)


def _compared(reference: Floats, found: FoundLayer) -> float | None:
    """SQNR in dB of a layer's output, None where it is equal.

    The reference is rounded as the output is. A side that has no negative value at all has its ReLU in the layer, so
    that the other's is applied here.
    """
    if reference.shape != found.output.shape:
        raise ConversionError(f"layer {found.name} gives {found.output.shape}, in torch {reference.shape}")
    y, z = reference.astype(np.float64), found.output.astype(np.float64)
    if y.min() >= 0 or z.min() >= 0:
        y, z = np.maximum(y, 0), np.maximum(z, 0)
    if found.step is not None:
        y = np.rint(y / found.step).clip(-Q_MAX - 1, Q_MAX) * found.step
    return sqnr_db(float((y * y).sum()), float(((y - z) ** 2).sum()))


def pair(wanted: Sequence[Layer], found: Sequence[FoundLayer]) -> list[tuple[FoundLayer, bool]]:
    """The partner of each of ``wanted``, and whether it has the same weights; raises ConversionError."""
    partners: list[FoundLayer | None] = [None] * len(wanted)
    same = [False] * len(wanted)
    free = list(range(len(found)))
    for by_content in (True, False):
        for i, layer in enumerate(wanted):
            if partners[i] is not None:
                continue
            for j in free:
                if by_content and not _has_weights(found[j], layer.weight):
                    continue
                if not by_content and found[j].weight.size != layer.weight.size:
                    continue
                partners[i], same[i] = found[j], by_content
                free.remove(j)
                break
    missing = [layer.name for layer, partner in zip(wanted, partners, strict=True) if partner is None]
    if missing:
        raise ConversionError(f"the file has no layer of the shape of {missing[0]}")
    return [(partner, s) for partner, s in zip(partners, same, strict=True) if partner is not None]


def _has_weights(found: FoundLayer, weight: Floats) -> bool:
    if found.weight.size != weight.size or len(found.weight) != len(weight):
        return False
    difference = np.linalg.norm(found.weight.ravel() - weight.ravel())
    return bool(difference <= _SAME_WEIGHTS * np.linalg.norm(weight))
