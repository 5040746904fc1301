"""Networks for ncnn from a few calls: shapes, layers and multiply-adds are worked out, weights are drawn at random.

Only what a network costs is wanted, and that does not depend on what its weights are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
from edgeface.runtime.engines.ncnn_layers import Int8, ModelLayer, to_bin, to_param

Activation = Literal["none", "relu", "sigmoid"]
Planes = tuple[int, int, int]

INPUT, OUTPUT = "data", "output"
# Of the weights that a benchmark network gets, wherever it is counted or timed.
SEED = 20240721
# benchncnn's options: packed layouts, Winograd, and half precision. An ARMv8.0-A cannot compute with it, but fully
# connected layers keep their weights in it there too, as they did when the published times were taken.
BENCHMARK_PRECISION = "fp16"
# What layers of WEIGHTED apply to their result, by ncnn's param key 9.
_ACTIVATIONS: dict[Activation, str | None] = {"none": None, "relu": "1", "sigmoid": "4"}
# One scale everywhere, so that neighbours can pass int8 on: values of unit variance seldom leave +-4.
_INT8_INPUT_SCALE = 127 / 4
_INT8_RMS = 127 / math.sqrt(3)      # of integers drawn evenly


@dataclass(frozen=True)
class Blob:
    """What a layer gives: ``shape`` is (C, H, W), or (C,) where all positions were gathered into one."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A finished graph without its weights.

    ``input_shape`` (C, H, W) float32 of the blob "data"; ``output_shape`` that of the blob "output"; ``macs``
    multiply-adds of convolutions and fully connected layers; ``parameters`` weights and biases of those.
    """

    layers: tuple[Layer, ...]
    input_shape: Planes
    output_shape: tuple[int, ...]
    macs: int
    parameters: int

    @property
    def is_int8(self) -> bool:
        """Whether it has int8 layers."""
        return any(layer.kind in INT8_KINDS and layer.integer(INT8_TERM) for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """All weights without biases, as the .bin holds them: 4 bytes each, or 1 where a layer is int8."""
        return sum(
            layer.integer(WEIGHTED[layer.kind][2]) * (1 if layer.integer(INT8_TERM) else 4)
            for layer in self.layers
            if layer.kind in WEIGHTED
        )

    def write(self, directory: Path, stem: str, *, seed: int) -> tuple[Path, Path]:
        """Write ``stem``.param and ``stem``.bin, with weights drawn from ``seed``, and return their paths.

        Half a gigabyte for VGG-16, written layer by layer. An OSError is the caller's to report.
        """
        param, weights = directory / f"{stem}.param", directory / f"{stem}.bin"
        param.write_text(to_param(self.layers), "ascii")
        with weights.open("wb") as file:
            for index, layer in enumerate(self.layers):
                file.write(to_bin([_drawn(layer, np.random.default_rng((seed, index)))]))
        return param, weights


def _drawn(layer: Layer, random: np.random.Generator) -> ModelLayer:
    if layer.kind not in WEIGHTED:
        return ModelLayer(layer)
    shape = weight_shape(layer)
    # He's initialisation keeps the variance from layer to layer, so that nothing overflows or becomes denormal.
    deviation = math.sqrt(2 / math.prod(shape[1:]))
    bias = np.zeros(layer.outputs, np.float32)
    if not layer.integer(INT8_TERM):
        weight = random.standard_normal(shape, np.float32)
        weight *= np.float32(deviation)
        return ModelLayer(layer, weight, bias)
    integers: NDArray[np.int8] = random.integers(-127, 127, shape, np.int8, endpoint=True)
    scales = layer.integer(7, 1) if layer.kind == "ConvolutionDepthWise" else layer.outputs
    weight_scale = np.full(scales, _INT8_RMS / deviation, np.float32)
    input_scale = np.float32(_INT8_INPUT_SCALE)
    return ModelLayer(
        layer, Int8(integers, weight_scale, input_scale, input_scale if layer.requantises else None), bias
    )


class Builder:
    """Adds layers one by one; each call takes and gives Blobs. A Blob may be used any number of times.

    ``int8``: convolutions have int8 weights, and requantise wherever all that follows takes int8, as ncnn's converter
    writes them.
    """

    def __init__(self, input_shape: Planes, *, int8: bool = False) -> None:
        self.input = Blob(INPUT, input_shape)
        self._int8 = int8
        self._layers: list[Layer] = []
        self._macs = self._parameters = 0
        channels, height, width = input_shape
        self._add("Input", [], [INPUT], {0: width, 1: height, 2: channels})

    def convolution(
        self, x: Blob, outputs: int, kernel: int, *, stride: int = 1, pad: int = 0, groups: int = 1,
        activation: Activation = "none",
    ) -> Blob:
        """A convolution with a bias, ``pad`` zeros on every side; on a (C,) blob it is a fully connected layer."""
        height, width = ((size + 2 * pad - kernel) // stride + 1 for size in (*x.shape, 1, 1)[1:3])
        weights = outputs * (x.shape[0] // groups) * kernel**2
        params: dict[int, int | str] = {0: outputs, 1: kernel, 3: stride, 4: pad, 5: 1, 6: weights}
        if groups > 1:
            params[7] = groups
        kind = "ConvolutionDepthWise" if groups > 1 else "Convolution"
        shape = (outputs, height, width) if len(x.shape) == 3 else (outputs,)
        return self._weighted(kind, x, shape, params, activation, int8=self._int8)

    def depthwise(
        self, x: Blob, kernel: int = 3, *, stride: int = 1, pad: int | None = None, activation: Activation = "none"
    ) -> Blob:
        """A convolution of each channel by itself, padded so that stride 1 keeps the size unless ``pad`` is given."""
        pad = kernel // 2 if pad is None else pad
        channels = x.shape[0]
        return self.convolution(
            x, channels, kernel, stride=stride, pad=pad, groups=channels, activation=activation
        )

    def dense(self, x: Blob, outputs: int, *, activation: Activation = "none", int8: bool = False) -> Blob:
        """A fully connected layer with a bias; of a whole (C, H, W) blob, or of a (C,) one."""
        params: dict[int, int | str] = {0: outputs, 1: 1, 2: outputs * math.prod(x.shape)}
        return self._weighted("InnerProduct", x, (outputs,), params, activation, int8=int8)

    def pool(
        self, x: Blob, kernel: int, stride: int, *, pad: int = 0, average: bool = False, valid: bool = False
    ) -> Blob:
        """Maximum or average of windows; those that stick out at the far side count too, unless ``valid``."""
        channels, *sizes = x.shape
        over = 0 if valid else stride - 1
        height, width = ((size + 2 * pad - kernel + over) // stride + 1 for size in sizes)
        params = {0: int(average), 1: kernel, 2: stride, 3: pad, 5: int(valid)}
        return self._simple("Pooling", [x], (channels, height, width), params)

    def global_average(self, x: Blob) -> Blob:
        """The mean of every channel: (C,)."""
        return self._simple("Pooling", [x], x.shape[:1], {0: 1, 4: 1})

    def add(self, x: Blob, y: Blob) -> Blob:
        """Their sum, by the layer that ONNX models have for it."""
        return self._simple("BinaryOp", [x, y], x.shape, {0: 0})

    def eltwise_sum(self, x: Blob, y: Blob) -> Blob:
        """Their sum, by the layer that Caffe models have for it."""
        return self._simple("Eltwise", [x, y], x.shape, {0: 1})

    def multiply(self, x: Blob, factor: Blob) -> Blob:
        """Their product; ``factor`` may be one number a channel: (C,), or (C, 1, 1)."""
        return self._simple("BinaryOp", [x, factor], x.shape, {0: 2})

    def concatenate(self, blobs: Sequence[Blob]) -> Blob:
        """All channels of the first, then all of the next."""
        _, *size = blobs[0].shape
        return self._simple("Concat", blobs, (sum(blob.shape[0] for blob in blobs), *size))

    def halves(self, x: Blob) -> tuple[Blob, Blob]:
        """The first and the second half of the channels."""
        channels, *size = x.shape
        half = channels // 2
        blobs = tuple(Blob(f"{self._next_name('Slice')}_{i}", (half, *size)) for i in range(2))
        self._add("Slice", [x.name], [blob.name for blob in blobs], {-23300: f"2,{half},-233"})
        return blobs[0], blobs[1]

    def shuffle(self, x: Blob, groups: int) -> Blob:
        """The channels of ``groups`` groups dealt out in turn."""
        return self._simple("ShuffleChannel", [x], x.shape, {0: groups})

    def pad_planes(self, x: Blob, top: int, bottom: int, left: int, right: int) -> Blob:
        """Zeros around every channel."""
        channels, height, width = x.shape
        shape = (channels, height + top + bottom, width + left + right)
        return self._simple("Padding", [x], shape, {0: top, 1: bottom, 2: left, 3: right})

    def pad_channels(self, x: Blob, behind: int) -> Blob:
        """``behind`` channels of zeros after the others."""
        channels, *size = x.shape
        return self._simple("Padding", [x], (channels + behind, *size), {8: behind})

    def reshape(self, x: Blob, shape: tuple[int, ...]) -> Blob:
        """The same values in another shape, (C,) or (C, H, W)."""
        return self._simple("Reshape", [x], shape, dict(enumerate(reversed(shape))))

    def unary(self, kind: Literal["ReLU", "Swish", "HardSwish", "HardSigmoid", "Softmax"], x: Blob) -> Blob:
        """A layer without parameters that keeps the shape, by ncnn's name for it."""
        return self._simple(kind, [x], x.shape)

    def local_response(self, x: Blob, alpha: float = 1e-4) -> Blob:
        """AlexNet's normalisation over five neighbouring channels."""
        return self._simple("LRN", [x], x.shape, {2: f"{alpha:g}"})

    def finish(self, output: Blob) -> Network:
        """The network that gives ``output``, which nothing else may take."""
        layers = _renamed_output(self._layers, output.name)
        layers = _with_splits(layers)
        if self._int8:
            layers = _chained(layers)
        return Network(
            tuple(layers), _planes(self.input.shape), output.shape, self._macs, self._parameters
        )

    def _weighted(
        self, kind: str, x: Blob, shape: tuple[int, ...], params: dict[int, int | str], activation: Activation, *,
        int8: bool,
    ) -> Blob:
        code = _ACTIVATIONS[activation]
        weights = int(params[WEIGHTED[kind][2]])
        if int8:
            params[INT8_TERM] = INT8_KINDS[kind]
        if code is not None:
            params[9] = code
        self._macs += weights * math.prod(shape[1:])
        self._parameters += weights + shape[0]
        return self._simple(kind, [x], shape, params)

    def _simple(
        self, kind: str, takes: Sequence[Blob], shape: tuple[int, ...], params: Mapping[int, int | str] | None = None
    ) -> Blob:
        blob = Blob(self._next_name(kind), shape)
        self._add(kind, [x.name for x in takes], [blob.name], params or {})
        return blob

    def _next_name(self, kind: str) -> str:
        return f"{kind.lower()}_{len(self._layers)}"

    def _add(
        self, kind: str, takes: Sequence[str], gives: Sequence[str], params: Mapping[int, int | str]
    ) -> None:
        written = {key: str(value) for key, value in params.items()}
        self._layers.append(Layer(kind, self._next_name(kind), list(takes), list(gives), written))


