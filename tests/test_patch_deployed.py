"""Patch nets as they are deployed compute what they compute in training, and a strip is a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeface.bundle import Binary, FaceStage, PyramidStage, Score, file_sets
from edgeface.errors import ConversionError
from edgeface.int8.modules import FoldedConv, Mode, Point, Signal, Sums, points, set_mode
from edgeface.int8.network import Quantisation
from edgeface.models.deploy import deploy
from edgeface.models.family import Graph, families, family_of, graphs
from edgeface.models.patch_nets import ATTRIBUTES, PatchNet
from edgeface.models.quantised import quantised
from edgeface.training.freezing import fits
from edgeface.training.tcnn import QUALITY_BRANCH
from lively_patches import as_input, int8_checkpoint, lively, nets_of, patches

MODELS = ("mtcnn", "tcnn")
FIELDS = ("score", "box", "landmarks", "attributes", "quality")


@pytest.fixture(scope="module", params=[(name, activation) for name in MODELS for activation in ("prelu", "relu")])
def net(request: pytest.FixtureRequest) -> nn.Module:
    name, activation = request.param
    return lively(name, activation)


def close(one: torch.Tensor | None, two: torch.Tensor | None) -> bool:
    """Equal to 1e-5 of the largest value, or of 1 where that is less; or both not there."""
    if one is None or two is None:
        return one is two
    return one.shape == two.shape and float((one - two).abs().max()) <= 1e-5 * max(1.0, float(two.abs().max()))


def test_a_deployed_net_gives_what_the_trained_one_gives(net: nn.Module) -> None:
    for patch_net in nets_of(net).values():
        x = as_input(patches(9, patch_net.architecture.size_px, seed=1))
        with torch.inference_mode():
            expected, actual = patch_net(x), deploy(patch_net).eval()(x)
        assert all(close(getattr(actual, name), getattr(expected, name)) for name in FIELDS)


@pytest.mark.parametrize("count", [1, 3, 17])
def test_a_strip_is_a_batch(net: nn.Module, count: int) -> None:
    for graph in graphs(net):
        patch_net = nets_of(net)[graph.stem]
        if patch_net.shared is None:
            continue
        x = as_input(patches(count, patch_net.architecture.size_px, seed=count))
        with torch.inference_mode():
            expected, found = patch_net(x), strip(graph, x)
        for name, output in found.items():
            assert output.shape[2:] == (count, 1)
            assert close(output[0, :, :, 0].t().flatten(), getattr(expected, name).flatten())


def strip(graph: Graph, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a graph gives of patches (N, 3, S, S), one below the other."""
    return dict(zip(graph.outputs, graph.module(torch.cat(list(x), 1)[None]), strict=True))


def test_p_net_over_a_picture_is_p_net_on_its_windows() -> None:
    net = lively("mtcnn")
    graph = graphs(net)[0]
    picture = as_input(patches(1, 40, seed=3))
    with torch.inference_mode():
        score, box = graph.module(picture)
        windows = torch.cat([picture[:, :, y : y + 12, x : x + 12] for y in range(0, 29, 2) for x in range(0, 29, 2)])
        expected = nets_of(net)["pnet"](windows)
    assert score.shape == (1, 1, 15, 15)
    assert close(score.flatten(), expected.score)
    assert close(box[0].flatten(1).t(), expected.box)


@pytest.mark.parametrize("name", MODELS)
def test_stages_say_what_the_graphs_are(name: str) -> None:
    net = lively(name)
    family = family_of(net)
    assert family is families.get(name)
    stages = family.stages(lambda stem: [f"{stem}.net"], {}, {"rnet": 0.25, "mask": 0.75})
    exported = family.graphs(net)
    for graph, stage in zip(exported, stages, strict=True):
        assert file_sets(stage) == [[f"{graph.stem}.net"]]
        assert stage.input == graph.input
        assert {i for i, (a, b) in enumerate(zip(*graph.shapes, strict=True)) if a != b} == set(graph.free)
        if isinstance(stage, FaceStage):
            assert set(stage.output_names) == set(graph.outputs)
        else:
            assert isinstance(stage, PyramidStage)
            assert (stage.score, stage.box) == ("score", "box")
    last = stages[-1]
    assert isinstance(last, FaceStage)
    if name == "mtcnn":
        assert [
            score.threshold for stage in stages if isinstance(stage, FaceStage) for score in stage.all_of(Score)
        ] == [0.25, 0.0]
    else:
        assert [attribute.name for attribute in last.all_of(Binary)] == [*ATTRIBUTES, "quality"]
        assert {attribute.name: attribute.threshold for attribute in last.all_of(Binary)}["mask"] == 0.75


