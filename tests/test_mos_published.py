"""The paper's larger MOS: mos_m trained, calibrated and converted, and a step of training of mos_l."""

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

from edgeface.cli import main
from edgeface.int8.network import Quantisation
from edgeface.models import families
from edgeface.models.checkpoint import Checkpoint, finished, load_checkpoint, save_checkpoint
from edgeface.models.mos import MOS
from edgeface.models.mos_export import run_everything
from edgeface.models.quantised import quantised
from edgeface.training.config import default_config_path, load_config
from lively_mos import made_lively, scenes
from tiny_data import write_tiny_data

SMALL = {"width": 0.25, "channels": 16}
TINY = (
    "options.channels=16", "canvases=[{size_px=128, batch=2, share=1.0}]", "data.workers=0",
    "data.weights={wider=0.6, landmarks68=0.3, backgrounds=0.1}", "run.epoch_steps=2", "run.dev_pictures=1",
    "run.dev_size_px=128", "feedback.every_epochs=0", "run.precision=fp32", "run.steps=1",
)


@pytest.mark.parametrize("target", ["ncnn", "tflite"])
def test_a_calibrated_mos_m_equals_torch_in_int8(target: str, tmp_path: Path) -> None:
    for i, scene in enumerate(scenes(2)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), scene)
    torch.manual_seed(0)
    net = families.get("mos_m").build(**SMALL)
    assert isinstance(net, MOS)
    how = Quantisation("absmax", trained=False, channel_multiple=1)
    int8 = quantised(made_lively(net), how).eval()
    pixels = np.stack([cv2.resize(scene, (192, 160)) for scene in scenes(4)]).astype(np.float32)
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 128 - 1)
    calibrate(int8, observe(int8, [batch], partial(run_everything, int8)), how.method)
    path = tmp_path / "int8.pt"
    checkpoint = Checkpoint("mos_m", SMALL, int8.state_dict(), licence="tests only", quantisation=how)
    save_checkpoint(path, finished(checkpoint, int8))
    made = convert(path, target, precision="int8", out=tmp_path / "bundle", pictures=tmp_path, size_px=96)
    assert made.report.passed


def run(*arguments: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


def test_mos_m_starts_from_a_trunk_trains_and_quantises(tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    data, out = write_tiny_data(tmp_path / "data", astronaut), tmp_path / "run"
    trunk = families.get("mos_m").build(width=0.25).backbone.state_dict()
    np.savez(tmp_path / "trunk.npz", **{name: tensor.numpy() for name, tensor in trunk.items()})
    common = ("--data", str(data), "--cache", str(tmp_path / "cache"))
    start = ("--start-from", str(tmp_path / "trunk.npz"), "--licence", "public domain")
    run("train", "mos_m", *TINY, "options.width=0.25", *common, "--out", str(out), *start)
    trained = load_checkpoint(out / "mos_m.last.pt")
    assert trained.made["started_from"]["made"]["backbone"]["source"] == "unknown"
    assert isinstance(trained.build(), MOS)
    int8 = tmp_path / "int8.pt"
    run("quantize", str(out / "mos_m.last.pt"), "--calibrate-only", "--pictures", "2", *common, "--out", str(int8))
    assert load_checkpoint(int8).build().is_deployed


def test_mos_l_trains(tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    """On a short ResNet with its bottlenecks, from weights in torchvision's names."""
    data, out = write_tiny_data(tmp_path / "data", astronaut), tmp_path / "run"
    torch.save(families.get("mos_l").build(counts=[1, 1, 1, 1], channels=16).backbone.state_dict(), tmp_path / "r.pth")
    run(
        "train", "mos_l", *TINY, "options.counts=[1, 1, 1, 1]", "--data", str(data), "--cache", str(tmp_path / "cache"),
        "--start-from", str(tmp_path / "r.pth"), "--out", str(out), "--licence", "public domain",
    )
    assert isinstance(load_checkpoint(out / "mos_l.last.pt").build(), MOS)


@pytest.mark.parametrize("name", ["mos_m", "mos_l"])
def test_the_shipped_configuration_builds_the_net_as_it_is(name: str) -> None:
    settings = load_config(default_config_path(name))
    assert settings.model == name
    with torch.device("meta"):
        net = families.get(name).build(**settings.options)
    assert {tuple(p.shape) for p in net.parameters()}
