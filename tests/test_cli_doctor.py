"""``edgeface doctor`` and what it says where something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeface import weights
from edgeface.cli import main


@pytest.fixture
def shelf(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of edgeface/weights, with the default bundle alone."""
    folder = tmp_path / "weights"
    shutil.copytree(tiny_bundle, folder / "mos_s-fp32-ncnn")
    monkeypatch.setattr(weights, "directory", lambda: folder)
    monkeypatch.setattr(weights, "DEFAULTS", {"mhcnn": "mos_s-fp32-ncnn"})
    return folder


def test_a_sound_installation(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_TOKEN", "not-for-reports")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    labels = [line.split()[0] for line in result.stdout.splitlines()]
    for label in ("system", "machine", "python", "edgeface", "engine", "kernels", "packages", "camera", "models"):
        assert label in labels
    assert "mos_s-fp32-ncnn" in result.stdout
    assert "OMP_NUM_THREADS=1" in result.stdout
    assert "not-for-reports" not in result.output
    assert "WRONG" not in result.stdout


def test_what_is_damaged_is_wrong(shelf: Path) -> None:
    path = shelf / "mos_s-fp32-ncnn" / "dense.bin"
    path.write_bytes(path.read_bytes()[:-4])
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 11
    document = json.loads(result.stdout)
    assert any("dense.bin" in text for text in document["wrong"])
    assert "edgeface" in document["found"]
    assert "dense.bin" in result.stderr
