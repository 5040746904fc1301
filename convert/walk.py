"""Walking a network that departed from its checkpoint: the first layer, in the network's order, whose output is wrong.

Exporters rename layers, so a file's layers are found by the content of their weights; what is left over, which a
damaged layer is, by shape and order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, PoseStage
from edgeface.errors import ConversionError, EdgefaceError
from edgeface.runtime.detector import map_names, net_input
from edgeface.runtime.engines import Options, Session
from edgeface.runtime.engines.torch import TorchSession
from edgeface.runtime.preprocess import letterbox

from .parity import Departure, Floats, Walk, sqnr_db
from .pictures import Image
from .raw import FACES, Sessions, strongest_patches
from .traces import FoundLayer, trace

# A layer departs when it is not finite or under this, or falls this far below the worst layer before it.
LEAST_DB = 20.0
DROP_DB = 30.0
# Half precision keeps a weight within 0.05 % of itself and an int8 file exactly what was baked: this is between that
# and another layer's weights, whose difference is as large as they are.
_SAME_WEIGHTS = 0.01


@dataclass(frozen=True)
class Layer:
    """A convolution of the reference, its weight (O, I / groups, kh, kw) and what it gave, (C, H, W)."""

    name: str
    weight: Floats
    output: Floats


def walk(
    reference: Bundle, sessions: Sessions, candidate: Bundle, directory: Path, image: Image, size_px: int
) -> Walk:
    """Compare every convolution of ``candidate`` in ``directory`` with the torch networks ``sessions``, on one picture.

    Both are bundles of one model. The dense net sees ``image`` (H, W, 3) at ``size_px``, a pose net the features of
    its strongest positions. Where the layers cannot be looked into, the walk's ``obstacle`` says why.
    """
    try:
        return _walk(reference, sessions, candidate, directory, image, size_px)
    except EdgefaceError as error:
        # The report that this is for must not be lost with it.
        return Walk(0, None, None, obstacle=str(error))


def _walk(
    reference: Bundle, sessions: Sessions, candidate: Bundle, directory: Path, image: Image, size_px: int
) -> Walk:
    count, least = 0, None
    for net, session, files, input_name, x, z in _nets(reference, sessions, candidate, directory, image, size_px):
        assert isinstance(session, TorchSession)
        wanted = layers_of(session, x)
        found = trace(candidate, directory, files, input_name, z)
        result = first_departure(net, wanted, found)
        count += result.layers
        if result.departure is not None:
            return Walk(count, result.least_db, result.departure)
        if result.least_db is not None:
            least = result.least_db if least is None else min(least, result.least_db)
    return Walk(count, least, None)


def _nets(
    reference: Bundle, sessions: Sessions, candidate: Bundle, directory: Path, image: Image, size_px: int
) -> Iterator[tuple[str, Session, Sequence[str], str, Floats, NDArray[np.generic]]]:
    """(name, torch session, candidate's files, its input's name, input of torch's net, input of the candidate's)."""
    from edgeface.runtime import engines

    dense = reference.dense
    pixels = letterbox(image, size_px, dense.multiple).pixels
    open_net = engines.engine.get(candidate.engine)
    opened = open_net(directory, candidate.dense.files, candidate.dense.input, Options(1, candidate.precision))
    x = net_input(sessions[0][0], dense, pixels)
    yield "the dense net", sessions[0][0], candidate.dense.files, candidate.dense.input, x, net_input(
        opened, dense, pixels
    )
    run = sessions[0][0].run(x)
    maps = {name: run.output(name) for name in map_names(dense)}
    for stage, own, nets in zip(reference.stages[1:], candidate.stages[1:], sessions[1:], strict=True):
        assert isinstance(stage, PoseStage)
        assert isinstance(own, PoseStage)
        for level, files, session in zip(dense.levels, own.files, nets, strict=True):
            patches = strongest_patches(maps, level, stage.patch, FACES[-1])
            yield f"the pose net of stride {level.stride}", session, files, own.input, patches, patches


def layers_of(session: TorchSession, x: Floats) -> list[Layer]:
    """Every convolution that ``session`` runs on ``x`` (C, H, W), in the order in which it runs them."""
    import torch
    from edgeface.quantize.fake import fake_quantise_weight
    from edgeface.quantize.modules import FoldedConv

    module = session.graph.module
    layers: list[Layer] = []
    names = {conv: name for name, conv in module.named_modules() if isinstance(conv, FoldedConv)}

    def note(conv: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        assert isinstance(conv, FoldedConv)
        is_float = conv.mode == "float" or not conv.int8
        weight = conv.weight if is_float else fake_quantise_weight(conv.weight)
        name = names[conv].removeprefix("net.")
        layers.append(Layer(name, weight.detach().cpu().numpy(), output[0].cpu().numpy().copy()))

    handles = [conv.register_forward_hook(note) for conv in names]
    try:
        session.compute(x)
    finally:
        for handle in handles:
            handle.remove()
    return layers


def first_departure(net: str, wanted: Sequence[Layer], found: Sequence[FoundLayer]) -> Walk:
    """Hold each of ``wanted``, a net's layers in its order, against its partner in ``found``.

    Raises ConversionError when a layer has no partner of its shape.
    """
    least: float | None = None
    for layer, (other, same) in zip(wanted, pair(wanted, found), strict=True):
        decibel = _compared(layer.output, other.output)
        bound = LEAST_DB if least is None else max(LEAST_DB, least - DROP_DB)
        if decibel is not None and not decibel >= bound:
            departure = Departure(net, layer.name, other.name, decibel, least, same)
            return Walk(len(wanted), decibel, departure)
        if decibel is not None:
            least = decibel if least is None else min(least, decibel)
    return Walk(len(wanted), least, None)


def _compared(reference: Floats, candidate: Floats) -> float | None:
    """SQNR in dB, None where they are equal. A side that has no negative value at all has its ReLU in the layer, so
    that the other's is applied here."""
    if reference.shape != candidate.shape:
        raise ConversionError(f"a layer gives {candidate.shape}, its partner {reference.shape}")
    y, z = reference.astype(np.float64), candidate.astype(np.float64)
    if y.min() >= 0 or z.min() >= 0:
        y, z = np.maximum(y, 0), np.maximum(z, 0)
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
