"""``edgeface detect`` that cannot write or is told to stop: nothing half-written, and one line that says why."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detect_command import Detect, clip, error_lines, everything, lines_of, names, photo, process


def limited(size_bytes: int) -> dict[str, Any]:
    """Options of a process whose files are cut at that size: not those of Python's own cache, which others read."""
    return {
        "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes)),
        "env": os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    }


def test_a_disk_that_takes_no_more_leaves_nothing_half_written(
    here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path
) -> None:
    """A limit on the size of files refuses in the middle of a picture and of a video, as a full disk does."""
    photo(here / "large.png", astronaut)
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    clip(here / "large.avi", noise, 20, "MJPG")
    photo(here / "small.png", astronaut[:64, :64])
    sources = ("large.png", "large.avi", "small.png")
    started = process(*sources, model=tiny_bundle, **limited(40_000), stdout=subprocess.PIPE)
    out, complaints = started.communicate()
    lines = complaints.decode().splitlines()
    assert started.returncode == 10
    assert [line.split(":")[1].strip() for line in lines] == [
        "edgeface-out/large.png", "edgeface-out/large.mp4", "2 of 3 failed",
    ]
    assert out.decode().startswith("small.png: ")
    assert everything(here / "edgeface-out") == ["small.png"]


def test_json_that_cannot_be_written_ends_the_run(here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path) -> None:
    photo(here / "a.png", astronaut)
    (here / "old.jsonl").write_text("what was there")
    started = process(
        "a.png", "--no-draw", "--score", "0.001", "--nms", "1", "--json", "old.jsonl",
        model=tiny_bundle, **limited(4096),
    )
    _, complaints = started.communicate()
    assert started.returncode == 10
    assert complaints.decode().startswith("edgeface: old.jsonl: cannot be written: File too large")
    assert len(complaints.decode().splitlines()) == 1
    assert (here / "old.jsonl").read_text() == "what was there"
    assert everything(here) == ["a.png", "old.jsonl"]


def test_a_full_disk_says_so(detect: Detect, here: Path, astronaut: NDArray[np.uint8], monkeypatch: Any) -> None:
    def write(self: Path, _data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    photo(here / "a.png", astronaut)
    monkeypatch.setattr(Path, "write_bytes", write)
    result = detect("a.png")
    assert result.exit_code == 10
    assert error_lines(result) == [
        "edgeface: edgeface-out/a.png: cannot be written: No space left on device: "
        "free some space, or choose another place"
    ]
    assert everything(here) == ["a.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json", "-"]])
def test_standard_output_that_cannot_be_written(
    here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path, options: Sequence[str]
) -> None:
    photo(here / "a.png", astronaut)
    with Path("/dev/full").open("wb") as full:
        started = process("a.png", "--no-draw", *options, model=tiny_bundle, stdout=full)
        _, complaints = started.communicate()
    assert started.returncode == 10
    assert complaints.decode().splitlines() == [
        "edgeface: standard output: cannot be written: No space left on device: "
        "free some space, or choose another place"
    ]


def test_a_reader_that_leaves_ends_the_run_quietly(here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path) -> None:
    for i in range(20):
        photo(here / "photos" / f"{i:02}.png", astronaut[:64, :64])
    started = process("photos", model=tiny_bundle, stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()
    started.stdout.close()
    assert started.stderr is not None
    assert started.stderr.read() == b""
    assert started.wait() == 1
    assert all(not name.startswith(".") for name in names(here / "edgeface-out"))


@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_leaves_nothing_half_written(
    here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path, sent: signal.Signals, exit_code: int
) -> None:
    clip(here / "clip.avi", cv2.resize(astronaut, (640, 480)), 600, "MJPG")
    started = process("clip.avi", "--json", "faces.jsonl", "--size", "320", model=tiny_bundle, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any((here / "edgeface-out").glob(".*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(sent)
    _, complaints = started.communicate(timeout=60)
    assert started.returncode == exit_code
    if sent == signal.SIGINT:
        assert complaints.decode().splitlines() == ["edgeface: stopped"]
        records = lines_of((here / "faces.jsonl").read_text())
        kept = cv2.VideoCapture(str(here / "edgeface-out" / "clip.mp4"))
        assert 0 < len(records) == kept.get(cv2.CAP_PROP_FRAME_COUNT) < 600
        assert [record["frame"] for record in records] == list(range(len(records)))
        assert everything(here) == ["clip.avi", "edgeface-out/clip.mp4", "faces.jsonl"]
    else:
        assert complaints.decode() == ""
        assert everything(here) == ["clip.avi"]


def test_ctrl_c_among_pictures_keeps_those_that_are_done(
    here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path
) -> None:
    for i in range(300):
        photo(here / "photos" / f"{i:03}.png", astronaut)
    started = process("photos", "--json", "faces.jsonl", model=tiny_bundle, stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()
    started.send_signal(signal.SIGINT)
    out, complaints = started.communicate(timeout=60)
    assert (started.returncode, complaints.decode()) == (130, "edgeface: stopped\n")
    records = lines_of((here / "faces.jsonl").read_text())
    assert len(records) == len(out.decode().splitlines()) + 1 == len(names(here / "edgeface-out")) < 300


def test_a_disk_that_is_full_ends_a_video_and_not_after_all_of_it(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(here / "clip.avi", astronaut[:64, :64], 30, "MJPG")
    looks = []
    usual = os.statvfs

    def filling(path: Any) -> os.statvfs_result:
        looks.append(path)
        values = list(usual(path))
        if len(looks) > 1:
            values[3] = values[4] = 0       # f_bfree and f_bavail
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", filling)
    result = detect("clip.avi")
    assert result.exit_code == 10
    assert error_lines(result) == [
        "edgeface: edgeface-out/clip.mp4: cannot be written: No space left on device: "
        "free some space, or choose another place"
    ]
    assert len(looks) == 2
    assert everything(here) == ["clip.avi"]


def test_names_that_are_no_text(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    odd = os.fsdecode(b"caf\xe9\x1b[31m.png")
    photo(here / "a.png", astronaut).rename(here / odd)
    result = detect(".", "--json", "faces.jsonl")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    (record,) = lines_of((here / "faces.jsonl").read_text())
    assert record["image"] == "caf\N{REPLACEMENT CHARACTER}\x1b[31m.png"
    assert names(here / "edgeface-out") == [odd]


