"""``edgeface parity`` as a user runs it, the warning of an unverified bundle, and everything that can be wrong."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from numpy.typing import NDArray

import edgeface
from edgeface import weights
from edgeface.bundle import describe_file, read_bundle, write_manifest
from edgeface.cli import main
from edgeface.errors import (
    BundleError,
    BundleHashError,
    CheckpointError,
    EngineError,
    InputError,
    OptionError,
    OutputError,
    ParityError,
    UnknownModelError,
    UnverifiedBundleWarning,
)
from edgeface.models.checkpoint import Checkpoint, save_checkpoint
from int8_mos import save_int8_mos
from lively_mos import lively_mos, scenes
from tiny_data import write_tiny_data


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, scene in enumerate(scenes(2)):
        cv2.imwrite(str(folder / f"{i}.png"), scene)
    return folder


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut) / "wider"


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another net of the same shape: the tiny checkpoint's with its first layer turned round."""
    net = lively_mos(channels=16)
    state = net.state_dict()
    state["backbone.stem.0.0.weight"] *= -1
    path = tmp_path_factory.mktemp("other") / "other.pt"
    save_checkpoint(path, Checkpoint("mos_s", {"width": "0.5x", "channels": 16}, state, licence="tests only"))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["parity", *(str(a) for a in arguments)])


