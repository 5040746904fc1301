"""``edgeface convert`` as a user runs it: real conversions of an untrained net, and everything that can be wrong."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from edgeface.convert import Conversion, DepartedError, Tolerance, convert, target
from edgeface.convert.ncnn import rename_blobs, run_pnnx

import edgeface
from edgeface.bundle import Bundle, read_bundle, sha256_of
from edgeface.cli import main
from edgeface.errors import (
    CheckpointError,
    ConversionError,
    DuplicateNameError,
    MissingExtraError,
    OptionError,
    OutputError,
    ParityError,
    UnknownModelError,
    UnknownTargetError,
)
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.mos_export import graphs
from edgeface.runtime.engines import Session
from edgeface.runtime.loading import open_sessions
from lively_mos import save_lively_mos, scenes
from lively_patches import save_lively

SIZE_PX = 192


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively_mos(tmp_path_factory.mktemp("checkpoint") / "mine.pt")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, scene in enumerate(scenes(4)):
        cv2.imwrite(str(folder / f"{i}.png"), scene)
    return folder


@pytest.fixture(scope="module")
def ncnn_fp32(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    out = tmp_path_factory.mktemp("ncnn") / "fp32"
    return convert(checkpoint, "ncnn", precision="fp32", out=out, pictures=pictures, size_px=SIZE_PX)


@pytest.fixture(scope="module")
def onnx_fp32(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    return convert(checkpoint, "onnx", out=tmp_path_factory.mktemp("onnx") / "b", pictures=pictures, size_px=SIZE_PX)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one small net, for what is the same whatever is converted."""
    return save_lively(tmp_path_factory.mktemp("small") / "tcnn.pt", "tcnn")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["convert", *(str(a) for a in arguments)])


def one_line_of_error(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_ncnn_fp32_is_torch_s_equal(ncnn_fp32: Conversion) -> None:
    report, bundle = ncnn_fp32.report, ncnn_fp32.bundle
    assert report.passed
    assert bundle.verified
    (size,) = report.sizes
    assert size.size_px == SIZE_PX
    assert {m.name for m in size.maps} == {
        f"{kind}{stride}" for kind in ("score", "box", "landmarks", "features", "logits") for stride in (8, 16, 32)
    }
    assert all(m.span > 0 and m.share <= 1e-3 for m in size.maps)
    assert size.faces.pictures == 4
    assert size.faces.reference > 10      # or the faces half would have said nothing
    assert size.faces.matched + size.faces.ties >= size.faces.reference
    assert size.faces.iou_least >= 0.99
    assert size.faces.score_difference <= 0.005


def test_the_bundle_says_what_it_is_and_how_it_was_made(ncnn_fp32: Conversion, checkpoint: Path) -> None:
    bundle = read_bundle(ncnn_fp32.directory)
    assert bundle == ncnn_fp32.bundle
    assert (bundle.name, bundle.model, bundle.precision, bundle.engine) == ("mos_s-fp32-ncnn", "mos_s", "fp32", "ncnn")
    assert (bundle.licence, bundle.metrics) == ("tests only", {"ap_easy": 0.5})
    assert (bundle.defaults.size_px, bundle.defaults.score, bundle.defaults.nms_iou) == (SIZE_PX, 0.6, 0.4)
    made = bundle.made
    assert made["command"] == f"edgeface convert mine.pt --target ncnn --precision fp32 --size {SIZE_PX}"
    assert made["checkpoint"]["sha256"] == sha256_of(checkpoint)
    assert made["versions"]["torch"] == torch.__version__
    assert {"edgeface", "pnnx", "ncnn", "onnx"} <= set(made["versions"])
    assert made["parity"]["sizes"][0]["faces"] == ncnn_fp32.report.sizes[0].faces.reference
    assert str(checkpoint.parent) not in (ncnn_fp32.directory / "bundle.json").read_text()
    files = {f"{stem}.{end}" for stem in ("dense", "pose8", "pose16", "pose32") for end in ("bin", "param")}
    assert {path.name for path in ncnn_fp32.directory.iterdir()} == {"bundle.json", *files}


def test_the_ncnn_graph_has_no_channel_shuffles_and_no_fixed_shape(ncnn_fp32: Conversion) -> None:
    lines = (ncnn_fp32.directory / "dense.param").read_text().splitlines()
    kinds = [line.split()[0] for line in lines[2:]]
    assert not {"ShuffleChannel", "Reshape", "Permute", "Crop"} & set(kinds)


def dense_of(bundle: Bundle, directory: Path) -> Session:
    return open_sessions(directory, bundle, 1)[0][0]


@pytest.mark.parametrize("engine", ["ncnn", "onnx"])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (320, 256), (640, 640), (96, 64), (32, 416)])
def test_any_multiple_of_32_works(
    request: pytest.FixtureRequest, checkpoint: Path, engine: str, width: int, height: int
) -> None:
    done: Conversion = request.getfixturevalue(f"{engine}_fp32")
    whole = graphs(load_checkpoint(checkpoint).build())[0]
    x = np.random.default_rng(1).uniform(-1, 1, (3, height, width)).astype(np.float32)
    with torch.inference_mode():
        expected = whole.module(torch.from_numpy(x)[None])
    actual = dense_of(done.bundle, done.directory).run(x)
    for name, reference in zip(whole.outputs, expected, strict=True):
        got = actual.output(name)
        assert got.shape == tuple(reference.shape[1:])
        assert np.abs(got - reference[0].numpy()).max() <= 1e-3 * float(reference.max() - reference.min()), name


