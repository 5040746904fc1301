"""An ncnn model from its files: a .param's layers with their arrays from the .bin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ConversionError
from edgeface.runtime.engines.ncnn_files import WEIGHTED, Layer, parse_param, read_parts, weight_shape
from edgeface.runtime.engines.ncnn_layers import Floats, Int8, ModelLayer


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