def one_line_of_error(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_good_bundle_passes_at_every_size(
    tiny_bundle: Path, tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    result = run(
        tiny_bundle, "--reference", tiny_checkpoint, "--data", pictures, "--size", 160, "--size", 96, "--json", path
    )
    assert result.exit_code == 0, result.stderr
    assert "mos_s-fp32-ncnn against torch" in result.stdout
    assert "in float32, on 2 of 2 pictures" in result.stdout
    assert "at 160 px" in result.stdout
    assert "at 96 px" in result.stdout
    assert result.stdout.splitlines()[-1] == "  passed"
    report = json.loads(path.read_text())
    assert report["passed"] is True
    assert [size["size_px"] for size in report["sizes"]] == [160, 96]
    assert report["sizes"][0]["faces"]["reference"] > 0
    assert {"sqnr_db", "cosine", "largest_difference"} <= set(report["sizes"][0]["maps"][0])


def test_labels_give_ap_of_both_sides(
    tiny_bundle: Path, tiny_checkpoint: Path, annotated: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    result = run(tiny_bundle, "--reference", tiny_checkpoint, "--data", annotated, "--size", 96, "--json", path)
    assert result.exit_code == 0, result.stderr
    assert "AP easy" in result.stdout
    (size,) = json.loads(path.read_text())["sizes"]
    ap = [size[side]["detection"]["ap"]["easy"]["ap"] for side in ("reference", "candidate")]
    assert ap[0] == pytest.approx(ap[1], abs=1e-3)
    assert size["reference"]["detection"]["ap"]["easy"]["faces"] == 1


def test_ap_is_what_evaluate_says(tiny_bundle: Path, tiny_checkpoint: Path, annotated: Path, tmp_path: Path) -> None:
    path, evaluated = tmp_path / "report.json", tmp_path / "evaluated.json"
    run(tiny_bundle, "--reference", tiny_checkpoint, "--data", annotated, "--size", 96, "--json", path)
    arguments = ["evaluate", str(tiny_bundle), "--data", str(annotated), "--size", "96", "--json", str(evaluated)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    expected = json.loads(evaluated.read_text())["measures"]["detection"]
    (size,) = json.loads(path.read_text())["sizes"]
    assert size["candidate"]["detection"] == expected


def test_another_checkpoint_fails_names_the_layer_and_leaves_the_bundle(
    tiny_bundle: Path, other_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    result = run(tiny_bundle, "--reference", other_checkpoint, "--data", pictures, "--size", 96, "--json", path)
    assert result.exit_code == ParityError.exit_code
    assert "FAILED" in result.stdout
    assert "the first layer that departs is backbone.stem " in result.stdout
    error = one_line_of_error(result)
    assert error.startswith("edgeface: mos_s-fp32-ncnn: output ")
    assert "backbone.stem" in error
    assert "convert the checkpoint again" in error
    report = json.loads(path.read_text())
    assert report["passed"] is False
    assert report["walk"]["departure"]["layer"] == "backbone.stem"
    read_bundle(tiny_bundle)


def test_a_model_s_name_with_an_engine(
    tiny_bundle: Path, tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(tiny_bundle, folder / "mos_s-fp32-ncnn")
    shutil.copyfile(tiny_checkpoint, folder / "mos_s.pt")
    monkeypatch.setattr(weights, "directory", lambda: folder)
    monkeypatch.setattr(weights, "DEFAULTS", {"mos_s": "mos_s-fp32-ncnn"})
    result = run("mos_s", "--engine", "ncnn", "--reference", "mos_s", "--data", pictures, "--size", 96)
    assert result.exit_code == 0, result.stderr
    result = run("mos_s", "--engine", "onnx", "--reference", "mos_s", "--data", pictures)
    assert result.exit_code == OptionError.exit_code
    assert "does not come with a bundle for the engine onnx" in one_line_of_error(result)


def refused(error: type[Exception], text: str, *arguments: str | Path) -> None:
    result = run(*arguments)
    assert result.exit_code == error.exit_code, result.stderr   # type: ignore[attr-defined]  # of EdgefaceError
    assert text in one_line_of_error(result)


def test_what_cannot_be_compared(
    tiny_bundle: Path, tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    reference = "--reference", tiny_checkpoint
    refused(OptionError, "give the bundle", tiny_checkpoint, *reference)
    refused(CheckpointError, "give the checkpoint", tiny_bundle, "--reference", tiny_bundle)
    refused(UnknownModelError, "no model 'mos_z'", "mos_z", *reference)
    refused(UnknownModelError, "nowhere.pt", tiny_bundle, "--reference", tmp_path / "nowhere.pt")
    refused(BundleError, "no bundle.json", tmp_path, *reference)
    refused(OptionError, "is for the engine ncnn", tiny_bundle, *reference, "--engine", "onnx")
    refused(InputError, "not a folder", tiny_bundle, *reference, "--data", tmp_path / "nowhere")
    refused(OutputError, "no such folder", tiny_bundle, *reference, "--json", tmp_path / "no" / "report.json")
    refused(OptionError, "size 16 cannot work", tiny_bundle, *reference, "--data", pictures, "--size", "16")
    int8 = save_int8_mos(tmp_path / "int8.pt", channels=16)
    refused(OptionError, "give the float checkpoint", tiny_bundle, "--reference", int8, "--data", pictures)


def test_a_device_that_is_not_there(tiny_bundle: Path, tiny_checkpoint: Path, pictures: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = run(tiny_bundle, "--reference", tiny_checkpoint, "--data", pictures, "--device", "cuda")
    assert result.exit_code == OptionError.exit_code
    assert "torch cannot use the device 'cuda'" in one_line_of_error(result)


def test_damage_is_found_before_the_comparison(
    tiny_bundle: Path, tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    content = (copy / "dense.bin").read_bytes()
    (copy / "dense.bin").write_bytes(content[:-8])
    refused(BundleHashError, "dense.bin", copy, "--reference", tiny_checkpoint, "--data", pictures)
    manifest = read_bundle(copy, verify=False)
    write_manifest(copy, replace(manifest, files=[describe_file(copy / f.name) for f in manifest.files]))
    refused(EngineError, "dense.bin", copy, "--reference", tiny_checkpoint, "--data", pictures)


@pytest.fixture
def unverified(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle as --force leaves one."""
    copy = tmp_path / "unverified"
    shutil.copytree(tiny_bundle, copy)
    write_manifest(copy, replace(read_bundle(copy), name="tiny-forced", verified=False))
    return copy


def test_the_library_warns_of_a_bundle_that_is_not_verified(tiny_bundle: Path, unverified: Path) -> None:
    with pytest.warns(UnverifiedBundleWarning, match="tiny-forced is not verified against its checkpoint") as seen:
        edgeface.load(unverified, threads=1)
    assert [warning.filename for warning in seen] == [__file__]     # where the user's own call is
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edgeface.load(tiny_bundle, threads=1)


def test_the_command_line_warns_in_one_line_each_time(unverified: Path, pictures: Path) -> None:
    for _ in range(2):
        arguments = ["detect", str(pictures / "0.png"), "--model", str(unverified), "--no-draw", "--threads", "1"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0
        expected = "edgeface: warning: tiny-forced is not verified against its checkpoint"
        assert one_line_of_error(result).startswith(expected)


def test_parity_itself_does_not_warn(unverified: Path, tiny_checkpoint: Path, pictures: Path) -> None:
    result = run(unverified, "--reference", tiny_checkpoint, "--data", pictures, "--size", 96)
    assert result.exit_code == 0
    assert result.stderr == ""
