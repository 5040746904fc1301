"""Commands whose standard streams are closed, as under some service managers and from some programs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-", ">&- 2>&-"]


def shell(command: str, closed: str, here: Path) -> subprocess.CompletedProcess[bytes]:
    line = f"{shlex.quote(sys.executable)} -m edgeface {command} {closed}"
    return subprocess.run(["bash", "-c", line], cwd=here, capture_output=True, timeout=120)


@pytest.mark.parametrize("closed", CLOSED)
def test_detect_works(closed: str, tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), astronaut)
    done = shell("detect a.jpg --json f.jsonl", closed, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    (line,) = (tmp_path / "f.jsonl").read_text().splitlines()
    assert json.loads(line)["faces"]
    assert (tmp_path / "edgeface-out" / "a.jpg").exists()


@pytest.mark.parametrize("closed", CLOSED)
def test_camera_works(closed: str, tmp_path: Path) -> None:
    done = shell("camera demo --size 160 --max-frames 5 --seconds 60 --json f.jsonl", closed, tmp_path)
    assert done.returncode == 0
    records = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert sum(record["type"] == "frame" for record in records) == 5
    assert not [record for record in records if record["type"] == "state" and record["reason"] not in ("", "starting")]


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_mistake_keeps_its_exit_code(closed: str, tmp_path: Path) -> None:
    assert shell("detect none.jpg", closed, tmp_path).returncode == 3
    assert shell("camera --no-such-option", closed, tmp_path).returncode == 2
    assert shell("--help", closed, tmp_path).returncode == 0


def test_the_library_works_where_a_program_closed_them(tmp_path: Path) -> None:
    script = """
import os, sys
for number in (0, 1, 2):
    os.close(number)
import edgeface
frames = 0
for frame, faces in edgeface.stream("demo", model="mos_s", size=160):
    frames += 1
    if frames == 3:
        break
open(sys.argv[1], "w").write(str(frames))
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "frames")], check=True, timeout=120)
    assert (tmp_path / "frames").read_text() == "3"
