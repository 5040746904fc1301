"""Converting a quantised checkpoint: which precision it becomes, what it is compared with, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result
from edgeface.convert import convert, target
from edgeface.convert.parity import INT8_AGAINST_FLOAT

from edgeface.bundle import read_bundle
from edgeface.cli import main
from edgeface.errors import OptionError, OutputError, ParityError
from edgeface.models.family import Graph
from int8_mos import save_int8_mos
from lively_mos import scenes

SIZE_PX = 96


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_int8_mos(tmp_path_factory.mktemp("quantised") / "mine_int8.pt", channels=16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    cv2.imwrite(str(folder / "0.png"), scenes(1)[0])
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def one_line_of_error(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_an_unquantised_checkpoint_is_not_calibrated_silently(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("convert", tiny_checkpoint, "--target", "ncnn", "--precision", "int8", "--out", tmp_path / "b")
    assert result.exit_code == 2
    assert "tiny.pt: is not quantised" in one_line_of_error(result)
    assert "run 'edgeface quantize tiny.pt'" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_quantised_checkpoint_has_no_float_form(quantised: Path, tmp_path: Path, precision: str) -> None:
    result = run("convert", quantised, "--target", "ncnn", "--precision", precision, "--out", tmp_path / "b")
    assert result.exit_code == OptionError.exit_code
    assert "give the float checkpoint that it was made from" in one_line_of_error(result)
    assert not list(tmp_path.iterdir())


def test_a_target_without_int8(quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floats = {p: t for p, t in target.get("onnx").tolerances.items() if p != "int8"}
    monkeypatch.setitem(target._entries, "onnx", dataclasses.replace(target.get("onnx"), tolerances=floats))
    result = run("convert", quantised, "--target", "onnx", "--out", tmp_path / "b")
    assert result.exit_code == OptionError.exit_code
    assert "target onnx has no precision 'int8'" in one_line_of_error(result)


@pytest.mark.parametrize(("name", "said"), [
    ("tflite", "target tflite has no fast form of int8: leave --fast out, or choose --target ncnn"),
    ("onnx", "target onnx has no fast form of int8"),
])
def test_a_target_without_a_fast_form(quantised: Path, tmp_path: Path, name: str, said: str) -> None:
    result = run("convert", quantised, "--target", name, "--fast", "--out", tmp_path / "b")
    assert result.exit_code == OptionError.exit_code
    assert said in one_line_of_error(result)
    assert not list(tmp_path.iterdir())


def test_only_int8_has_a_fast_form(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("convert", tiny_checkpoint, "--target", "ncnn", "--fast", "--out", tmp_path / "b")
    assert result.exit_code == OptionError.exit_code
    assert "--fast is a form of int8, not of fp16" in one_line_of_error(result)


def test_a_fast_bundle_is_marked_wherever_it_is_named(quantised: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    result = run(
        "convert", quantised, "--target", "ncnn", "--fast", "--pictures", pictures, "--out", out, "--force",
        "--size", SIZE_PX,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    bundle = read_bundle(out)
    assert (bundle.name, bundle.precision, bundle.form) == ("mos_s-int8-fast-ncnn", "int8", "int8-fast")
    assert f"--precision int8 --fast --size {SIZE_PX}" in bundle.made["command"]
    assert any("int8 layers requantise; the others feed" in note for note in bundle.made["notes"])
    assert "fast: results differ a little between processors" in run("models", "info", out).stdout
    assert json.loads(run("models", "info", out, "--json").stdout)["fast"] is True
    timed = run("bench", out, "--size", 64, "--rounds", 1)
    assert " int8-fast " in timed.stdout, timed.stderr


def test_int8_is_the_default_and_compared_where_the_engine_rounds(
    quantised: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    result = run(
        "convert", quantised, "--target", "ncnn", "--pictures", pictures, "--out", out, "--force",
        "--size", SIZE_PX, "--size", 64,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "with fake int8 at what int8 layers read ('inputs')" in result.stdout
    assert f"at {SIZE_PX} px" in result.stdout
    assert "at 64 px" in result.stdout
    assert "requantise" in result.stdout
    bundle = read_bundle(out)
    assert (bundle.name, bundle.precision) == ("mos_s-int8-ncnn", "int8")
    assert bundle.defaults.size_px == SIZE_PX
    assert bundle.made["command"].endswith(f"--precision int8 --size {SIZE_PX} --size 64 --force")
    assert [size["size_px"] for size in bundle.made["parity"]["sizes"]] == [SIZE_PX, 64]
    assert any("requantise" in note for note in bundle.made["notes"])
    for size in bundle.made["parity"]["sizes"]:
        # The exact engine's raw outputs, whatever the faces of an untrained net do.
        assert size["sqnr_least_db"] is None or size["sqnr_least_db"] >= 35

    against_float = run(
        "parity", out, "--reference", _float_of(quantised, tmp_path), "--data", pictures, "--size", SIZE_PX
    )
    assert against_float.exit_code == ParityError.exit_code
    assert "give --data with labels" in against_float.stderr


def _float_of(_quantised: Path, folder: Path) -> Path:
    from edgeface.models.checkpoint import Checkpoint, save_checkpoint
    from lively_mos import lively_mos

    path = folder / "float.pt"
    save_checkpoint(path, Checkpoint("mos_s", {"width": "0.5x", "channels": 16}, lively_mos(channels=16).state_dict()))
    return path


def test_tflite_is_compared_with_every_tensor_rounded(
    quantised: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An untrained net blows up a value that falls to the other side of a half, so its dB say little.
    lenient = dataclasses.replace(
        target.get("tflite"), tolerances={"int8": dataclasses.replace(INT8_AGAINST_FLOAT, ap_loss=None, sqnr_db=15)}
    )
    monkeypatch.setitem(target._entries, "tflite", lenient)
    done = convert(quantised, "tflite", out=tmp_path / "b", pictures=pictures, size_px=SIZE_PX)
    assert done.report.reference.endswith("with fake int8 at every tensor ('all')")
    assert done.bundle.verified
    assert done.report.passed


def test_notes_of_a_target_are_shown_and_kept(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = target.get("onnx")

    def write(graph: Graph, paths: Sequence[Path], precision: str) -> list[str]:
        onnx.write(graph, paths, precision)
        return [f"{graph.stem} is fine"]

    monkeypatch.setitem(target._entries, "onnx", dataclasses.replace(onnx, write=write))
    out, path = tmp_path / "b", tmp_path / "report.json"
    result = run(
        "convert", tiny_checkpoint, "--target", "onnx", "--out", out, "--pictures", pictures, "--size", SIZE_PX,
        "--json", path,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    notes = [f"{stem} is fine" for stem in ("dense", "pose8", "pose16", "pose32")]
    assert read_bundle(out).made["notes"] == notes
    lines = result.stdout.splitlines()
    assert lines.index("  passed") < lines.index(notes[0])
    assert json.loads(path.read_text())["passed"] is True


def test_a_full_disk_leaves_nothing(tiny_checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk's: it is the same error to whoever writes."""
    limit_bytes = 20_000
    out = tmp_path / "b"
    command = [
        sys.executable, "-m", "edgeface", "convert", str(tiny_checkpoint), "--target", "onnx", "--out", str(out),
        "--pictures", str(pictures), "--size", str(SIZE_PX),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )
    assert done.returncode == OutputError.exit_code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "cannot be written" in lines[0]
    assert not list(tmp_path.iterdir())
