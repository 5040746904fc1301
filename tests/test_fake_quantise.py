"""Fake quantisation: its grid, LSQ's gradients against numerical ones, modes, baking, and the scales for converters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeface.errors import OptionError
from edgeface.int8.fake import fake_quantise, fake_quantise_weight, weight_scales
from edgeface.int8.modules import (
    FoldedConv,
    Mode,
    Point,
    Signal,
    bake,
    concatenated,
    convolutions,
    layer_scales,
    points,
    set_mode,
)
from edgeface.int8.network import keep_in_float

ZERO = torch.zeros((), dtype=torch.int32)


class Chain(nn.Module):
    """Two convolutions with a point before each and one after."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.data, self.middle, self.out = Point(1 / 128, fixed=True), Point(0.03), Point(0.05)
        self.first = FoldedConv(torch.randn(4, 3, 3, 3), torch.randn(4), 1, 1)
        self.last = FoldedConv(torch.randn(2, 4, 1, 1), torch.randn(2), relu=False)

    def forward(self, x: Tensor) -> Tensor:
        signal: Signal = self.out(self.last(self.middle(self.first(self.data(x)))))
        return signal.value


def picture() -> Tensor:
    torch.manual_seed(4)
    return torch.randint(-127, 128, (1, 3, 8, 8)) / 128


@given(
    scale=st.floats(1e-3, 10), values=st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=40)
)
@settings(max_examples=60, deadline=None)
def test_values_become_the_nearest_of_255_multiples(scale: float, values: list[float]) -> None:
    x = torch.tensor(values)
    y = fake_quantise(x, torch.tensor(scale), ZERO)
    whole = y / torch.tensor(scale)
    assert torch.allclose(whole, whole.round(), atol=1e-3)
    assert float(whole.abs().max()) <= 127 + 1e-3
    inside = x.abs() <= 127 * scale
    assert bool(((y - x).abs()[inside] <= 0.5001 * scale).all())
    assert bool((y[~inside].sign() == x[~inside].sign()).all())


def test_the_gradient_of_the_values_passes_inside_the_range_and_stops_outside() -> None:
    x = torch.tensor([-20.0, -12.6, 0.3, 12.7, 12.8], requires_grad=True)
    fake_quantise(x, torch.tensor(0.1), ZERO).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_gradient_of_the_scale_is_lsq_s() -> None:
    """Esser et al. 2020, eq. 3, element by element, over sqrt(N * 127)."""
    torch.manual_seed(0)
    x = torch.randn(500) * 2
    x = x[(x.abs() / 0.02 - 127.25).abs() > 0.25]       # on the last half step rounding and clipping are the same
    weight = torch.randn(len(x))
    scale = torch.tensor(0.02, requires_grad=True)
    (fake_quantise(x, scale, ZERO) * weight).sum().backward()
    ratio = x / 0.02
    each = torch.where(ratio.abs() <= 127, ratio.round() - ratio, 127 * ratio.sign())
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float((each * weight).sum()) / math.sqrt(len(x) * 127), rel=1e-3)


def test_the_gradient_of_the_scale_is_the_slope_where_values_are_clipped() -> None:
    x = torch.full((10,), 5.0)

    def total(scale: Tensor) -> Tensor:
        return fake_quantise(x, scale, ZERO).sum()

    scale = torch.tensor(0.02, requires_grad=True)
    total(scale).backward()
    slope = (float(total(torch.tensor(0.021))) - float(total(torch.tensor(0.019)))) / 0.002
    assert scale.grad is not None
    assert float(scale.grad) * math.sqrt(10 * 127) == pytest.approx(slope, rel=1e-3)


def test_the_gradient_of_the_scale_is_the_slope_of_the_error() -> None:
    """Of the squared error over many values: rounding's jumps cancel out, and LSQ's estimate is the slope."""
    torch.manual_seed(0)
    x = torch.randn(400_000, dtype=torch.float32)

    def error(scale: Tensor) -> Tensor:
        return (fake_quantise(x, scale, ZERO) - x).square().sum()

    for value in (0.012, 0.05):      # the first clips a lot, the second rounds coarsely
        scale = torch.tensor(value, requires_grad=True)
        error(scale).backward()
        slope = (float(error(torch.tensor(1.02 * value))) - float(error(torch.tensor(0.98 * value)))) / (0.04 * value)
        assert scale.grad is not None
        assert float(scale.grad) * math.sqrt(x.numel() * 127) == pytest.approx(slope, rel=0.05)


def test_weights_are_rounded_by_output_channel() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 3, 3) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 2.0])[:, None, None, None]
    scales = weight_scales(weight)
    rounded = fake_quantise_weight(weight)
    assert scales[3] == 1           # a channel of zeros
    for channel in (0, 1, 2, 4):
        assert float(scales[channel]) == pytest.approx(float(weight[channel].abs().max()) / 127)
        assert float((rounded[channel] - weight[channel]).abs().max()) <= 0.5001 * float(scales[channel])
    assert not rounded[3].any()