@pytest.mark.parametrize("engine", ["ncnn", "onnx"])
@pytest.mark.parametrize("faces", [1, 3, 17])
def test_pose_nets_take_any_number_of_faces(
    request: pytest.FixtureRequest, checkpoint: Path, engine: str, faces: int
) -> None:
    done: Conversion = request.getfixturevalue(f"{engine}_fp32")
    sessions = open_sessions(done.directory, done.bundle, 1)[1]
    x = np.random.default_rng(2).normal(size=(64, 3, 3 * faces)).astype(np.float32)
    for session, graph in zip(sessions, graphs(load_checkpoint(checkpoint).build())[1:], strict=True):
        with torch.inference_mode():
            expected = graph.module(torch.from_numpy(x)[None])[0].numpy()
        actual = session.run(x).output("logits")
        assert actual.shape == (198, 1, faces)
        assert np.abs(actual - expected).max() <= 1e-3 * np.ptp(expected)


def test_onnx_finds_the_same_faces(onnx_fp32: Conversion) -> None:
    assert onnx_fp32.report.passed
    assert onnx_fp32.bundle.name == "mos_s-fp32-onnx"
    assert [file.name for file in onnx_fp32.bundle.files] == [
        "dense.onnx", "pose8.onnx", "pose16.onnx", "pose32.onnx"
    ]


def test_free_dimensions_of_onnx_outputs_have_their_own_names(onnx_fp32: Conversion) -> None:
    """onnxruntime takes dimensions of one name for equal, and reuses the memory of one map for another by that."""
    import onnx

    graph = onnx.load(onnx_fp32.directory / "dense.onnx").graph
    free = [d.dim_param for o in (*graph.input, *graph.output) for d in o.type.tensor_type.shape.dim if d.dim_param]
    assert len(free) == 2 * (1 + len(graph.output))
    assert len(set(free)) == len(free)


def test_fp16_command_line_to_detector(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default: fp16, named after what it is, in the current folder; with the full width it stays under 3 MB."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    path = save_lively_mos(tmp_path / "runs" / "mos_s.pt", "1.0x")
    result = run(path, "--target", "ncnn", "--pictures", pictures, "--size", SIZE_PX, "--json", "report.json")
    assert result.exit_code == 0, result.stderr
    assert "mos_s-fp16-ncnn against torch" in result.stdout
    assert f"4 of 4 pictures, {pictures.name}" in result.stdout
    assert "MB" in result.stdout.splitlines()[-2]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is True
    assert report["sizes"][0]["faces"]["reference"] > 10

    directory = tmp_path / "mos_s-fp16-ncnn"
    bundle = read_bundle(directory)
    assert bundle.verified
    assert sum(file.stat().st_size for file in directory.iterdir()) < 3e6
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "report.json", "mos_s-fp16-ncnn"}
    image = cv2.imread(str(pictures / "0.png"))
    assert image is not None
    found = edgeface.load(directory)(image.astype(np.uint8))
    expected = edgeface.load(path, size=SIZE_PX)(image.astype(np.uint8))
    assert len(found) > 0
    assert np.allclose(found.boxes[0], expected.boxes[0], atol=0.05 * SIZE_PX)


def tolerate(monkeypatch: pytest.MonkeyPatch, name: str, tolerance: Tolerance) -> None:
    """Give a target's fp32 another tolerance for one test."""
    strict = dataclasses.replace(target.get(name), tolerances={"fp32": tolerance})
    monkeypatch.setitem(target._entries, name, strict)


NOTHING_ALLOWED = Tolerance(raw=0, iou=0.99, score=0)


