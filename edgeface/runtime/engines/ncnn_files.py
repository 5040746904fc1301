"""An ncnn .param and .bin as text and bytes: their layout, and the checks before ncnn reads them.

A bad model can end the process, and not at load only, so nothing that does not add up reaches ncnn.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle.schema import MAX_FILE_BYTES
from edgeface.errors import EngineError
from edgeface.regular_files import read_regular

MAGIC = "7767517"
TAG_FLOAT32 = 0
TAG_FLOAT16 = 0x01306B47
TAG_INT8 = 0x000D4B38
_FLOAT32_TAGS = frozenset({TAG_FLOAT32, 0x0002C056})
# Layers whose weights are <tag, weights, bias>, by the param keys of (outputs, has bias, number of weights).
WEIGHTED = {
    "Convolution": (0, 5, 6),
    "ConvolutionDepthWise": (0, 5, 6),
    "Deconvolution": (0, 5, 6),
    "DeconvolutionDepthWise": (0, 5, 6),
    "InnerProduct": (0, 1, 2),
}
# Plain float32 without a tag: how many, by the layer's param keys.
_UNTAGGED = {"PReLU": (0, 1), "BatchNorm": (0, 4), "Normalize": (3, 1)}
_WEIGHTLESS = frozenset({
    "BinaryOp", "Clip", "Concat", "Crop", "Dropout", "Eltwise", "Flatten", "HardSigmoid", "HardSwish", "Input",
    "Interp", "Noop", "Padding", "Permute", "Pooling", "ReLU", "Reshape", "ShuffleChannel", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "Swish", "TanH", "UnaryOp",
})
# A text of some hundred layers has some 50 kB.
_MAX_PARAM_BYTES = 8 << 20
INT8_TERM = 8       # the param key that says a layer has int8 weights and scales
INT8_KINDS = {"Convolution": 2, "InnerProduct": 2, "ConvolutionDepthWise": 1}     # and its value without requantisation
REQUANTISES = 100   # what is added to it when the layer's output is int8 as well; fully connected layers cannot
CHAINED = ("Convolution", "ConvolutionDepthWise")   # what takes an int8 input as it comes


@dataclass(frozen=True)
class Layer:
    """One line of a .param; ``params`` by key, values as written."""

    kind: str
    name: str
    consumes: Sequence[str]
    produces: Sequence[str]
    params: Mapping[int, str]

    def integer(self, key: int, otherwise: int = 0) -> int:
        """An integer parameter, ``otherwise`` where the line leaves it out, as in ncnn; raises ValueError."""
        return int(self.params.get(key, otherwise))

    @property
    def outputs(self) -> int:
        """Output channels of a layer of WEIGHTED."""
        return self.integer(WEIGHTED[self.kind][0])

    @property
    def requantises(self) -> bool:
        """The layer's output is int8, so that only int8 convolutions can take it."""
        return self.kind in INT8_KINDS and self.integer(INT8_TERM) >= REQUANTISES


@dataclass(frozen=True)
class Part:
    """An array in a .bin. Each begins at a multiple of 4 bytes."""

    name: str
    dtype: str
    count: int

    @property
    def size_bytes(self) -> int:
        return (np.dtype(self.dtype).itemsize * self.count + 3) // 4 * 4


def check_files(param: Path, weights: Path) -> None:
    """Check the graph of ``param`` and, as far as every kind of layer in it is known here, the layout of ``weights``.

    Raises EngineError with the file's name.
    """
    try:
        text = read_regular(param, _MAX_PARAM_BYTES).decode("ascii")
    except UnicodeDecodeError:
        raise EngineError(f"{param}: not a text .param: copy the bundle again") from None
    except OSError as error:
        raise EngineError(f"{param}: {error.strerror}: copy the bundle again") from None
    try:
        layers = parse_param(text)
        _check_int8_flow(layers)
    except ValueError as error:
        raise EngineError(f"{param}: damaged or not an ncnn .param ({error}): copy the bundle again") from None
    try:
        content = read_regular(weights, MAX_FILE_BYTES)
    except OSError as error:
        raise EngineError(f"{weights}: {error.strerror}: copy the bundle again") from None
    try:
        expected = _check_parts(layers, content)
    except ValueError as error:
        raise EngineError(f"{weights}: does not fit {param.name} ({error}): copy the bundle again") from None
    if expected is not None and len(content) != expected:
        raise EngineError(f"{weights}: {len(content)} bytes, but {param.name} needs {expected}: copy the bundle again")


