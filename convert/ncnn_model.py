"""An ncnn model as objects: a .param's layers with their arrays from the .bin, read, changed and written again."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ConversionError
from edgeface.runtime.engines.ncnn_files import (
    INT8_TERM,
    MAGIC,
    TAG_FLOAT32,
    TAG_INT8,
    WEIGHTED,
    Layer,
    parse_param,
    read_parts,
    weight_shape,
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Int8:
    """What an int8 layer has instead of float weights. Scales are ncnn's: integer = scale * real value.

    ``integers`` int8 (O, I / groups, kh, kw) or (O, I); ``weight_scale`` float32 (O,), one a group where depthwise;
    ``output_scale`` None where the layer gives float.
    """

    integers: NDArray[np.int8]
    weight_scale: Floats
    input_scale: np.float32
    output_scale: np.float32 | None


@dataclass(frozen=True)
class ModelLayer:
    """A layer with its arrays. ``weight``, float32 or Int8, is a convolution's or a fully connected layer's.

    ``bias`` float32 (O,); ``values`` float32, flat, is what a layer of another kind reads from the .bin.
    """

    line: Layer
    weight: Floats | Int8 | None = None
    bias: Floats | None = None
    values: Floats | None = None

    @property
    def name(self) -> str:
        return self.line.name


def read(param: str, content: bytes) -> list[ModelLayer]:
    """The layers of a text .param and its .bin's ``content``; half precision weights become float32.

    Raises ConversionError when they do not fit together, or hold a layer whose layout is unknown here.
    """
    try:
        lines = parse_param(param)
        model = [
            ModelLayer(
                line, _weight(line, arrays) if line.kind in WEIGHTED else None, arrays.get("bias"),
                arrays.get("values"),
            )
            for line, arrays in read_parts(lines, content)
        ]
    except ValueError as error:
        raise ConversionError(f"the ncnn model from pnnx cannot be read ({error}): try another pnnx") from None
    if len(model) < len(lines):
        line = lines[len(model)]
        raise ConversionError(
            f"layer {line.name}: {line.kind} cannot be part of an int8 ncnn model here: "
            "use convolutions, fully connected layers and PReLU, or --precision fp16"
        )
    return model


def _weight(line: Layer, arrays: Mapping[str, NDArray[Any]]) -> Floats | Int8:
    weight = arrays["weight"].reshape(weight_shape(line))
    if weight.dtype != np.int8:
        return weight.astype(np.float32)
    output_scale = arrays["output_scale"][0] if "output_scale" in arrays else None
    return Int8(weight, arrays["weight_scale"], arrays["input_scale"][0], output_scale)


def to_param(layers: Sequence[Layer]) -> str:
    """The text of a .param."""
    blobs = sum(len(layer.produces) for layer in layers)
    lines = [MAGIC, f"{len(layers)} {blobs}"]
    for layer in layers:
        params = [f"{key}={value}" for key, value in layer.params.items()]
        counts = [str(len(layer.consumes)), str(len(layer.produces))]
        fields = [*counts, *layer.consumes, *layer.produces, *params]
        lines.append(f"{layer.kind:<24} {layer.name:<24} {' '.join(fields)}")
    return "\n".join(lines) + "\n"


def to_bin(model: Sequence[ModelLayer]) -> bytes:
    """The content of a .bin that fits ``to_param`` of the layers' lines; float weights are stored as float32."""
    parts: list[bytes] = []
    for layer in model:
        if isinstance(layer.weight, Int8):
            assert layer.line.integer(INT8_TERM)
            parts += [struct.pack("<I", TAG_INT8), _padded(layer.weight.integers)]
        elif layer.weight is not None:
            parts += [struct.pack("<I", TAG_FLOAT32), _floats(layer.weight)]
        if layer.bias is not None:
            parts.append(_floats(layer.bias))
        if isinstance(layer.weight, Int8):
            parts += [_floats(layer.weight.weight_scale), _floats(layer.weight.input_scale)]
            if layer.weight.output_scale is not None:
                parts.append(_floats(layer.weight.output_scale))
        if layer.values is not None:
            parts.append(_floats(layer.values))
    return b"".join(parts)


def _padded(integers: NDArray[np.int8]) -> bytes:
    content = integers.astype(np.int8).tobytes()
    return content + bytes(-len(content) % 4)


def _floats(values: Floats | np.float32) -> bytes:
    return np.asarray(values, "<f4").tobytes()