def test_missed_parity_writes_nothing(
    small: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tolerate(monkeypatch, "onnx", NOTHING_ALLOWED)
    report_path = tmp_path / "report.json"
    result = run(
        small, "--target", "onnx", "--out", tmp_path / "b", "--pictures", pictures, "--json", report_path
    )
    assert result.exit_code == ParityError.exit_code
    assert "no bundle was written" in result.stderr.splitlines()[-1]
    assert "FAILED" in result.stderr
    assert json.loads(report_path.read_text())["passed"] is False
    assert list(tmp_path.iterdir()) == [report_path]


def test_force_writes_it_as_not_verified_and_a_good_one_replaces_it(
    small: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as strict:
        tolerate(strict, "onnx", NOTHING_ALLOWED)
        with pytest.raises(DepartedError) as missed:
            convert(small, "onnx", out=tmp_path / "b", pictures=pictures)
        assert missed.value.report.failures
        done = convert(small, "onnx", out=tmp_path / "b", pictures=pictures, force=True)
    assert not done.report.passed
    forced = read_bundle(tmp_path / "b")
    assert not forced.verified
    assert forced.made["command"].endswith("--force")
    convert(small, "onnx", out=tmp_path / "b", pictures=pictures)
    assert read_bundle(tmp_path / "b").verified
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_unknown_target_names_the_nearest(checkpoint: Path) -> None:
    result = run(checkpoint, "--target", "nccn")
    assert result.exit_code == UnknownTargetError.exit_code
    assert one_line_of_error(result) == "edgeface: no target 'nccn'. Did you mean 'ncnn'? Targets: ncnn, onnx, tflite."
    with pytest.raises(DuplicateNameError, match="ncnn"):
        target("ncnn")(target.get("onnx"))


def test_unknown_model_names_the_choices() -> None:
    result = run("mos_z", "--target", "ncnn")
    assert result.exit_code == UnknownModelError.exit_code
    assert one_line_of_error(result).startswith("edgeface: no model 'mos_z'.")


def test_unknown_precision_names_the_choices(checkpoint: Path) -> None:
    result = run(checkpoint, "--target", "ncnn", "--precision", "fp8")
    assert result.exit_code == OptionError.exit_code
    assert one_line_of_error(result) == "edgeface: target ncnn has no precision 'fp8': choose fp16 or fp32"


def test_a_size_that_cannot_work(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, "--target", "onnx", "--out", tmp_path / "b", "--size", "16")
    assert result.exit_code == OptionError.exit_code
    assert "size 16 cannot work" in one_line_of_error(result)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no checkpoint at all" * 100])
def test_damaged_checkpoint(tmp_path: Path, content: bytes) -> None:
    damaged = tmp_path / "mos_s.pt"
    damaged.write_bytes(content)
    result = run(damaged, "--target", "ncnn", "--out", tmp_path / "b")
    assert result.exit_code == CheckpointError.exit_code
    assert str(damaged) in one_line_of_error(result)
    assert list(tmp_path.iterdir()) == [damaged]


def test_truncated_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "mos_s.pt"
    damaged.write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=r"mos_s\.pt: damaged"):
        convert(damaged, "onnx", out=tmp_path / "b")


def test_a_bundle_is_not_a_checkpoint(onnx_fp32: Conversion) -> None:
    result = run(onnx_fp32.directory, "--target", "ncnn")
    assert result.exit_code == CheckpointError.exit_code
    assert "give the checkpoint" in one_line_of_error(result)


def test_out_that_is_not_a_bundle_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    precious = tmp_path / "holiday.jpg"
    precious.write_bytes(b"precious")
    result = run(checkpoint, "--target", "onnx", "--out", tmp_path)
    assert result.exit_code == OutputError.exit_code
    assert "exists and is not a bundle" in one_line_of_error(result)
    assert list(tmp_path.iterdir()) == [precious]


def test_pictures_that_are_not_there(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, "--target", "onnx", "--out", tmp_path / "b", "--pictures", tmp_path / "nowhere")
    assert result.exit_code == 3
    assert "nowhere: not a folder" in one_line_of_error(result)
    assert not list(tmp_path.iterdir())


def test_missing_package_names_the_extra(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", None)
    result = run(checkpoint, "--target", "ncnn", "--out", tmp_path / "b")
    assert result.exit_code == MissingExtraError.exit_code
    assert "pnnx" in one_line_of_error(result)
    assert 'pip install "edgeface[convert]"' in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_nothing(
    checkpoint: Path, pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ["convert", str(checkpoint), "--target", "ncnn", "--pictures", str(pictures)]
    command = [sys.executable, "-m", "edgeface", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [path.name.startswith(".edgeface-") for path in tmp_path.iterdir()] == [True]
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_pnnx_s_own_words_are_in_the_error(tmp_path: Path) -> None:
    broken = tmp_path / "dense.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(ConversionError, match=r"dense: pnnx failed \(exit status -?\d+\): \S"):
        run_pnnx(broken, fp16=False)


PARAM = """7767517
3 3
Input                    in0                      0 1 in0
Convolution              conv_0                   1 1 in0 1 0=4 1=1 5=1 6=12
ReLU                     relu_0                   1 1 1 out0
"""


def test_blobs_are_renamed_and_parameters_are_not() -> None:
    renamed = rename_blobs(PARAM, {"in0": "data", "out0": "score8", "1": "5"}).splitlines()
    assert [line.split() for line in renamed[2:]] == [
        ["Input", "data", "0", "1", "data"],
        ["Convolution", "conv_0", "1", "1", "data", "5", "0=4", "1=1", "5=1", "6=12"],
        ["ReLU", "relu_0", "1", "1", "5", "score8"],
    ]
    with pytest.raises(ConversionError, match="no blob out1"):
        rename_blobs(PARAM, {"in0": "data", "out1": "box8"})
    with pytest.raises(ConversionError, match=r"no ncnn \.param"):
        rename_blobs("something else", {})


def test_importing_the_package_loads_no_torch() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "pnnx")
    code = f"import sys, edgeface.convert; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
