"""S3FD: its maps, norms and max-out, weights of VGG16, its graph, and a bundle that detects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edgeface.convert import convert
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeface
from edgeface.bundle import Bundle, DenseStage
from edgeface.cli import main
from edgeface.errors import CheckpointError, ConversionError, OptionError
from edgeface.models.checkpoint import Checkpoint, save_checkpoint
from edgeface.models.dense import DenseOutput
from edgeface.models.family import families, graphs
from edgeface.models.s3fd import BACKGROUNDS, S3FD, STRIDES, L2Norm, load_vgg16, max_out
from lively_s3fd import lively_s3fd


@pytest.fixture(scope="module")
def light() -> S3FD:
    return lively_s3fd()


@pytest.fixture(scope="module")
def full() -> S3FD:
    torch.manual_seed(0)
    net = families.get("s3fd").build()
    assert isinstance(net, S3FD)
    return net


@pytest.mark.parametrize("name", ["light", "full"])
def test_every_level_has_a_map_of_its_stride(name: str, request: pytest.FixtureRequest) -> None:
    net = request.getfixturevalue(name)
    with torch.inference_mode():
        out: DenseOutput = net(torch.zeros(2, 3, 128, 256))
    assert [tuple(s.shape) for s in out.score] == [(2, 2, 128 // s, 256 // s) for s in STRIDES]
    assert [tuple(b.shape) for b in out.box] == [(2, 4, 128 // s, 256 // s) for s in STRIDES]


def test_the_light_variant_is_light_and_has_the_same_heads(light: S3FD, full: S3FD) -> None:
    assert sum(p.numel() for p in light.parameters()) < 1_000_000
    for net in (light, full):
        assert [head.score.out_channels for head in net.heads] == [4, 2, 2, 2, 2, 2]


def test_the_layers_are_vgg16_s(full: S3FD) -> None:
    convs = [m for stage in full.backbone for m in stage.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [
        64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024, 256, 512, 128, 256,
    ]  # fmt: skip
    assert [c.dilation for c in convs if c.dilation != (1, 1)] == [(3, 3)]


def test_a_position_s_channels_get_the_length_of_their_level(full: S3FD) -> None:
    for norm, (channels, length) in zip(full.neck, ((256, 10.0), (512, 8.0), (512, 5.0)), strict=True):
        lengths = norm(torch.randn(2, channels, 3, 4) * 7).norm(dim=1)
        assert torch.allclose(lengths, torch.full((2, 3, 4), length), rtol=1e-5)


def test_the_norm_s_factors_are_learned_a_channel() -> None:
    norm = L2Norm(3, 5.0)
    norm.scale.data = torch.tensor([1.0, 10.0, 100.0])
    assert norm(torch.tensor([2.0, 1.0, -2.0]).view(1, 3, 1, 1)).flatten().tolist() == pytest.approx(
        [2 / 3, 10 / 3, -200 / 3]
    )
    assert norm(torch.zeros(1, 3, 1, 1)).abs().max() == 0


def test_the_largest_of_the_backgrounds_counts() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 7.0], [-1.0, -2.0, -3.0, -9.0]]).view(2, 4, 1, 1)
    assert max_out(logits).flatten(1).tolist() == [[3.0, 7.0], [-1.0, -9.0]]
    assert max_out(logits[:, 2:]).flatten(1).tolist() == [[2.0, 7.0], [-3.0, -9.0]]


def vgg16() -> dict[str, Tensor]:
    """A state dict of torchvision's shapes and names; fully connected layers repeat one value a row. The tensors are
    the same each time."""
    return dict(_vgg16())


@cache
def _vgg16() -> dict[str, Tensor]:
    torch.manual_seed(1)
    layers, widths = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (64, 64, 128, 128, *[256] * 3, *[512] * 6)
    state, cin = {}, 3
    for i, cout in zip(layers, widths, strict=True):
        state[f"features.{i}.weight"] = torch.randn(cout, cin, 3, 3)
        state[f"features.{i}.bias"] = torch.randn(cout)
        cin = cout
    for i, inputs in ((0, 512 * 49), (3, 4096)):
        state[f"classifier.{i}.weight"] = torch.arange(4096.0)[:, None].expand(4096, inputs)
        state[f"classifier.{i}.bias"] = torch.arange(4096.0)
    return state


def test_vgg16_s_first_layer_sees_what_it_was_trained_on(full: S3FD) -> None:
    state = vgg16()
    load_vgg16(full, state, "vgg16.pth")
    bgr = torch.randint(0, 256, (1, 3, 8, 8)).float()
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    rgb = (bgr.flip(1) / 255 - mean) / deviation
    expected = nn.functional.conv2d(rgb, state["features.0.weight"], state["features.0.bias"])
    first = full.backbone[0].get_submodule("0")
    assert isinstance(first, nn.Conv2d)
    actual = first((bgr - 128) / 128)[:, :, 1:-1, 1:-1].detach()
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


def test_vgg16_s_fully_connected_layers_are_thinned_out(full: S3FD) -> None:
    load_vgg16(full, vgg16(), "vgg16.pth")
    fc6, fc7 = (full.backbone[3].get_submodule(i) for i in ("1", "3"))
    assert isinstance(fc6, nn.Conv2d)
    assert isinstance(fc7, nn.Conv2d)
    assert fc6.weight[:, 0, 0, 0].tolist() == fc7.bias.tolist() == list(range(0, 4096, 4))
    assert fc6.weight.shape == (1024, 512, 3, 3)


def test_fc6_takes_the_corners_and_the_middle_of_its_field(full: S3FD) -> None:
    state = vgg16()
    field = torch.arange(49.0).repeat(512)
    state["classifier.0.weight"] = field[None].expand(4096, -1)
    load_vgg16(full, state, "vgg16.pth")
    fc6 = full.backbone[3].get_submodule("1")
    assert isinstance(fc6, nn.Conv2d)
    assert fc6.weight[5, 3].flatten().tolist() == [0, 3, 6, 21, 24, 27, 42, 45, 48]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("features.28.bias"), "has no features.28.weight and .bias"),
        (lambda state: state.update({"features.5.weight": torch.zeros(128, 64, 5, 5)}), "features.5.weight is .*5, 5"),
        (lambda state: state.update({"classifier.3.weight": torch.zeros(10, 4096)}), "classifier.3.weight is"),
        (lambda state: state.update({"features.0.weight": "x"}), "has no features.0.weight"),
    ],
)
def test_weights_of_another_network_change_nothing(
    full: S3FD, change: Callable[[dict[str, object]], object], message: str
) -> None:
    state: dict[str, object] = {**vgg16()}
    change(state)
    before = {name: tensor.clone() for name, tensor in full.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"^mine.pth: .*{message}.*torchvision"):
        load_vgg16(full, state, "mine.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in full.state_dict().items())


def test_the_graph_equals_the_network(light: S3FD) -> None:
    (graph,) = graphs(light)
    x = torch.rand(1, 3, 256, 384) * 2 - 1
    with torch.inference_mode():
        out: DenseOutput = light(x)
        actual = dict(zip(graph.outputs, graph.module(x), strict=True))
    for stride, pair, box in zip(STRIDES, out.score, out.box, strict=True):
        for name, expected in ((f"score{stride}", pair[:, 1:] - pair[:, :1]), (f"box{stride}", box)):
            assert actual[name].shape == expected.shape
            assert float((actual[name] - expected).abs().max() / expected.abs().max()) < 1e-4, name
    # More than one background is the largest somewhere, or the minimum over them was not looked at.
    with torch.inference_mode():
        logits = light.heads[0].score(light.neck[0](light.backbone[0](x)))
    assert set(logits[:, :-1].argmax(1).unique().tolist()) == set(range(BACKGROUNDS[0]))


def test_weights_under_the_names_of_before_load(light: S3FD) -> None:
    old = {}
    for name, tensor in light.state_dict().items():
        name = name.replace("backbone.", "stages.", 1).replace("neck.", "norms.", 1)
        old[re.sub(r"^heads\.(\d)\.(score|box)\.", r"\2.\1.", name)] = tensor
    assert {"stages.0.0.0.weight", "norms.2.scale", "score.0.bias", "box.5.weight"} <= set(old)
    net = Checkpoint("s3fd_light", {}, old).build()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in light.state_dict().items())


def test_the_graph_owns_its_weights(light: S3FD) -> None:
    before = {name: tensor.clone() for name, tensor in light.state_dict().items()}
    graphs(light)
    assert all(torch.equal(tensor, before[name]) for name, tensor in light.state_dict().items())
    assert any(isinstance(m, nn.BatchNorm2d) for m in light.modules())


def test_the_stage_says_what_the_graph_is(light: S3FD) -> None:
    (graph,) = graphs(light)
    (stage,) = families.get("s3fd").stages(lambda stem: [f"{stem}.net"], {}, {})
    assert isinstance(stage, DenseStage)
    assert stage.files == [f"{graph.stem}.net"]
    assert graph.outputs == tuple(name for level in stage.levels for name in (level.score, level.box))
    assert [(level.stride, level.anchors_px) for level in stage.levels] == [
        (4, [16]), (8, [32]), (16, [64]), (32, [128]), (64, [256]), (128, [512]),
    ]  # fmt: skip
    assert stage.multiple == 128
    assert {i for i, (a, b) in enumerate(zip(*graph.shapes, strict=True)) if a != b} == set(graph.free)


def test_it_stays_in_float(light: S3FD) -> None:
    with pytest.raises(ConversionError, match=r"S3FD cannot be quantised: use one of .*mos_s"):
        families.get("s3fd_light").deployed(light, 1)


@pytest.fixture(scope="module")
def bundle(light: S3FD, tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    folder = tmp_path_factory.mktemp("s3fd")
    save_checkpoint(folder / "light.pt", Checkpoint("s3fd_light", {}, light.state_dict(), licence="tests only"))
    (folder / "pictures").mkdir()
    cv2.imwrite(str(folder / "pictures" / "astronaut.png"), astronaut)
    done = convert(
        folder / "light.pt", "ncnn", precision="fp32", out=folder / "light", pictures=folder / "pictures", size_px=256
    )
    assert done.report.passed
    return done.directory


def test_quantize_refuses_it_in_one_line(bundle: Path, tmp_path: Path) -> None:
    checkpoint, out = bundle.parent / "light.pt", tmp_path / "int8.pt"
    result = CliRunner().invoke(main, ["quantize", str(checkpoint), "--data", str(tmp_path), "--out", str(out)])
    assert result.exit_code == ConversionError.exit_code
    able = "maskface, mos_fast, mos_l, mos_m, mos_s, mos_tiny, mtcnn, tcnn, tfn"
    assert result.output == f"edgeface: s3fd_light cannot be quantised: use one of {able}\n"
    assert not out.exists()


def test_a_bundle_finds_what_its_checkpoint_finds(bundle: Path, astronaut: NDArray[np.uint8]) -> None:
    faces = edgeface.load(bundle, threads=1)(astronaut)
    expected = edgeface.load(bundle.parent / "light.pt", size=256)(astronaut)
    assert len(faces) == len(expected) > 0
    assert faces.landmarks is None
    np.testing.assert_allclose(faces.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(faces.boxes, expected.boxes, atol=0.1)


def test_detect_prints_faces_without_landmarks(bundle: Path) -> None:
    picture = bundle.parent / "pictures" / "astronaut.png"
    result = CliRunner().invoke(main, ["detect", str(picture), "--model", str(bundle), "--json", "-"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.output.splitlines()[0])
    assert record["faces"]
    assert "landmarks" not in record["faces"][0] or record["faces"][0]["landmarks"] is None


def test_a_size_that_its_last_level_cannot_have_is_refused(bundle: Path) -> None:
    with pytest.raises(OptionError, match="choose 128"):
        edgeface.load(bundle, size=96)


def test_the_bundle_says_that_it_is_float(bundle: Path) -> None:
    from edgeface.bundle import read_bundle

    read: Bundle = read_bundle(bundle)
    assert (read.precision, read.model, read.verified) == ("fp32", "s3fd_light", True)
