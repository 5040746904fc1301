"""What int8 layers must compute, in NumPy integers: int8 times int8 into int32, then one float32 scale and bias.

A ``Net`` here is written once, over ``Ops``, and runs in torch (to be exported) and in NumPy (to be compared with).
Whether an engine requantises inside a layer or before the next one makes no difference: both round the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.int8.scales import LayerScales

Floats = NDArray[np.float32]
T = TypeVar("T")
Q_MAX = 127


def to_int8(x: Floats, scale: float) -> NDArray[np.int8]:
    """Round half away from zero and clip to +-127, any shape."""
    levels = x / np.float32(scale)
    return np.clip(np.trunc(levels + np.copysign(np.float32(0.5), levels)), -Q_MAX, Q_MAX).astype(np.int8)


def accumulate(
    x: NDArray[np.int8], weight: NDArray[np.int8], stride: int = 1, padding: int = 0, groups: int = 1
) -> NDArray[np.int32]:
    """Convolution (I, H, W) * (O, I / groups, kh, kw) -> (O, H', W') int32, zeros around, nothing rounded."""
    return _convolve(x.astype(np.int32), weight.astype(np.int32), stride, padding, groups)


def _convolve(x: NDArray[Any], weight: NDArray[Any], stride: int, padding: int, groups: int) -> NDArray[Any]:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    inputs, outputs = len(x) // groups, len(weight) // groups
    return np.concatenate([
        np.einsum(
            "chwij,ocij->ohw", windows[g * inputs : (g + 1) * inputs], weight[g * outputs : (g + 1) * outputs],
            optimize=True,
        )
        for g in range(groups)
    ])


def rescale(sums: NDArray[np.int32], input_scale: float, weight_scale: Floats, bias: Floats) -> Floats:
    """int32 (O, ...) to float32: one scale and one bias an output channel, rounded once, as a fused multiply-add is."""
    per_channel = (-1, *(1,) * (sums.ndim - 1))
    scale = (weight_scale * np.float32(input_scale)).astype(np.float64).reshape(per_channel)
    return (sums * scale + bias.reshape(per_channel)).astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """A convolution or a fully connected layer with baked weights; ``input_scale`` 0 keeps it in float."""

    weight: Floats
    weight_scale: Floats
    bias: Floats
    input_scale: float = 0.0

    def scales(self, name: str) -> LayerScales:
        return LayerScales(name, self.weight, self.weight_scale, self.input_scale)


def layer(rng: np.random.Generator, *shape: int) -> Layer:
    """A layer of that weight shape with random weights, each a multiple of its channel's scale."""
    weight = rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
    per_channel = (-1, *(1,) * (weight.ndim - 1))
    scale = np.abs(weight).reshape(len(weight), -1).max(1) / np.float32(Q_MAX)
    baked = np.rint(weight / scale.reshape(per_channel)) * scale.reshape(per_channel)
    return Layer(baked, scale, rng.standard_normal(shape[0]).astype(np.float32) / 4)


class Ops(Protocol[T]):
    """What a net is written with; maps are (C, H, W) or (1, C, H, W), and vectors after ``flat``."""

    def conv(self, name: str, x: T, stride: int = 1, padding: int = 0, groups: int = 1) -> T: ...
    def linear(self, name: str, x: T) -> T: ...
    def relu(self, x: T) -> T: ...
    def prelu(self, x: T, slope: float) -> T: ...
    def add(self, x: T, y: T) -> T: ...
    def concat(self, parts: Sequence[T]) -> T: ...
    def split(self, x: T, channels: Sequence[int]) -> Sequence[T]: ...
    def double(self, x: T) -> T: ...
    def pool(self, x: T) -> T: ...
    def flat(self, x: T) -> T: ...


Net = Callable[[Ops[Any], Any], Sequence[Any]]


class NumpyOps:
    """Layers with an input scale in integers, the others in float64; ``seen`` is each layer's largest input."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._layers = layers
        self.seen: dict[str, float] = {}

    def conv(self, name: str, x: Floats, stride: int = 1, padding: int = 0, groups: int = 1) -> Floats:
        self.seen[name] = float(np.abs(x).max())
        own = self._layers[name]
        if not own.input_scale:
            y = _convolve(x.astype(np.float64), own.weight.astype(np.float64), stride, padding, groups)
            return (y + own.bias[:, None, None]).astype(np.float32)
        integers = own.scales(name).integers
        sums = accumulate(to_int8(x, own.input_scale), integers, stride, padding, groups)
        return rescale(sums, own.input_scale, own.weight_scale, own.bias)

    def linear(self, name: str, x: Floats) -> Floats:
        self.seen[name] = float(np.abs(x).max())
        own = self._layers[name]
        if not own.input_scale:
            return (own.weight.astype(np.float64) @ x + own.bias).astype(np.float32)
        sums = own.scales(name).integers.astype(np.int32) @ to_int8(x, own.input_scale).astype(np.int32)
        return rescale(sums, own.input_scale, own.weight_scale, own.bias)

    def relu(self, x: Floats) -> Floats:
        return np.maximum(x, np.float32(0))

    def prelu(self, x: Floats, slope: float) -> Floats:
        return np.where(x > 0, x, x * np.float32(slope))

    def add(self, x: Floats, y: Floats) -> Floats:
        return x + y

    def concat(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts)

    def split(self, x: Floats, channels: Sequence[int]) -> Sequence[Floats]:
        return np.split(x, np.cumsum(channels)[:-1])

    def double(self, x: Floats) -> Floats:
        return x.repeat(2, 1).repeat(2, 2)

    def pool(self, x: Floats) -> Floats:
        c, h, w = x.shape
        return x.reshape(c, h // 2, 2, w // 2, 2).max((2, 4))

    def flat(self, x: Floats) -> Floats:
        return x.reshape(-1)


class TorchOps:
    """The same in torch, in float."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._layers = {
            name: (torch.from_numpy(own.weight), torch.from_numpy(own.bias)) for name, own in layers.items()
        }

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        return nn.functional.conv2d(x, *self._layers[name], stride, padding, 1, groups)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return nn.functional.linear(x, *self._layers[name])

    def relu(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def prelu(self, x: Tensor, slope: float) -> Tensor:
        return nn.functional.prelu(x, torch.full((x.shape[1],), slope))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), 1)

    def split(self, x: Tensor, channels: Sequence[int]) -> Sequence[Tensor]:
        return torch.split(x, list(channels), 1)

    def double(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")

    def pool(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2)

    def flat(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class TorchNet(nn.Module):
    """A net as a torch module, (1, C, H, W) -> its outputs."""

    def __init__(self, net: Net, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        self._net, self._ops = net, TorchOps(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._net(self._ops, x))


def calibrated(
    net: Net, layers: Mapping[str, Layer], x: Floats, keep_float: Sequence[str] = (), clip: float = 0.9
) -> dict[str, Layer]:
    """The layers with an input scale each, so that ``clip`` of the largest value seen on ``x`` is 127.

    Layers that read the same tensor get the same scale.
    """
    ops = NumpyOps(layers)
    net(ops, x)
    return {
        name: own if name in keep_float else replace(own, input_scale=clip * ops.seen[name] / Q_MAX)
        for name, own in layers.items()
    }