def test_a_point_rounds_in_the_mode_for_it() -> None:
    x = torch.tensor([0.26])
    expected = {"float": (0.26, 0.26), "inputs": (0.26, 0.3), "all": (0.3, 0.3)}
    point = Point(0.1)
    mode: Mode
    for mode in ("float", "inputs", "all"):
        point.mode = mode
        signal = point(x)
        passed, read = expected[mode]
        assert signal.value.item() == pytest.approx(passed)
        assert point.read(signal.value).item() == pytest.approx(read)


def test_the_scale_is_trained_by_its_logarithm_and_a_fixed_one_is_not() -> None:
    net = Chain()
    set_mode(net, "all")
    net(picture()).square().sum().backward()
    assert net.data.log_scale.grad is None
    assert net.middle.log_scale.grad is not None
    assert float(net.middle.log_scale.grad) != 0
    net.middle.set_scale(0.7)
    assert net.middle.scale == pytest.approx(0.7)


def test_parts_of_a_signal_keep_its_point() -> None:
    net = Chain()
    one = net.middle(torch.arange(6.0).reshape(1, 6, 1, 1))
    first, second = one.split([2, 4])
    assert first.point is second.point is net.middle
    assert torch.equal(concatenated([second, first]).value.flatten(), torch.tensor([2.0, 3, 4, 5, 0, 1]))
    with pytest.raises(ValueError, match="too many"):
        concatenated([first, net.out(torch.zeros(1, 1, 1, 1))])


def test_inputs_and_all_agree_where_only_convolutions_read() -> None:
    """The last point is read by nothing, so that its rounding is the whole difference."""
    net, x = Chain(), picture()
    set_mode(net, "inputs")
    fused = net(x)
    set_mode(net, "all")
    assert torch.allclose(net(x), fake_quantise(fused, torch.tensor(0.05), ZERO), atol=1e-6)


def test_a_network_is_what_integers_compute() -> None:
    """Mode "inputs" against a convolution in int64, from the scales that converters get."""
    net, x = Chain(), picture()
    set_mode(net, "inputs")
    scales = layer_scales(net, lambda: net(x))
    with torch.no_grad():
        found = net(x)
    current = x.double()
    for layer, conv in zip(scales, (net.first, net.last), strict=True):
        integers = (current / layer.input_scale).round().clamp(-127, 127).long()
        weight = torch.from_numpy(layer.integers).long()
        sums = nn.functional.conv2d(integers.double(), weight.double(), None, conv.stride, conv.padding)
        scale = torch.from_numpy(layer.weight_scale).double()[:, None, None] * layer.input_scale
        current = sums * scale + conv.bias.detach().double()[:, None, None]
        current = current.relu() if conv.relu else current
    assert float((found - current).abs().max()) < 1e-4


def test_layer_scales_are_of_the_int8_layers_in_the_order_of_the_run() -> None:
    net = Chain()
    set_mode(net, "all")
    first, last = layer_scales(net, lambda: net(picture()))
    assert (first.name, last.name) == ("first", "last")
    assert first.input_scale == pytest.approx(1 / 128)
    assert last.input_scale == pytest.approx(0.03)
    multiples = last.weight / last.weight_scale[:, None, None, None]
    assert np.allclose(multiples, np.rint(multiples), atol=1e-4)
    assert np.allclose(last.integers * last.weight_scale[:, None, None, None], last.weight)
    keep_in_float(net, ["first"])
    assert [scales.name for scales in layer_scales(net, lambda: net(picture()))] == ["last"]
    assert not any(module._forward_hooks for module in net.modules())


def test_baking_changes_nothing_in_int8_and_doing_it_twice_nothing_at_all() -> None:
    net, x = Chain(), picture()
    keep_in_float(net, ["last"])
    untouched = net.last.weight.detach().clone()
    set_mode(net, "all")
    before = net(x)
    bake(net)
    once = net.first.weight.detach().clone()
    assert torch.allclose(net(x), before, atol=1e-5)
    bake(net)
    assert torch.equal(net.first.weight, once)
    assert torch.equal(net.last.weight, untouched)


def test_a_layer_in_float_computes_with_its_own_weights() -> None:
    net, x = Chain(), picture()
    keep_in_float(net, ["*"])
    set_mode(net, "float")
    plain = net(x)
    set_mode(net, "inputs")
    assert torch.equal(net(x), plain)


def test_layers_stay_in_float_by_name_and_by_pattern() -> None:
    net = Chain()
    assert keep_in_float(net, ["fir*"]) == ["first"]
    assert [conv.int8 for _, conv in convolutions(net)] == [False, True]
    assert keep_in_float(net, []) == []
    assert all(conv.int8 for _, conv in convolutions(net))
    with pytest.raises(OptionError, match=r"no layer 'frist' to keep in float: .*first, last"):
        keep_in_float(net, ["frist"])


def test_points_and_convolutions_are_named() -> None:
    net = Chain()
    assert [name for name, _ in points(net)] == ["data", "middle", "out"]
    assert [name for name, _ in convolutions(net)] == ["first", "last"]
