"""Depthwise layers whose sums are worth a short binary fraction, so that no processor rounds them otherwise.

An int8 convolution's output is sum * step + bias, with a whole sum and one step a channel. Whether the product is
rounded before the bias is added differs: ncnn's NEON code for 3x3 depthwise layers rounds twice, its x86 code once.
Where a step has so few bits that the product is exact, only its sum with the bias is rounded, once, everywhere.
Its channel is scaled for that, by 0.4 % on average in MOS-S and 5 % at most; integers and all other layers stay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.errors import ConversionError
from edgeface.int8.fake import weight_scales
from edgeface.int8.modules import FoldedConv, convolutions
from edgeface.int8.scales import Q_MAX

_FLOAT_BITS = 24
# Neighbours that are tried: of the short fraction, and of the weight scale that shall give it after two divisions.
_FRACTIONS = 8
_SCALES = 64
_LEAST_BITS = 4         # with fewer a channel would change by more than 3 %

Floats = NDArray[np.float32]


def make_exact(net: nn.Module, run: Callable[[], object]) -> list[str]:
    """Give every int8 depthwise layer of ``net`` such steps, in place; the layers' names.

    ``run`` calls the network once, so that every layer knows the scale of what it reads. The scales of inputs must not
    change afterwards. Raises ConversionError for a channel for which no step near enough is found.
    """
    with torch.no_grad():
        run()
    changed = []
    for name, conv in convolutions(net):
        if conv.int8 and conv.groups > 1 and conv.groups == conv.weight.shape[0]:
            _make_layer_exact(name, conv)
            changed.append(name)
    return changed


def is_exact(conv: FoldedConv) -> bool:
    """Whether every sum of the layer times its step is exact in float32. It must have run once."""
    integers, steps = _integers(conv), _steps(conv)
    mantissas = np.frexp(steps.astype(np.float64))[0] * 2.0 ** _bits(integers)
    return bool((mantissas == np.rint(mantissas)).all())


@torch.no_grad()
def _make_layer_exact(name: str, conv: FoldedConv) -> None:
    integers = _integers(conv)
    bits = _bits(integers)
    if bits.min() < _LEAST_BITS:
        raise _refusal(name)
    scales = _scales(name, conv, bits)
    weight = integers * scales.reshape(-1, *(1,) * (integers.ndim - 1))
    conv.weight.copy_(torch.from_numpy(weight))


def _scales(name: str, conv: FoldedConv, bits: NDArray[np.int64]) -> Floats:
    """The weight scale (O,) of each channel by which ncnn's own arithmetic gives a step of so many bits."""
    (point,) = conv.reads
    factor = np.float32(1) / np.float32(point.log_scale.detach().exp().item())
    steps = _steps(conv).astype(np.float64)
    mantissas, exponents = np.frexp(steps)
    nearest = np.rint(mantissas * 2.0**bits)
    offsets = np.array(sorted(range(-_FRACTIONS, _FRACTIONS + 1), key=abs))
    targets = np.ldexp(nearest[:, None] + offsets, (exponents - bits)[:, None])         # (O, F), nearest first
    ulps = np.array(sorted(range(-_SCALES, _SCALES + 1), key=abs))
    about = (targets * float(factor)).astype(np.float32)[..., None]
    tried = about + np.spacing(about) * ulps.astype(np.float32)                         # (O, F, S)
    # As weight_scales and then ncnn compute it: the largest weight over 127, inverted, times the input's, inverted.
    scales = (tried * np.float32(Q_MAX)) / np.float32(Q_MAX)
    one = np.float32(1)
    found = one / (factor * (one / scales)) == targets.astype(np.float32)[..., None]
    flat = found.reshape(len(steps), -1)
    if not flat.any(axis=1).all():
        raise _refusal(name)
    best: Floats = tried.reshape(len(steps), -1)[np.arange(len(steps)), flat.argmax(axis=1)]
    return best


def _bits(integers: Floats) -> NDArray[np.int64]:
    """How many bits a step (O,) may have so that its product with the channel's largest sum has no more than 24."""
    largest = Q_MAX * np.abs(integers).reshape(len(integers), -1).sum(axis=1, dtype=np.float64) + 1
    bits: NDArray[np.int64] = _FLOAT_BITS - np.ceil(np.log2(largest)).astype(np.int64)
    return bits


def _refusal(name: str) -> ConversionError:
    return ConversionError(f"layer {name}: its steps cannot be made exact: keep it in float (--keep-float {name})")


def _steps(conv: FoldedConv) -> Floats:
    (point,) = conv.reads
    steps: Floats = conv.steps(point).detach().cpu().numpy()
    return steps


def _integers(conv: FoldedConv) -> Floats:
    """The weights as whole numbers, of the weight's shape."""
    scales = weight_scales(conv.weight).reshape(-1, *(1,) * (conv.weight.dim() - 1))
    integers: Floats = (conv.weight.detach() / scales).round().cpu().numpy()
    return integers
