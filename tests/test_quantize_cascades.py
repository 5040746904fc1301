"""``edgeface quantize`` on MTCNN and T-CNN: what they are calibrated on, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from edgeface.quantize.inputs import calibration_inputs
from numpy.typing import NDArray

import edgeface
from edgeface.cli import main
from edgeface.errors import DataError
from edgeface.int8.modules import points
from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.family import families
from edgeface.models.patch_nets import MTCNN, PatchNet
from lively_patches import lively, save_lively
from tiny_data import write_set, write_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


def quantize(model: Path, data: Path, out: Path, *arguments: str) -> Result:
    fixed = ["quantize", str(model), "--data", str(data), "--out", str(out), "--pictures", "4"]
    return CliRunner().invoke(main, [*fixed, *arguments])


def test_mtcnn_is_calibrated_on_what_its_own_nets_pass(
    data: Path, tmp_path: Path, astronaut: NDArray[np.uint8]
) -> None:
    source, out = save_lively(tmp_path / "m.pt", "mtcnn", "relu"), tmp_path / "m_int8.pt"
    result = quantize(source, data, out, "--calibrate-only", "--keep-float", "onet.heads.landmarks.conv")
    assert result.exit_code == 0, result.output
    assert "calibrated by mse on 4 pictures: 20 of 21 convolutions in int8" in result.output
    checkpoint = load_checkpoint(out)
    assert checkpoint.quantisation == Quantisation("mse", False, ["onet.heads.landmarks.conv"], 1)
    assert checkpoint.made["quantised_from"]["file"] == "m.pt"
    net = checkpoint.build()
    assert isinstance(net, MTCNN)
    scales = {name: point.scale for name, point in points(net) if not name.endswith(".data")}
    assert all(scale != 1.0 for scale in scales.values())       # what a point has that saw nothing
    assert len(edgeface.load(out, size=160, score=0.2)(astronaut)) > 0


def test_t_cnn_is_calibrated_on_faces_and_beside_them(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "t_int8.pt"
    result = quantize(save_lively(tmp_path / "t.pt", "tcnn", "relu"), data, out, "--calibrate-only")
    assert result.exit_code == 0, result.output
    net = load_checkpoint(out).build()
    assert isinstance(net, PatchNet)
    assert all(point.scale != 1.0 for name, point in points(net) if name != "data")


def test_every_net_sees_patches_of_its_size(data: Path) -> None:
    for name in ("mtcnn", "tcnn"):
        family, net = families.get(name), lively(name, "relu")
        deployed = family.deployed(net, 1).eval()
        seen = calibration_inputs(deployed, data, 4, lambda items, _label, _total: items)
        assert len(seen) == 4
        for inputs in seen:
            assert set(inputs) == set(family.example())
            for stem, x in inputs.items():
                side = family.example()[stem].shape[2]
                assert x.dtype == torch.float32
                assert -1 <= float(x.min()) < float(x.max()) <= 1
                if stem != "pnet":
                    assert x.shape[1:] == (3, side, side)
                    assert len(x) >= 1
        again = calibration_inputs(deployed, data, 4, lambda items, _label, _total: items)
        assert all(torch.equal(a[stem], b[stem]) for a, b in zip(seen, again, strict=True) for stem in a)


def test_what_cannot_be_quantised(data: Path, tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    relu, out = save_lively(tmp_path / "m.pt", "mtcnn", "relu"), tmp_path / "out.pt"
    prelu = quantize(save_lively(tmp_path / "p.pt", "mtcnn"), data, out, "--calibrate-only")
    assert prelu.exit_code == 8
    assert "MTCNN with prelu has no int8 form: train it with options.activation=relu" in prelu.output
    trained = quantize(relu, data, out)
    assert trained.exit_code == 2
    assert "mtcnn is only calibrated here: add --calibrate-only" in trained.output
    for option in (["--auto-keep", "0.1"], ["--report", str(tmp_path / "report")]):
        measured = quantize(relu, data, out, "--calibrate-only", *option)
        assert measured.exit_code == 2
        assert "measure the loss of a dense detector: leave them out for mtcnn" in measured.output
    write_set(tmp_path / "empty" / "wider", [
        ("one", astronaut[:100, :100], {"split": "train", "complete": 1, "faces": []})
    ])
    family = families.get("mtcnn")
    net = family.deployed(lively("mtcnn", "relu"), 1).eval()
    assert isinstance(net, MTCNN)
    with torch.no_grad():
        net.pnet.heads["score"].conv.bias.fill_(-50.0)      # type: ignore[union-attr]  # of a net that is not deployed
    with pytest.raises(DataError, match="no faces in its training pictures to calibrate onet on"):
        calibration_inputs(net, tmp_path / "empty", 1, lambda items, _label, _total: items)
    assert not out.exists()