def parse_param(text: str) -> list[Layer]:
    """The layers of a text .param in its order, blobs made before they are consumed; raises ValueError."""
    try:
        return _parse(text)
    except IndexError as error:
        raise ValueError(str(error)) from None


def _parse(text: str) -> list[Layer]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if lines[0] != [MAGIC]:
        raise ValueError("its first line is not the magic number")
    layer_count, blob_count = (int(field) for field in lines[1])
    if len(lines) - 2 != layer_count:
        raise ValueError(f"{len(lines) - 2} layers, but its second line says {layer_count}")
    layers = [_parse_layer(fields) for fields in lines[2:]]
    blobs: set[str] = set()
    for layer in layers:
        for blob in layer.consumes:
            if blob not in blobs:
                raise ValueError(f"layer {layer.name} consumes blob {blob} before anything makes it")
        for blob in layer.produces:
            if blob in blobs:
                raise ValueError(f"two layers make blob {blob}")
            blobs.add(blob)
    if len(blobs) != blob_count:
        raise ValueError(f"{len(blobs)} blobs, but its second line says {blob_count}")
    return layers


def _parse_layer(fields: list[str]) -> Layer:
    kind, name, consumed, produced = fields[0], fields[1], int(fields[2]), int(fields[3])
    first_param = 4 + consumed + produced
    if consumed < 0 or produced < 0 or len(fields) < first_param:
        raise ValueError(f"layer {name} names fewer blobs than it counts")
    params = {}
    for field in fields[first_param:]:
        key, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"layer {name} has a parameter without a value")
        params[int(key)] = value
    layer = Layer(kind, name, fields[4 : 4 + consumed], fields[4 + consumed : first_param], params)
    if kind in WEIGHTED:
        _check_counts(layer)
        _check_int8_term(layer)
    return layer


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """(O, I / groups, kh, kw) of a convolution's weight, (O, I) of a fully connected layer's; raises ValueError."""
    outputs, _, count = (layer.integer(key) for key in WEIGHTED[layer.kind])
    kernel: tuple[int, ...] = ()
    if layer.kind != "InnerProduct":
        kernel_w = layer.integer(1)
        kernel = (layer.integer(11) or kernel_w, kernel_w)
    area = math.prod(kernel)
    if outputs < 1 or area < 1 or count < 1 or count % (outputs * area):
        raise ValueError(f"layer {layer.name} has {count} weights for {outputs} outputs")
    return (outputs, count // (outputs * area), *kernel)


def _check_counts(layer: Layer) -> None:
    weight_shape(layer)
    if layer.kind.endswith("DepthWise"):
        groups = layer.integer(7, 1)
        if groups < 1 or layer.outputs % groups:
            raise ValueError(f"layer {layer.name} has {groups} groups for {layer.outputs} outputs")


def _check_int8_term(layer: Layer) -> None:
    term = layer.integer(INT8_TERM)
    plain = INT8_KINDS.get(layer.kind, 0)
    known = {0, plain, plain + REQUANTISES} if layer.kind in CHAINED else {0, plain}
    if term not in known:
        raise ValueError(f"layer {layer.name} has {INT8_TERM}={term}, which is unknown for {layer.kind}")


def consumers(layers: Sequence[Layer]) -> dict[str, list[Layer | None]]:
    """Who takes each blob, through Split layers; None stands for the net's caller, who takes what nobody else does."""
    direct: dict[str, list[Layer]] = {}
    for layer in layers:
        for blob in layer.consumes:
            direct.setdefault(blob, []).append(layer)
    taken: dict[str, list[Layer | None]] = {}
    for layer in reversed(layers):      # a blob's consumers come after its producer
        for blob in layer.produces:
            through: list[Layer | None] = []
            for consumer in direct.get(blob, []):
                through += [c for b in consumer.produces for c in taken[b]] if consumer.kind == "Split" else [consumer]
            taken[blob] = through or [None]
    return taken


def _check_int8_flow(layers: Sequence[Layer]) -> None:
    taken = consumers(layers)
    for layer in layers:
        if not layer.requantises:
            continue
        for blob in layer.produces:
            for consumer in taken[blob]:
                if consumer is None or consumer.kind not in CHAINED or not consumer.integer(INT8_TERM):
                    name = "the net's caller" if consumer is None else consumer.name
                    raise ValueError(f"layer {layer.name} gives int8 to {name}, which takes float")


def read_parts(layers: Sequence[Layer], content: bytes) -> Iterator[tuple[Layer, dict[str, NDArray[Any]]]]:
    """Each layer with its arrays in a .bin's ``content``, flat and read-only, by ``Part.name``.

    Ends before the first layer whose layout is unknown here. Raises ValueError where ``content`` does not fit.
    """
    offset = 0
    for layer in layers:
        parts = untagged_parts(layer)
        if layer.kind in WEIGHTED:
            parts = weight_parts(layer, _tag(layer, content, offset))
            offset += 4
        elif parts is None:
            return
        arrays = {}
        for part in parts:
            if offset + part.size_bytes > len(content):
                raise ValueError(f"it ends within layer {layer.name}")
            arrays[part.name] = np.frombuffer(content, part.dtype, part.count, offset)
            offset += part.size_bytes
        yield layer, arrays


def untagged_parts(layer: Layer) -> list[Part] | None:
    """What a layer that is not in WEIGHTED reads from the .bin; None where that is unknown here."""
    if layer.kind in _WEIGHTLESS:
        return []
    if layer.kind not in _UNTAGGED:
        return None
    key, arrays = _UNTAGGED[layer.kind]
    count = arrays * layer.integer(key)
    if count < 1:
        raise ValueError(f"layer {layer.name} has {count} values")
    return [Part("values", "<f4", count)]


def weight_parts(layer: Layer, tag: int) -> list[Part]:
    """What a layer of WEIGHTED reads from the .bin after its tag; raises ValueError."""
    _, has_bias, count = (layer.integer(key) for key in WEIGHTED[layer.kind])
    int8 = layer.integer(INT8_TERM) != 0
    if int8 != (tag == TAG_INT8):
        raise ValueError(f"layer {layer.name} has {'no ' if int8 else ''}int8 weights, unlike its {INT8_TERM}=")
    dtypes = {TAG_FLOAT16: "<f2", TAG_INT8: "|i1", **dict.fromkeys(_FLOAT32_TAGS, "<f4")}
    if tag not in dtypes:
        raise ValueError(f"layer {layer.name} has weights of unknown type {tag:#x}")
    parts = [Part("weight", dtypes[tag], count)]
    if has_bias:
        parts.append(Part("bias", "<f4", layer.outputs))
    if int8:
        scales = layer.integer(7, 1) if layer.kind == "ConvolutionDepthWise" else layer.outputs
        parts += [Part("weight_scale", "<f4", scales), Part("input_scale", "<f4", 1)]
    if layer.requantises:
        parts.append(Part("output_scale", "<f4", 1))
    return parts


def _tag(layer: Layer, content: bytes, offset: int) -> int:
    try:
        (tag,) = struct.unpack_from("<I", content, offset)
    except struct.error:
        raise ValueError(f"it ends before layer {layer.name}") from None
    return int(tag)


def _check_parts(layers: Sequence[Layer], content: bytes) -> int | None:
    """Bytes that the layers read; None where one of them is of a kind that is not counted here."""
    known = size_bytes = 0
    for layer, arrays in read_parts(layers, content):
        known += 1
        size_bytes += 4 if layer.kind in WEIGHTED else 0
        for name, values in arrays.items():
            size_bytes += Part(name, values.dtype.str, values.size).size_bytes
            if name.endswith("scale") and not (np.isfinite(values).all() and (values > 0).all()):
                raise ValueError(f"layer {layer.name} has no positive {name.replace('_', ' ')}")
    return size_bytes if known == len(layers) else None
