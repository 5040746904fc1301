"""An ncnn model as objects, and how they are written: the text of a .param and the content of its .bin."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.engines.ncnn_files import INT8_TERM, MAGIC, TAG_FLOAT32, TAG_INT8, Layer

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
