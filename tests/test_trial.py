"""Bundles are tried in a child process: what ends it, or takes its time or memory, never reaches this process."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import edgeface
from edgeface import weights
from edgeface.bundle import Bundle, describe_file, read_bundle, write_manifest
from edgeface.errors import BundleError, EngineError
from edgeface.runtime import trial, trial_child

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "bundles"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is known to run here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeface" / "trials"


def copied(name: str, folder: Path, file: str = "", old: str = "", new: str = "") -> Path:
    """A bundled model in ``folder``, with a text replaced in a file and the hashes made anew."""
    directory = folder / name
    shutil.copytree(weights.directory() / name, directory)
    if file:
        text = (directory / file).read_text()
        assert old in text
        (directory / file).write_text(text.replace(old, new, 1))
        rehash(directory)
    return directory


def rehash(directory: Path) -> None:
    bundle = read_bundle(directory, verify=False)
    write_manifest(directory, replace(bundle, files=[describe_file(directory / f.name) for f in bundle.files]))


def edits() -> list[tuple[str, str, str]]:
    """Name, old line and new line of edits that ended the process; those of the repository's neighbour where it is."""
    found = []
    for path in sorted(CASES.glob("*.txt")):
        old, new = re.split(r"\nby\n", re.split(r"replace\n", path.read_text())[1].split("\nset sha")[0])
        found.append((path.stem, old.removeprefix("  "), new.removeprefix("  ")))
    return found or [("kernel", "0=58 1=3", "0=58 1=1")]


@pytest.mark.parametrize(("old", "new"), [edit[1:] for edit in edits()], ids=[edit[0] for edit in edits()])
def test_no_signal_reaches_this_process(tmp_path: Path, cache: Path, old: str, new: str) -> None:
    directory = copied("mos_s-int8-ncnn", tmp_path, "dense.param", old, new)
    with pytest.raises(EngineError, match=str(directory)):
        edgeface.load(directory, threads=1)
    assert not cache.exists()


def test_what_ran_well_is_not_tried_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = copied("mos_s-int8-ncnn", tmp_path)
    tried: list[Path] = []
    run = trial._try
    monkeypatch.setattr(trial, "_try", lambda path, bundle: (tried.append(path), run(path, bundle)))
    for _ in range(2):
        assert len(edgeface.load(directory, threads=1, size=64)(np.zeros((64, 64, 3), np.uint8))) == 0
    assert tried == [directory]
    assert len(list(cache.iterdir())) == 1
    # The same under another name is the same; other content is not.
    moved = directory.rename(tmp_path / "moved")
    edgeface.load(moved, threads=1)
    assert tried == [directory]
    bundle = read_bundle(moved)
    write_manifest(moved, replace(bundle, defaults=replace(bundle.defaults, size_px=320)))
    edgeface.load(moved, threads=1)
    assert tried == [directory, moved]


def test_what_comes_with_edgeface_is_not_tried(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def refuse(_path: Path, _bundle: Bundle) -> None:
        raise AssertionError("tried")

    monkeypatch.setattr(trial, "_try", refuse)
    for name in ("mos_s", "mtcnn", "mhcnn"):
        edgeface.load(name, threads=1)
    edgeface.load("mos_s", refine="tcnn", threads=1)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["mtcnn-int8-ncnn", "tcnn-int8-ncnn", "mos_s-int8-tflite", "mos_s-fp16-ncnn"])
def test_every_kind_of_bundle_passes(tmp_path: Path, name: str) -> None:
    if name.endswith("tflite"):
        pytest.importorskip("ai_edge_litert")
    directory = copied(name, tmp_path)
    trial.require_tried(directory, read_bundle(directory))


def test_a_cache_that_cannot_be_written_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    edgeface.load(copied("mos_s-int8-ncnn", tmp_path), threads=1)


def test_a_child_that_is_stopped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(weights.directory() / "mos_s-int8-ncnn")
    code = "import os, sys; sys.path = {path!r}; print({directory!r}); "
    for end, says in (
        ("os.kill(os.getpid(), 11)", "SIGSEGV"), ("os._exit(0)", "exit 0"), ("import time; time.sleep(60)", "within"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass", "for ever"),
    ):
        monkeypatch.setattr(trial, "_CHILD", code + "\n" + end)
        monkeypatch.setattr(trial, "_TIMEOUT_S", 1.0 if says == "within" else 30.0)
        with pytest.raises(EngineError, match=says):
            trial._try(tmp_path, bundle)


def test_memory_has_a_limit(tmp_path: Path) -> None:
    # Each side is 1,000 times larger: some gigabytes for one map.
    directory = copied("mos_s-int8-ncnn", tmp_path, "dense.param", "14=0", "14=1000000")
    with pytest.raises(EngineError):
        trial.require_tried(directory, read_bundle(directory))


@pytest.mark.parametrize("output", ["score", "attributes"])
def test_outputs_of_a_refinement_are_checked(tmp_path: Path, output: str) -> None:
    # Padding gives them rows and columns; at 65,535 instead of 1 they take a gigabyte on as many crops as there may be.
    directory = copied("tcnn-int8-ncnn", tmp_path)
    net = directory / "tcnn.param"
    lines = [line.replace(" 4=0 ", " 4=1 ") if f" {output} " in line else line for line in net.read_text().splitlines()]
    net.write_text("\n".join(lines))
    rehash(directory)
    bundle = read_bundle(directory)
    # No threshold spares an output the check.
    bundle = replace(bundle, stages=[stage.with_threshold(1.0) for stage in bundle.face_stages])
    with pytest.raises(BundleError, match=f"output {output} is . x 4 x 3 on 4 crops"):
        trial_child.try_bundle(directory, bundle)


@pytest.mark.parametrize("name", ["bundle.json", "dense.bin", "dense.param"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link in a circle", "sparse"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    path = copied("mos_s-int8-ncnn", tmp_path) / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        with path.open("wb") as stream:
            stream.truncate(1 << 40)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    with pytest.raises(edgeface.errors.BundleError, match=rf"{name}: .*(is a (pipe|device)|links|bytes)"):
        edgeface.load(path.parent)


def test_an_emulated_process_that_can_start_none_like_itself_goes_without(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "python3"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(200))
    foreign.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(foreign))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(tiny_bundle, tmp_path / "copy")
    assert edgeface.load(folder, threads=1)(np.zeros((64, 64, 3), np.uint8)) is not None
