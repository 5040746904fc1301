"""``edgeface.load``, what a model's name means, and how little an import costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

import edgeface
from edgeface import weights
from edgeface.bundle import MANIFEST, read_bundle, write_manifest
from edgeface.errors import (
    BundleError,
    BundleHashError,
    CheckpointError,
    EngineError,
    MissingExtraError,
    OptionError,
    UnknownEngineError,
    UnknownModelError,
)
from edgeface.runtime import catalog


@pytest.fixture
def shelf(tmp_path: Path, tiny_bundle: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights in place of the package's: mos_s with two bundles, one of them its default, and a .pt."""
    folder = tmp_path / "weights"
    for name in ("mos_s-fp16-ncnn", "mos_s-fp32-ncnn"):
        shutil.copytree(tiny_bundle, folder / name)
        write_manifest(folder / name, replace(read_bundle(tiny_bundle), name=name))
    shutil.copyfile(tiny_checkpoint, folder / "mos_s.pt")
    monkeypatch.setattr(weights, "directory", lambda: folder)
    monkeypatch.setattr(weights, "DEFAULTS", {"mos_s": "mos_s-fp16-ncnn"})
    return folder


def in_new_python(code: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_everything_in_all_is_there() -> None:
    for name in edgeface.__all__:
        assert getattr(edgeface, name) is not None
        assert name in dir(edgeface)
    assert edgeface.errors.EdgefaceError.exit_code == 1
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        edgeface.lode  # noqa: B018


def test_import_alone_loads_no_numpy() -> None:
    code = "import sys, edgeface; print(edgeface.errors.InputError.__name__, 'numpy' in sys.modules)"
    assert in_new_python(code) == "InputError False"


def test_detecting_with_a_bundle_loads_nothing_of_the_bench(tiny_bundle: Path) -> None:
    code = """
import sys, numpy, edgeface
detector = edgeface.load(sys.argv[1], threads=1)
detector(numpy.zeros((64, 64, 3), numpy.uint8))
heavy = ("torch", "onnx", "onnxruntime", "matplotlib", "pnnx", "skimage", "scipy", "edgeface.models")
print([name for name in heavy if name in sys.modules])
"""
    assert in_new_python(code, tiny_bundle) == "[]"


def test_detecting_fits_a_board(tiny_bundle: Path) -> None:
    # The limit is 200 MB; what is missing here is the larger network's weights, some 10 MB.
    # Not getrusage: its figure begins with the size of the process that started this one.
    code = """
import re, sys, numpy, edgeface
detector = edgeface.load(sys.argv[1], threads=1, size=640)
faces = detector(numpy.random.default_rng(0).integers(0, 256, (480, 640, 3), numpy.uint8))
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    assert int(in_new_python(code, tiny_bundle)) < 170


def test_a_path_gives_the_bundle_and_its_defaults(tiny_bundle: Path) -> None:
    detector = edgeface.load(tiny_bundle)
    defaults = read_bundle(tiny_bundle).defaults
    assert (detector.size_px, detector.score, detector.nms_iou) == (160, defaults.score, defaults.nms_iou)
    assert detector.bundle.engine == "ncnn"
    detector = edgeface.load(str(tiny_bundle), engine="ncnn", threads=2, size=320, score=0.25, nms=0.0)
    assert (detector.size_px, detector.score, detector.nms_iou) == (320, 0.25, 0.0)


def test_a_name_means_the_default_bundle(shelf: Path) -> None:
    assert edgeface.load("mos_s", threads=1).bundle.name == "mos_s-fp16-ncnn"
    assert edgeface.load("mos_s", threads=1, engine="ncnn").bundle.name == "mos_s-fp16-ncnn"
    assert edgeface.load("mos_s-fp32-ncnn", threads=1).bundle.name == "mos_s-fp32-ncnn"
    assert [(entry.name, entry.default) for entry in catalog.shipped()] == [
        ("mos_s-fp16-ncnn", True), ("mos_s-fp32-ncnn", False),
    ]  # fmt: skip


def test_a_name_with_an_engine_means_a_bundle_for_it(shelf: Path) -> None:
    directory = shelf / "mos_s-fp32-ncnn"
    write_manifest(directory, replace(read_bundle(directory), engine="onnx"))
    assert catalog.find("mos_s", "onnx") == directory
    assert catalog.find("mos_s", "ncnn") == shelf / "mos_s-fp16-ncnn"


def test_a_name_with_torch_means_the_checkpoint(shelf: Path, astronaut: NDArray[np.uint8]) -> None:
    detector = edgeface.load("mos_s", engine="torch", threads=1, size=160)
    assert detector.bundle.engine == "torch"
    assert detector.bundle.model == "mos_s"
    assert catalog.shipped_checkpoints() == {"mos_s": shelf / "mos_s.pt"}
    board = edgeface.load("mos_s-fp32-ncnn", threads=1, size=160)
    np.testing.assert_allclose(detector.raw(astronaut)["score32"], board.raw(astronaut)["score32"], atol=1e-2)


def test_a_checkpoint_runs_with_torch_and_nothing_else(tiny_checkpoint: Path) -> None:
    assert edgeface.load(tiny_checkpoint, threads=1).bundle.engine == "torch"
    with pytest.raises(OptionError, match=r"tiny\.pt: a checkpoint runs with the engine torch: convert it for ncnn"):
        edgeface.load(tiny_checkpoint, engine="ncnn")


def test_a_bundle_runs_with_its_own_engine_alone(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="is for the engine ncnn, not torch"):
        edgeface.load(tiny_bundle, engine="torch")


def test_torch_threads_are_put_back(tiny_checkpoint: Path, astronaut: NDArray[np.uint8]) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    edgeface.load(tiny_checkpoint, threads=before + 1, size=64)(astronaut)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["mos_z", "mos_s-fp64-ncnn"])
def test_an_unknown_name_answers_with_the_choices(shelf: Path, name: str) -> None:
    with pytest.raises(UnknownModelError, match="Models: mos_s, mos_s-fp16-ncnn, mos_s-fp32-ncnn"):
        edgeface.load(name)


def test_an_unknown_path_is_named_with_the_choices(shelf: Path) -> None:
    for path in ("no/such/bundle", "runs/best.pt", Path("mos_s")):
        with pytest.raises(UnknownModelError, match=r"Models: mos_s, mos_s-fp16-ncnn"):
            edgeface.load(path)


def test_without_weights_there_are_no_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "directory", lambda: tmp_path)
    with pytest.raises(UnknownModelError, match="Models: none"):
        edgeface.load("mos_s")


def test_an_engine_that_no_bundle_is_for_is_named(shelf: Path) -> None:
    with pytest.raises(OptionError, match="mos_s does not come with a bundle for the engine onnx"):
        edgeface.load("mos_s", engine="onnx")
    with pytest.raises(UnknownEngineError, match="Did you mean 'ncnn'"):
        edgeface.load("mos_s", engine="nccn")


def test_a_bundle_for_an_engine_that_is_not_here_is_refused(shelf: Path) -> None:
    directory = shelf / "mos_s-fp32-ncnn"
    write_manifest(directory, replace(read_bundle(directory), engine="warp"))
    with pytest.raises(UnknownEngineError, match="no engine 'warp'"):
        edgeface.load("mos_s-fp32-ncnn")


def test_a_damaged_bundle_is_refused_before_an_engine_sees_it(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    (copy / "dense.bin").write_bytes((copy / "dense.bin").read_bytes()[:-100])
    with pytest.raises(BundleHashError, match=r"dense\.bin: \d+ bytes are not"):
        edgeface.load(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        edgeface.load(copy)


def test_damage_that_the_hashes_were_made_of_is_refused_by_the_engine(tiny_bundle: Path, tmp_path: Path) -> None:
    from edgeface.bundle import describe_file

    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    (copy / "dense.bin").write_bytes((copy / "dense.bin").read_bytes()[:-100])
    bundle = read_bundle(copy, verify=False)
    write_manifest(copy, replace(bundle, files=[describe_file(copy / f.name) for f in bundle.files]))
    with pytest.raises(EngineError, match=r"dense\.bin: .*copy the bundle again"):
        edgeface.load(copy)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 not a checkpoint")
    with pytest.raises(CheckpointError, match=r"photo\.jpg: "):
        edgeface.load(path)


def test_without_torch_a_checkpoint_names_the_extra(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'tiny\.pt: .*pip install "edgeface\[train\]"'):
        edgeface.load(tiny_checkpoint)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(OptionError, match="threads cannot work"):
        edgeface.load(tiny_bundle, threads=threads)