def test_a_t_cnn_with_fewer_attributes_names_those_that_it_has() -> None:
    (plain,) = families.get("tcnn").stages(lambda stem: [stem], {"attributes": ["mask"], "quality": False}, {})
    assert isinstance(plain, FaceStage)
    assert [attribute.name for attribute in plain.all_of(Binary)] == ["mask"]
    (stage,) = families.get("tcnn").stages(lambda stem: [stem], {"attributes": ["sunglasses"]}, {})
    assert isinstance(stage, FaceStage)
    assert [(a.name, a.output, a.channel) for a in stage.all_of(Binary)] == [
        ("sunglasses", "attributes", 0), ("quality", "quality", 0)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_prelu_has_no_int8_form(name: str) -> None:
    with pytest.raises(ConversionError, match=r"with prelu has no int8 form: train it with options\.activation=relu"):
        quantised(lively(name), Quantisation("mse", trained=False))


def test_a_quantised_net_trains_its_weights_and_scales() -> None:
    net = quantised(lively("tcnn", "relu"), Quantisation("absmax", trained=False))
    assert isinstance(net, PatchNet)
    assert net.is_deployed
    assert any(fits(name, QUALITY_BRANCH) for name, _ in net.named_parameters())
    family = family_of(net)
    with torch.no_grad():
        family.run(net.eval(), {"tcnn": as_input(patches(4, 48))})
    out = net.train()(as_input(patches(4, 48)))
    assert out.attributes is not None
    assert out.quality is not None
    (out.score.sum() + out.box.sum() + out.landmarks.sum() + out.attributes.sum() + out.quality.sum()).backward()
    still = [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still


@pytest.mark.parametrize("name", MODELS)
def test_a_quantised_checkpoint_comes_back_as_it_was(name: str) -> None:
    checkpoint = int8_checkpoint(name)
    net = checkpoint.build()
    scales = {place: point.scale for place, point in points(net)}
    assert all(scale > 0 for scale in scales.values())
    assert len({scale for place, scale in scales.items() if not place.endswith("data")}) > len(scales) / 2
    stems = [graph.stem for graph in graphs(net)]
    assert stems == list(families.get(name).example())
    for graph in graphs(net):
        assert len(graph.scales) == sum(1 for place, _ in graph.module.named_modules() if place.endswith(".conv"))


def test_int8_is_near_float_and_not_the_same() -> None:
    net = int8_checkpoint("tcnn").build()
    x = as_input(patches(16, 48, seed=7))
    found = {}
    modes: tuple[Mode, ...] = ("float", "inputs", "all")
    for mode in modes:
        set_mode(net, mode)
        with torch.inference_mode():
            found[mode] = net(x)
    for mode in ("inputs", "all"):
        for name in FIELDS:
            one, two = getattr(found["float"], name), getattr(found[mode], name)
            assert 0 < float((one - two).square().mean()) < 0.1 * float(one.var())


def test_whole_sums_are_exact_beyond_what_float32_holds() -> None:
    """1,152 inputs of 127 times 127: the sum has more bits than a float32, and no rounding may come before the last."""
    weight = torch.full((1, 1152, 1, 1), 127.0)
    weight[0, -1] = 126.0
    conv = FoldedConv(weight / 127, torch.zeros(1), relu=False).eval()
    point = Point(1.0)
    conv.mode = point.mode = "all"
    out = conv(Signal(torch.full((1, 1152, 1, 1), 127.0), point))
    assert isinstance(out, Sums)
    assert float(out.values.detach()) == float(torch.tensor(127 * (1151 * 127 + 126), dtype=torch.float32))