def _planes(shape: tuple[int, ...]) -> Planes:
    channels, height, width = shape
    return channels, height, width


def _renamed_output(layers: Sequence[Layer], name: str) -> list[Layer]:
    return [
        replace(layer, produces=[OUTPUT if blob == name else blob for blob in layer.produces]) for layer in layers
    ]


def _with_splits(layers: Sequence[Layer]) -> list[Layer]:
    """ncnn wants a Split behind a blob that several layers take, with a name for each of them."""
    uses: dict[str, int] = {}
    for layer in layers:
        for blob in layer.consumes:
            uses[blob] = uses.get(blob, 0) + 1
    names = {blob: [f"{blob}_{i}" for i in range(count)] for blob, count in uses.items() if count > 1}
    left = {blob: list(reversed(split)) for blob, split in names.items()}
    done: list[Layer] = []
    for layer in layers:
        takes = [left[blob].pop() if blob in left else blob for blob in layer.consumes]
        done.append(replace(layer, consumes=takes))
        done += [
            Layer("Split", f"split_{blob}", [blob], names[blob], {}) for blob in layer.produces if blob in names
        ]
    return done


def _chained(layers: Sequence[Layer]) -> list[Layer]:
    """int8 convolutions that only int8 convolutions follow give int8 themselves."""
    taken = consumers(layers)
    done: list[Layer] = []
    for layer in layers:
        following = [consumer for blob in layer.produces for consumer in taken[blob]]
        if layer.kind in CHAINED and layer.integer(INT8_TERM) and all(
            consumer is not None and consumer.kind in CHAINED and consumer.integer(INT8_TERM) for consumer in following
        ):
            layer = replace(
                layer, params={**layer.params, INT8_TERM: str(layer.integer(INT8_TERM) + REQUANTISES)}
            )
        done.append(layer)
    return done
