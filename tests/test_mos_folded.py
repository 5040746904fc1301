"""The deployed MOS equals the trained one: folded, without shuffles, at any filling; and what its modes do to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeface.errors import CheckpointError, ConversionError
from edgeface.int8.modules import FoldedConv, Point, bake, convolutions, layer_scales, points, set_mode
from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeface.models.deploy import deploy
from edgeface.models.mos import MOS, STRIDES
from edgeface.models.mos_export import run_everything
from edgeface.models.quantised import quantised
from lively_mos import lively_mos


@pytest.fixture(scope="module")
def nets() -> dict[str, MOS]:
    return {width: lively_mos(width, channels=16) for width in ("0.5x", "1.0x")}


def picture(height: int = 96, width: int = 128) -> Tensor:
    torch.manual_seed(5)
    return torch.randint(-128, 128, (2, 3, height, width)) / 128


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() <= 1e-4 * expected.abs().max().clamp_min(1)
    )


@pytest.mark.parametrize("multiple", [1, 4, 8])
@pytest.mark.parametrize("width", ["0.5x", "1.0x"])
def test_the_folded_network_equals_mos(nets: dict[str, MOS], width: str, multiple: int) -> None:
    net = nets[width]
    folded = deploy(net, multiple).eval()
    with torch.no_grad():
        found, expected = folded(picture()), net(picture())
    for level in range(len(STRIDES)):
        logits = expected.score[level]
        assert close(found.score[level][:, 1::2], logits[:, 1::2] - logits[:, 0::2])
        assert not found.score[level][:, 0::2].any()
        assert close(found.box[level], expected.box[level])
        assert close(found.landmarks[level], expected.landmarks[level])
        assert close(found.features[level], expected.features[level])


@pytest.mark.parametrize("multiple", [1, 8])
def test_the_folded_pose_equals_that_of_mos(nets: dict[str, MOS], multiple: int) -> None:
    """Also at the corners, where a patch reaches over the edge."""
    net = nets["0.5x"]
    folded = deploy(net, multiple).eval()
    image, row, col = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1]), torch.tensor([0, 3, 2])
    with torch.no_grad():
        features = net(picture()).features
        for level in range(len(STRIDES)):
            expected = net.pose(features[level], level, image, row, col)
            assert close(folded.pose(features[level], level, image, row, col), expected)


def test_it_has_weights_of_its_own(nets: dict[str, MOS]) -> None:
    net = nets["0.5x"]
    theirs = {tensor.data_ptr() for tensor in net.state_dict().values()}
    folded = deploy(net)
    assert not theirs & {tensor.data_ptr() for tensor in folded.state_dict().values()}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_its_state_is_weights_biases_and_scales(nets: dict[str, MOS]) -> None:
    folded = deploy(nets["1.0x"])
    assert len(list(convolutions(folded))) == 93
    kinds = {name.rpartition(".")[2] for name in folded.state_dict()}
    assert kinds == {"weight", "bias", "log_scale"}
    assert not [name for name, point in points(folded) if not point.log_scale.requires_grad and name != "data"]
    assert folded.data.scale == pytest.approx(1 / 128)
    other = deploy(lively_mos("1.0x", channels=16))
    other.load_state_dict(folded.state_dict())


def test_every_convolution_and_every_point_is_used(nets: dict[str, MOS]) -> None:
    folded = deploy(nets["0.5x"]).eval()
    ran: set[nn.Module] = set()
    for module in folded.modules():
        if isinstance(module, (Point, FoldedConv)):
            module.register_forward_hook(lambda m, _inputs, _out: ran.add(m))
    with torch.no_grad():
        run_everything(folded, picture()[:1])
    assert ran == {module for module in folded.modules() if isinstance(module, (Point, FoldedConv))}


def with_scales(net: MOS, multiple: int = 8) -> MOS:
    """Deployed, with scales that fit one picture."""
    folded = deploy(net, multiple).eval()
    largest: dict[Point, float] = {}
    for _, point in points(folded):
        point.observer = lambda x, p=point: largest.update({p: max(largest.get(p, 0.0), float(x.abs().max()))})
    with torch.no_grad():
        run_everything(folded, picture()[:1])
    for _, point in points(folded):
        point.observer = None
        if point is not folded.data:
            point.set_scale(largest[point] / 127)
    return folded


def test_rounding_changes_the_maps_a_little_and_float_mode_not_at_all(nets: dict[str, MOS]) -> None:
    folded = with_scales(nets["0.5x"])
    with torch.no_grad():
        plain = folded(picture())
        found = {}
        for mode in ("inputs", "all", "float"):
            set_mode(folded, mode)
            found[mode] = folded(picture())
    for level in range(len(STRIDES)):
        expected = plain.features[level]
        assert torch.equal(found["float"].features[level], expected)
        for mode in ("inputs", "all"):
            noise = float((found[mode].features[level] - expected).square().sum() / expected.square().sum())
            assert 0 < noise < 0.05, (mode, level)


def test_filling_up_is_no_difference_in_int8_either(nets: dict[str, MOS]) -> None:
    """Channels of zeros stay zero: the integers of the others are those without any."""
    plain, filled = with_scales(nets["0.5x"], 1), with_scales(nets["0.5x"], 8)
    scales = {name: point.scale for name, point in points(plain)}
    for name, point in points(filled):
        assert point.scale == pytest.approx(scales[name], rel=1e-4), name
        point.set_scale(scales[name])
    for net in (plain, filled):
        set_mode(net, "inputs")
    with torch.no_grad():
        for a, b in zip(plain.maps(picture()), filled.maps(picture()), strict=True):
            for left, right in zip(a.values(), b.values(), strict=True):
                # Rounding to the other side, where floats are added in another order, is a difference here and there.
                noise = float((left - right).square().sum() / left.square().sum())
                assert noise < 1e-3


def test_layer_scales_name_all_layers_of_a_graph(nets: dict[str, MOS]) -> None:
    folded = with_scales(nets["0.5x"])
    set_mode(folded, "all")
    scales = layer_scales(folded, lambda: folded.maps(torch.zeros(1, 3, 64, 64)))
    names = {name for name, _ in convolutions(folded) if not name.startswith("pose_heads")}
    assert {layer.name for layer in scales} == names
    assert len(scales) == len(names)
    shared = {layer.input_scale for layer in scales if layer.name.startswith("heads.0.")}
    assert len(shared) == 1


def test_baking_twice_is_baking_once(nets: dict[str, MOS]) -> None:
    folded = with_scales(nets["0.5x"])
    set_mode(folded, "all")
    with torch.no_grad():
        before = folded(picture()).score
        bake(folded)
        once = {name: conv.weight.clone() for name, conv in convolutions(folded)}
        after = folded(picture()).score
        bake(folded)
    assert all(torch.equal(conv.weight, once[name]) for name, conv in convolutions(folded))
    # A scale that baking moves by its last bit can take a value over a half, so that some are a level off.
    for a, b in zip(after, before, strict=True):
        off = (a - b).abs() / b.abs().max()
        assert off.max() < 0.05
        assert (off > 1e-4).float().mean() < 0.2


def test_gradients_reach_every_weight_and_scale(nets: dict[str, MOS]) -> None:
    folded = with_scales(nets["0.5x"]).train()
    set_mode(folded, "all")
    out = folded(picture())
    zero = torch.zeros(1, dtype=torch.int64)
    total = sum(m.square().sum() for maps in (out.score, out.box, out.landmarks) for m in maps)
    total = total + sum(folded.pose(f, i, zero, zero, zero).square().sum() for i, f in enumerate(out.features))
    assert isinstance(total, Tensor)
    total.backward()
    missing = [name for name, p in folded.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(bool(p.grad.isfinite().all()) for p in folded.parameters() if p.grad is not None)


def test_a_quantised_checkpoint_needs_nothing_but_its_file(nets: dict[str, MOS], tmp_path: Path) -> None:
    folded = with_scales(nets["0.5x"], 4)
    how = Quantisation("absmax", True, ["backbone.stem"], 4)
    checkpoint = Checkpoint("mos_s", {"width": "0.5x", "channels": 16}, folded.state_dict(), quantisation=how)
    save_checkpoint(tmp_path / "int8.pt", checkpoint)
    again = load_checkpoint(tmp_path / "int8.pt")
    assert again.quantisation == how
    net = again.build()
    assert net.is_deployed
    assert not net.training
    assert not net.backbone.stem.int8
    assert {point.mode for _, point in points(net)} == {"all"}
    folded.backbone.stem.int8 = False
    set_mode(folded, "all")
    with torch.no_grad():
        assert all(map(torch.equal, net(picture()).score, folded(picture()).score))
    other = dataclasses.replace(again, options={"width": "1.0x", "channels": 16})
    with pytest.raises(CheckpointError, match="weights do not fit"):
        other.build()


def test_only_mos_is_deployed() -> None:
    with pytest.raises(ConversionError, match="Conv2d has no export graphs"):
        quantised(nn.Conv2d(1, 1, 1), Quantisation("mse", False))
