"""Depthwise layers whose sums times their steps are exact in float32, whatever the order of rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeface.errors import ConversionError
from edgeface.int8.exact import is_exact, make_exact
from edgeface.int8.modules import FoldedConv, Point, Signal, set_mode
from edgeface.int8.scales import Q_MAX


class Net(nn.Module):
    """A dense, a depthwise and another dense layer, each reading a point of its own."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def conv(inputs: int, outputs: int, side: int, groups: int = 1) -> FoldedConv:
            weight = torch.randn(outputs, inputs // groups, side, side, generator=draw)
            weight *= torch.rand(outputs, 1, 1, 1, generator=draw) * 2 + 0.01
            bias = torch.randn(outputs, generator=draw)
            return FoldedConv(weight, bias, padding=side // 2, groups=groups, relu=False)

        self.points = nn.ModuleList(Point(scale) for scale in (0.011, 0.0473, 0.0291))
        self.first = conv(3, channels, 1)
        self.depthwise = conv(channels, channels, 3, channels)
        self.last = conv(channels, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for point, layer in zip(self.points, (self.first, self.depthwise, self.last), strict=True):
            x = layer(Signal(x, point))
        return x


def picture() -> torch.Tensor:
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(9))


def made(seed: int = 0, channels: int = 24) -> tuple[Net, dict[str, torch.Tensor]]:
    net = Net(channels, seed).eval()
    set_mode(net, "inputs")
    before = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    assert make_exact(net, lambda: net(picture())) == ["depthwise"]
    return net, before


def integers(weight: torch.Tensor) -> torch.Tensor:
    return (weight / (weight.abs().flatten(1).amax(1) / Q_MAX).reshape(-1, 1, 1, 1)).round()


@pytest.mark.parametrize("seed", range(4))
def test_rounding_once_and_rounding_twice_give_the_same(seed: int) -> None:
    net, _ = made(seed)
    assert is_exact(net.depthwise)
    point = net.points[1]
    assert isinstance(point, Point)
    steps = net.depthwise.steps(point).detach().numpy()
    shifts = net.depthwise.bias_steps(point).detach().numpy()
    largest = integers(net.depthwise.weight.detach()).abs().flatten(1).sum(1).numpy() * Q_MAX
    rng = np.random.default_rng(seed)
    for step, top, shift in zip(steps, largest, shifts, strict=True):
        sums = rng.integers(-int(top), int(top) + 1, 200).astype(np.float32)
        bias = np.float32(shift) * step
        twice = sums * step + bias
        once = (sums.astype(np.float64) * float(step) + float(bias)).astype(np.float32)
        assert (twice == once).all()


def test_a_layer_as_it_comes_is_not_exact() -> None:
    net = Net(24, 0).eval()
    set_mode(net, "inputs")
    net(picture())
    assert not is_exact(net.depthwise)


def test_integers_and_all_other_layers_stay() -> None:
    net, before = made()
    after = net.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"depthwise.weight"}
    assert torch.equal(integers(before["depthwise.weight"]), integers(after["depthwise.weight"]))
    largest = [state["depthwise.weight"].abs().flatten(1).amax(1) for state in (before, after)]
    change = largest[1] / largest[0] - 1
    assert change.abs().max() < 0.06
    assert change.abs().mean() < 0.01


def test_it_stays_as_it_is_when_done_again() -> None:
    net, _ = made()
    weight = net.depthwise.weight.detach().clone()
    make_exact(net, lambda: net(picture()))
    assert torch.equal(weight, net.depthwise.weight)


def test_what_stays_in_float_is_left_alone() -> None:
    net = Net(24, 0).eval()
    net.depthwise.int8 = False
    set_mode(net, "inputs")
    assert make_exact(net, lambda: net(picture())) == []


def test_a_layer_that_cannot_be_made_exact_is_refused_by_name() -> None:
    net = Net(24, 0).eval()
    # So many weights a channel that their sums leave no bits for a step.
    net.depthwise = FoldedConv(torch.ones(24, 1, 99, 99), torch.zeros(24), padding=49, groups=24, relu=False)
    set_mode(net, "inputs")
    with pytest.raises(ConversionError, match=r"layer depthwise: .*--keep-float depthwise"):
        make_exact(net, lambda: net(picture()))
