"""What a run leaves that was killed: no process, and no temporary that the next run does not sweep."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeface.atomic import replacing, sweep, temporary_name, working_folder, write_bytes

WRITER = """
import sys, time
from pathlib import Path
from edgeface.atomic import replacing, working_folder
with replacing(Path(sys.argv[1]) / "a.json") as temporary, working_folder(Path(sys.argv[1])) as work:
    temporary.write_text("half")
    (work / "net.bin").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""
DEADLINE_S = 60.0


def writer(folder: Path) -> subprocess.Popen[bytes]:
    started = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started


def test_the_next_run_sweeps_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    killed, living = writer(tmp_path), writer(tmp_path)
    killed.kill()
    killed.communicate()
    others = [".edgeface-notes", ".edgeface-1-xyz.json", f".edgeface-{'9' * 12}-{'0' * 12}", "a.edgeface-1"]
    for name in others:
        (tmp_path / name).touch()
    assert len(list(tmp_path.glob(f".edgeface-{killed.pid}-*"))) == 2
    write_bytes(tmp_path / "b.json", b"{}")
    assert list(tmp_path.glob(f".edgeface-{killed.pid}-*")) == []
    assert len(list(tmp_path.glob(f".edgeface-{living.pid}-*"))) == 2
    living.kill()
    living.communicate()
    with working_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b.json", *others])


def gone_process() -> int:
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def test_what_another_machine_holds_stays(tmp_path: Path) -> None:
    held = tmp_path / f".edgeface-{gone_process()}-{'a' * 12}.json"
    with held.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        sweep(tmp_path)
        assert held.exists()
    sweep(tmp_path)
    assert not held.exists()


def test_a_pipe_or_a_link_in_the_way_is_harmless(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.touch()
    pid = gone_process()
    os.mkfifo(tmp_path / f".edgeface-{pid}-{'a' * 12}.json")
    (tmp_path / f".edgeface-{pid}-{'b' * 12}").symlink_to(kept)
    sweep(tmp_path)
    sweep(tmp_path / "none")
    assert kept.exists()


def test_a_run_does_not_sweep_its_own(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "b") as second:
        assert first.exists()
        assert second.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert temporary_name(tmp_path, ".x").name.startswith(f".edgeface-{os.getpid()}-")


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("first", [signal.SIGSTOP, signal.SIGCONT])
def test_a_capture_process_does_not_outlive_a_supervisor_that_is_killed(first: signal.Signals, tmp_path: Path) -> None:
    """Not even one that is stopped, which reads no word and sees no end of its connection."""
    lines = tmp_path / "f.jsonl"
    camera = subprocess.Popen(
        [sys.executable, "-m", "edgeface", "camera", "demo", "--size", "160", "--json", str(lines)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_S
    while not (lines.exists() and b'"frame"' in lines.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    (child,) = children_of(camera.pid)
    os.kill(child, first)
    camera.kill()
    camera.wait()
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    survived = is_alive(child)
    if survived:
        os.kill(child, signal.SIGKILL)
    assert not survived
