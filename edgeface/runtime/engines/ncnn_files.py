"""Checks of an ncnn .param and .bin before ncnn reads them: a bad model can end the process, and not at load only."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgeface.errors import EngineError

_MAGIC = "7767517"
_FLOAT32 = frozenset({0, 0x0002C056})
_FLOAT16 = 0x01306B47
# Layers whose weights are <tag, weights, bias>, by the param keys of (outputs, has bias, number of weights).
_WEIGHTED = {
    "Convolution": (0, 5, 6),
    "ConvolutionDepthWise": (0, 5, 6),
    "Deconvolution": (0, 5, 6),
    "DeconvolutionDepthWise": (0, 5, 6),
    "InnerProduct": (0, 1, 2),
}
_WEIGHTLESS = frozenset({
    "BinaryOp", "Clip", "Concat", "Crop", "Dropout", "Eltwise", "Flatten", "HardSigmoid", "HardSwish", "Input",
    "Interp", "Noop", "Padding", "Permute", "Pooling", "ReLU", "Reshape", "ShuffleChannel", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "Swish", "TanH", "UnaryOp",
})
_INT8 = 8       # the param key that says a layer has int8 weights and scales


@dataclass(frozen=True)
class _Layer:
    kind: str
    name: str
    consumes: list[str]
    produces: list[str]
    params: Mapping[int, str]

    def integer(self, key: int) -> int:
        """An integer parameter, 0 where the line leaves it out, as in ncnn; raises ValueError."""
        return int(self.params.get(key, "0"))


def check_files(param: Path, weights: Path) -> None:
    """Check the graph of ``param`` and, where every kind of layer in it is known here, the size of ``weights``.

    Raises EngineError with the file's name.
    """
    try:
        text = param.read_text("ascii")
    except UnicodeDecodeError:
        raise EngineError(f"{param}: not a text .param: copy the bundle again") from None
    except OSError as error:
        raise EngineError(f"{param}: {error.strerror}: copy the bundle again") from None
    try:
        layers = _parse(text)
    except (ValueError, IndexError) as error:
        raise EngineError(f"{param}: damaged or not an ncnn .param ({error}): copy the bundle again") from None
    try:
        with weights.open("rb") as stream:
            expected = _expected_bytes(layers, stream)
        actual = weights.stat().st_size
    except OSError as error:
        raise EngineError(f"{weights}: {error.strerror}: copy the bundle again") from None
    except (ValueError, struct.error) as error:
        raise EngineError(f"{weights}: does not fit {param.name} ({error}): copy the bundle again") from None
    if expected is not None and actual != expected:
        raise EngineError(f"{weights}: {actual} bytes, but {param.name} needs {expected}: copy the bundle again")


def _parse(text: str) -> list[_Layer]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if lines[0] != [_MAGIC]:
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


def _parse_layer(fields: list[str]) -> _Layer:
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
    layer = _Layer(kind, name, fields[4 : 4 + consumed], fields[4 + consumed : first_param], params)
    if kind in _WEIGHTED:
        _check_counts(layer)
    return layer


def _check_counts(layer: _Layer) -> None:
    outputs, _, count = (layer.integer(key) for key in _WEIGHTED[layer.kind])
    kernel = 1
    if layer.kind != "InnerProduct":
        kernel_w = layer.integer(1)
        kernel = kernel_w * (layer.integer(11) or kernel_w)
    if outputs < 1 or kernel < 1 or count < 1 or count % (outputs * kernel):
        raise ValueError(f"layer {layer.name} has {count} weights for {outputs} outputs")


def _expected_bytes(layers: list[_Layer], stream: BinaryIO) -> int | None:
    """Bytes that the layers read; None where one of them is of a kind that is not counted here."""
    offset = 0
    for layer in layers:
        if layer.kind in _WEIGHTLESS:
            continue
        if layer.kind not in _WEIGHTED or layer.integer(_INT8):
            return None
        outputs, has_bias, count = (layer.integer(key) for key in _WEIGHTED[layer.kind])
        stream.seek(offset)
        (tag,) = struct.unpack("<I", stream.read(4))
        offset += 4 + _size_of(tag, layer)(count) + (4 * outputs if has_bias else 0)
    return offset


def _size_of(tag: int, layer: _Layer) -> Callable[[int], int]:
    if tag in _FLOAT32:
        return lambda count: 4 * count
    if tag == _FLOAT16:
        return lambda count: (2 * count + 3) // 4 * 4
    raise ValueError(f"layer {layer.name} has weights of unknown type {tag:#x}")
