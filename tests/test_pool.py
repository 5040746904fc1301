"""The pool trunk: its layers' fold, mos_tiny and mos_fast trained, deployed, converted and calibrated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edgeface.convert import convert
from edgeface.quantize.calibration import calibrate, observe
from numpy.typing import NDArray
from torch import nn

from edgeface.cli import main
from edgeface.errors import ConversionError, OptionError
from edgeface.int8.modules import FoldedConv, Point
from edgeface.int8.network import Quantisation
from edgeface.models import families
from edgeface.models.backbones.pool import PoolNet, SkipConv
from edgeface.models.checkpoint import Checkpoint, finished, load_checkpoint, save_checkpoint
from edgeface.models.deploy import deploy
from edgeface.models.mos import MOS
from edgeface.models.mos_export import run_everything
from edgeface.models.quantised import quantised
from edgeface.training.config import default_config_path, load_config
from lively_mos import made_lively, scenes
from tiny_data import write_tiny_data

SMALL = {"widths": [8, 8, 16, 16, 16], "counts": [1, 1, 2, 1, 2], "channels": 16}
TINY = (
    "options.widths=[8, 8, 8, 8, 8]", "options.channels=8", "canvases=[{size_px=128, batch=2, share=1.0}]",
    "data.workers=0", "data.weights={wider=0.6, landmarks68=0.3, backgrounds=0.1}", "run.epoch_steps=2",
    "run.dev_pictures=1", "run.dev_size_px=128", "feedback.every_epochs=0", "run.precision=fp32",
)


def small_net() -> MOS:
    torch.manual_seed(0)
    net = families.get("mos_tiny").build(**SMALL)
    assert isinstance(net, MOS)
    return made_lively(net)


@pytest.fixture(scope="module")
def net() -> MOS:
    return small_net()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, scene in enumerate(scenes(2)):
        cv2.imwrite(str(folder / f"{i}.png"), scene)
    return folder


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


@pytest.mark.parametrize(("cin", "cout", "stride"), [(8, 8, 1), (8, 12, 1), (8, 8, 2)])
def test_a_layer_is_one_convolution_on_the_board(cin: int, cout: int, stride: int) -> None:
    torch.manual_seed(1)
    block = SkipConv(cin, cout, stride)
    assert (block.skip is not None) == (cin == cout and stride == 1)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, cin, 8, 12)
    weight, bias = block.eval().folded()
    with torch.no_grad():
        assert close(nn.functional.conv2d(x, weight, bias, stride, 1).relu(), block(x))


def test_maps_are_at_strides_8_16_32() -> None:
    trunk = PoolNet([8, 16, 24, 32, 40], [1, 1, 2, 1, 3])
    assert [tuple(m.shape) for m in trunk(torch.zeros(1, 3, 64, 96))] == [(1, 24, 8, 12), (1, 32, 4, 6), (1, 40, 2, 3)]
    assert trunk.channels == (24, 32, 40)
    assert [len(stage) for stage in trunk.stages if isinstance(stage, nn.Sequential)] == [1, 2, 1, 3]


@pytest.mark.parametrize(
    ("widths", "counts", "message"),
    [
        ([8, 16, 32], [1, 1, 1, 1, 1], r"widths \[8, 16, 32\]: give 5 numbers"),
        ([8, 16, 24, 32, 40], [1, 0, 1, 1, 1], r"counts \[1, 0, 1, 1, 1\]: give 5 numbers above 0"),
        ([8, 16, 24, 32, 40], [2, 1, 1, 1, 1], "begin with 1"),
    ],
)
def test_widths_and_counts_that_make_no_trunk(widths: list[int], counts: list[int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PoolNet(widths, counts)


def test_a_block_without_a_deployed_form_is_named() -> None:
    with pytest.raises(ConversionError, match="a Linear has no deployed form"):
        deploy(nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["mos_tiny", "mos_fast", "mos_m"])
def test_the_deployed_network_equals_the_trained_one(name: str) -> None:
    torch.manual_seed(0)
    trained = families.get(name).build()
    assert isinstance(trained, MOS)
    made_lively(trained)
    folded = deploy(trained).eval()
    ran: set[nn.Module] = set()
    parts = {m for m in folded.modules() if isinstance(m, (Point, FoldedConv))}
    for module in parts:
        module.register_forward_hook(lambda m, _inputs, _out: ran.add(m))
    x = torch.rand(1, 3, 96, 128) * 2 - 1
    place = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        found, expected = folded(x), trained(x)
        run_everything(folded, x)
        for level in range(3):
            logits = expected.score[level]
            assert close(found.score[level][:, 1::2], logits[:, 1::2] - logits[:, 0::2])
            assert close(found.box[level], expected.box[level])
            assert close(found.landmarks[level], expected.landmarks[level])
            assert close(found.features[level], expected.features[level])
            at = (expected.features[level], level, place, place, place)
            assert close(folded.pose(*at), trained.pose(*at))
    assert ran == parts


@pytest.mark.parametrize("target", ["ncnn", "tflite"])
def test_a_float_bundle_agrees_with_torch(net: MOS, target: str, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.pt"
    save_checkpoint(path, Checkpoint("mos_tiny", SMALL, net.state_dict(), licence="tests only"))
    made = convert(path, target, precision="fp32", out=tmp_path / "bundle", pictures=pictures, size_px=96)
    assert made.report.passed
    (size,) = made.report.sizes
    assert size.faces is not None
    assert size.faces.reference > 0


@pytest.mark.parametrize("target", ["ncnn", "tflite"])
def test_a_calibrated_bundle_equals_torch_in_int8(target: str, pictures: Path, tmp_path: Path) -> None:
    how = Quantisation("absmax", trained=False, channel_multiple=1)
    int8 = quantised(small_net(), how).eval()
    pixels = np.stack([cv2.resize(scene, (192, 160)) for scene in scenes(4)]).astype(np.float32)
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 128 - 1)
    calibrate(int8, observe(int8, [batch], partial(run_everything, int8)), how.method)
    path = tmp_path / "int8.pt"
    checkpoint = Checkpoint("mos_tiny", SMALL, int8.state_dict(), licence="tests only", quantisation=how)
    save_checkpoint(path, finished(checkpoint, int8))
    made = convert(path, target, precision="int8", out=tmp_path / "bundle", pictures=pictures, size_px=96)
    assert made.report.passed


@pytest.mark.parametrize("name", ["mos_tiny", "mos_fast"])
def test_its_configuration_trains_and_quantises(
    name: str, tmp_path: Path, astronaut: NDArray[np.uint8]
) -> None:
    data, out = write_tiny_data(tmp_path / "data", astronaut), tmp_path / "run"
    common = ["--data", str(data), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(
        main, ["train", name, *TINY, "run.steps=2", *common, "--out", str(out), "--licence", "public domain"]
    )
    assert result.exit_code == 0, result.output
    weights = out / f"{name}.last.pt"
    trained = load_checkpoint(weights)
    assert trained.build()(torch.zeros(1, 3, 64, 64)).features[2].shape == (1, 8, 2, 2)
    assert trained.made["config"]["run"]["channels_last"] is True
    int8 = tmp_path / "int8.pt"
    result = CliRunner().invoke(
        main, ["quantize", str(weights), "--calibrate-only", "--pictures", "2", *common, "--out", str(int8)]
    )
    assert result.exit_code == 0, result.output
    assert load_checkpoint(int8).build().is_deployed


@pytest.mark.parametrize("name", ["mos_tiny", "mos_fast"])
def test_the_shipped_configuration_builds_the_net_as_it_is(name: str) -> None:
    settings = load_config(default_config_path(name))
    assert settings.model == name
    net = families.get(name).build(**settings.options)
    assert isinstance(net, MOS)
    assert isinstance(net.backbone, PoolNet)
