"""Equalised channels: a network computes what it did, and int8 keeps more of it."""

from __future__ import annotations

import pytest
import torch
from edgeface.quantize.calibration import calibrate, observe
from edgeface.quantize.equalising import equalise
from torch import Tensor, nn

from edgeface.int8.modules import Point, set_mode
from edgeface.models.backbones.mobilenetv2 import FoldedMobileNetV2, MobileNetV2
from edgeface.models.deploy import deploy


class Trunk(nn.Module):
    """A deployed MobileNetV2 alone."""

    def __init__(self, width: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        net = MobileNetV2(width).eval()
        for conv in net.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight)
        self.data, self.backbone = Point(), deploy(net)
        for first, second in self.trunk.pairs():
            # Channels of ranges as trained networks have them, over two decades.
            factors = torch.logspace(-2, 0, len(first.bias))
            first.weight.data *= factors[:, None, None, None]
            second.weight.data /= factors[:, None, None, None] if second.groups > 1 else factors[:, None, None]

    @property
    def trunk(self) -> FoldedMobileNetV2:
        assert isinstance(self.backbone, FoldedMobileNetV2)
        return self.backbone

    def forward(self, x: Tensor) -> list[Tensor]:
        return [signal.value for signal in self.trunk(self.data(x))]


def pictures(seed: int) -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def int8_error(net: Trunk, x: Tensor) -> float:
    """Of the finest map of a calibrated network, in shares of its power."""
    with torch.no_grad():
        set_mode(net, "float")
        true = net(x)[0]
        calibrate(net, observe(net, [x], net), "absmax")
        set_mode(net, "inputs")
        return float((net(x)[0] - true).square().sum() / true.square().sum())


# At a width of .25 the first block adds the stem's map to its own: that has two readers.
@pytest.mark.parametrize("width", [0.5, 0.25])
def test_a_network_computes_the_same(width: float) -> None:
    net = Trunk(width).eval()
    with torch.no_grad():
        before = net(pictures(1))
        weight = net.trunk.stem.weight.clone()
        equalise(net, [{"data": pictures(2)}], lambda inputs: net(inputs["data"]))
        after = net(pictures(1))
    for left, right in zip(before, after, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * float(left.abs().max()))
    assert torch.equal(net.trunk.stem.weight, weight) == (width == 0.25)


def test_channels_have_one_range_and_int8_keeps_more() -> None:
    plain, net = Trunk(0.5).eval(), Trunk(0.5).eval()
    equalise(net, [{"data": pictures(2)}], lambda inputs: net(inputs["data"]))
    seen: list[Tensor] = []
    net.trunk.stem.register_forward_hook(lambda _conv, _inputs, y: seen.append(y.amax((0, 2, 3))))
    with torch.no_grad():
        net(pictures(2))
    held = seen[0][seen[0] > 0]
    assert held.min() > 0.5 * held.max()
    assert int8_error(net, pictures(1)) < 0.5 * int8_error(plain, pictures(1))


def test_a_channel_that_holds_nothing_stays() -> None:
    net = Trunk(0.5).eval()
    with torch.no_grad():
        net.trunk.stem.bias[0] = -1e6
        weight = net.trunk.stem.weight[0].clone()
        equalise(net, [{"data": pictures(2)}], lambda inputs: net(inputs["data"]))
    assert torch.equal(net.trunk.stem.weight[0], weight)
    assert all(map(torch.isfinite, [each.sum() for each in net.parameters()]))


def test_networks_without_such_layers_are_not_run() -> None:
    def run(_inputs: object) -> None:
        raise AssertionError("was run")

    equalise(nn.Sequential(nn.Conv2d(3, 3, 1)), [{"data": pictures(1)}], run)
