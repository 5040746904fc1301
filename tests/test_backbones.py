"""Published trunks: parameters and MACs as published, weights by name, and their deployed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeface.errors import CheckpointError, OptionError
from edgeface.int8.modules import Point
from edgeface.models import families
from edgeface.models.backbones.mobilenetv2 import MobileNetV2
from edgeface.models.backbones.resnet import RESNET_50, RESNET_152, ResNet
from edgeface.models.backbones.shufflenetv2 import ShuffleNetV2
from edgeface.models.backbones.vgg import VGG16
from edgeface.models.deploy import deploy
from edgeface.models.mos import MOS
from edgeface.models.starting import load_backbone, load_published

PRETRAINED = Path(__file__).parents[2] / "shared" / "pretrained"
SIDE_PX = 224


def trunk(name: str) -> nn.Module:
    """A trunk with random weights and no memory behind them: enough to count."""
    with torch.device("meta"):
        return {
            "shufflenetv2_1.0x": lambda: ShuffleNetV2("1.0x"), "shufflenetv2_0.5x": lambda: ShuffleNetV2("0.5x"),
            "mobilenetv2": MobileNetV2, "resnet50": lambda: ResNet(RESNET_50), "resnet152": lambda: ResNet(RESNET_152),
            "vgg16": VGG16,
        }[name]()


def macs(net: nn.Module) -> int:
    """Multiplications of all convolutions on a picture of SIDE_PX."""
    found = []

    def count(conv: nn.Module, _inputs: object, out: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        found.append(conv.weight.numel() * out.shape[2] * out.shape[3])

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    net(torch.zeros(1, 3, SIDE_PX, SIDE_PX, device="meta"))
    return sum(found)


def dense(cin: int, cout: int) -> tuple[int, int]:
    """Parameters and MACs of a fully connected layer."""
    return cin * cout + cout, cin * cout


def convolution(cin: int, cout: int, side: int) -> tuple[int, int]:
    """Those of a 1x1 convolution with batch norm on a map of ``side`` x ``side``."""
    return cin * cout + 2 * cout, cin * cout * side**2


# What the published networks have behind the trunk, and how many parameters and MACs they have as a whole: the papers
# of ShuffleNetV2 (table 8) and MobileNetV2 (table 4) for the MACs, the rest as torchvision says beside its weights.
@pytest.mark.parametrize(
    ("name", "head", "parameters", "millions"),
    [
        ("shufflenetv2_1.0x", [convolution(464, 1024, 7), dense(1024, 1000)], 2_278_604, 146),
        ("shufflenetv2_0.5x", [convolution(192, 1024, 7), dense(1024, 1000)], 1_366_792, 41),
        ("mobilenetv2", [convolution(320, 1280, 7), dense(1280, 1000)], 3_504_872, 300),
        ("resnet50", [dense(2048, 1000)], 25_557_032, 4089),
        ("resnet152", [dense(2048, 1000)], 60_192_808, 11514),
        ("vgg16", [dense(512 * 49, 4096), dense(4096, 4096), dense(4096, 1000)], 138_357_544, 15470),
    ],
)
def test_as_large_as_published(name: str, head: list[tuple[int, int]], parameters: int, millions: float) -> None:
    net = trunk(name)
    assert sum(p.numel() for p in net.parameters()) + sum(count for count, _ in head) == parameters
    assert macs(net) + sum(count for _, count in head) == pytest.approx(millions * 1e6, rel=0.015)


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("mobilenetv2", (8, 16, 32), (32, 96, 320)), ("resnet50", (8, 16, 32), (512, 1024, 2048)),
        ("vgg16", (4, 8, 16), (256, 512, 512)),
    ],
)
def test_maps(name: str, strides: tuple[int, ...], channels: tuple[int, ...]) -> None:
    net = trunk(name)
    assert net.channels == channels
    shapes = [tuple(m.shape) for m in net(torch.zeros(2, 3, 64, 96, device="meta"))]
    assert shapes == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


def lively(net: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize("make", [lambda: MobileNetV2(0.25), lambda: ResNet([1, 2, 1, 1])], ids=["mobilenet", "resnet"])
def test_the_deployed_trunk_equals_the_trained_one(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = lively(make())
    folded = deploy(net).eval()
    assert [len(layout) for layout in folded.layouts] == list(net.channels)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(folded(Point()(x)), net(x), strict=True):
            assert found.value.shape == expected.shape
            assert (found.value - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.skipif(not PRETRAINED.is_dir(), reason="needs the published trunks, which are not in this checkout")
def test_the_published_mobilenetv2_loads_by_name() -> None:
    net = families.get("mos_m").build()
    path = PRETRAINED / "mobilenetv2_1.0_imagenet_quant.npz"
    assert load_backbone(net, path)["licence"] == "Apache-2.0"
    own = net.backbone.state_dict()
    with np.load(path) as archive:
        assert set(archive.files) == set(own)
        assert torch.equal(own["features.17.conv.2.weight"], torch.from_numpy(archive["features.17.conv.2.weight"]))


@pytest.mark.parametrize("name", ["mos_m", "mos_l"])
def test_torchvisions_weights_see_the_same_picture(name: str) -> None:
    """What the trunk makes of our BGR is what the published one makes of its normalised RGB."""
    options = {"width": 0.25} if name == "mos_m" else {"counts": [1, 1, 1, 1], "channels": 16}
    torch.manual_seed(0)
    published, net = (families.get(name).build(**options) for _ in range(2))
    lively(published)
    state = {key: tensor.clone() for key, tensor in published.backbone.state_dict().items()}
    load_published(net, {**state, "fc.weight": torch.zeros(1)}, "published.pth")
    bgr = torch.full((1, 3, 64, 64), 30.0)
    bgr[:, 1], bgr[:, 2] = 90.0, 200.0
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rgb = (bgr.flip(1) / 255 - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        first, theirs = published.backbone.first, published.backbone
        conv, norm = (net.backbone.get_submodule(each) for each in first)
        their_conv, their_norm = (theirs.get_submodule(each) for each in first)
        found, expected = norm.eval()(conv((bgr - 128) / 128)), their_norm(their_conv(rgb))
        inside = (..., slice(4, -4), slice(4, -4))      # beyond the edge, zero is another colour
        assert torch.allclose(found[inside], expected[inside], atol=1e-4)
    after = net.backbone.state_dict()
    changed = {key for key in state if not torch.equal(after[key], state[key])}
    assert changed == {f"{first[0]}.weight", f"{first[1]}.running_mean"}


def test_weights_of_another_trunk_are_refused_and_nothing_is_loaded() -> None:
    net = families.get("mos_m").build(width=0.25)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"other\.pth: has no features\.0\.0\.weight: give weights of Mob"):
        load_published(net, {"conv1.weight": torch.zeros(1)}, "other.pth")
    state = dict(net.backbone.state_dict()) | {"features.17.conv.2.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"features\.17\.conv\.2\.weight is \(3,\)"):
        load_published(net, state, "other.pth")
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize(("make", "message"), [
    (lambda: MobileNetV2(0.0), "no MobileNetV2 of width 0.0"), (lambda: ResNet([3, 4, 6]), "give 4 numbers above 0"),
    (lambda: ResNet([3, 0, 6, 3]), "give 4 numbers above 0"),
])
def test_options_that_make_no_trunk(make: type[nn.Module], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_mos_l_is_mos_on_resnet_152() -> None:
    with torch.device("meta"):
        net = families.get("mos_l").build()
        out = net(torch.zeros(1, 3, 640, 640))
    assert isinstance(net, MOS)
    assert [tuple(m.shape[2:]) for m in out.score] == [(80, 80), (40, 40), (20, 20)]
    assert out.features[0].shape[1] == 256
    assert sum(m.numel() for m in net.backbone.parameters()) == 60_192_808 - math.prod((2048, 1000)) - 1000
