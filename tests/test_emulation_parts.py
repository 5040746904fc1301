"""Parts of a root are made whole or not at all; what changes afterwards is noticed. Locks and other programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from edgeface.devices.emulation.parts import Part
from edgeface.devices.emulation.programs import locked, run
from edgeface.devices.progress import silent

from edgeface.errors import DeviceError, InstallError, OutputError


def _maker(content: str) -> Callable[[Path], dict[str, str]]:
    def make(directory: Path) -> dict[str, str]:
        (directory / "a").write_text(content)
        (directory / "sub").mkdir()
        (directory / "sub" / "b").write_text("b")
        (directory / "link").symlink_to("a")
        return {"source": content}

    return make


def _refuse(_directory: Path) -> dict[str, str]:
    raise AssertionError("it was made although it was there")


def test_a_part_is_made_once_for_a_key(tmp_path: Path) -> None:
    part = Part(tmp_path / "part")
    part.ensure("one", "it", _maker("1"), silent)
    part.ensure("one", "it", _refuse, silent)
    part.ensure("two", "it", _maker("2"), silent)
    assert (tmp_path / "part" / "a").read_text() == "2"
    record = part.record()
    assert record is not None
    assert record.made_of == {"source": "2"}
    assert sorted(record.files) == ["a", "link", "sub/b"]


def test_nothing_but_the_part_and_its_record_is_left(tmp_path: Path) -> None:
    part = Part(tmp_path / "part")
    part.ensure("one", "it", _maker("1"), silent)
    part.ensure("two", "it", _maker("2"), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part", "part.json"]


def test_a_step_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    part = Part(tmp_path / "part")
    part.ensure("one", "it", _maker("1"), silent)

    def fail(directory: Path) -> dict[str, str]:
        (directory / "a").write_text("half")
        raise DeviceError("no network")

    with pytest.raises(DeviceError, match="no network"):
        part.ensure("two", "it", fail, silent)
    part.ensure("one", "it", _refuse, silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part", "part.json"]


@pytest.mark.parametrize("damage", ["cut short", "lost", "same size"])
def test_a_file_that_changed_has_its_part_made_anew(tmp_path: Path, damage: str) -> None:
    part = Part(tmp_path / "part")
    part.ensure("one", "it", _maker("right"), silent)
    path = tmp_path / "part" / "a"
    if damage == "lost":
        path.unlink()
    else:
        path.write_text("rig" if damage == "cut short" else "wrong")
        os.utime(path, ns=(1, 1))
    said: list[str] = []
    part.ensure("one", "it", _maker("right"), said.append)
    assert path.read_text() == "right"
    assert said == ["it: a was changed since: made anew"]


def test_a_changed_content_behind_the_same_size_and_time_is_found_by_reading(tmp_path: Path) -> None:
    part = Part(tmp_path / "part")
    part.ensure("one", "it", _maker("right"), silent)
    path = tmp_path / "part" / "a"
    before = path.stat()
    path.write_text("wrong")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    part.ensure("one", "it", _refuse, silent)
    assert part.damaged() == ["a"]
    part.ensure("one", "it", _maker("right"), silent)
    assert path.read_text() == "right"
    assert part.damaged() == []


def test_a_process_that_is_killed_in_a_step_leaves_a_part_that_the_next_one_makes(tmp_path: Path) -> None:
    script = f"""
import pathlib, time
from edgeface.devices.emulation.parts import Part
from edgeface.devices.emulation.programs import locked
from edgeface.devices.progress import silent
def make(directory):
    (directory / "a").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
home = pathlib.Path({str(tmp_path)!r})
with locked(home / "lock"):
    Part(home / "part").ensure("one", "it", make, silent)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        with pytest.raises(DeviceError, match="another edgeface has held it"), \
                locked(tmp_path / "lock", timeout_s=0.5):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    part = Part(tmp_path / "part")
    assert not part.directory.exists()
    with locked(tmp_path / "lock", timeout_s=5):
        part.ensure("one", "it", _maker("1"), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "part", "part.json"]


def test_who_waits_for_a_lock_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(tmp_path / "lock"), pytest.raises(DeviceError), locked(tmp_path / "lock", said.append, timeout_s=1):
        pass
    assert said == ["waiting for another edgeface that prepares the same"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "file" / "lock"):
        pass


def _python(code: str, timeout_s: float = 30.0) -> str:
    return run([sys.executable, "-c", code], what="it cannot be done", timeout_s=timeout_s, next_step="do this")


def test_a_program_gives_its_output() -> None:
    assert _python("print('here')") == "here\n"


@pytest.mark.parametrize(("said", "line"), [
    ("warning: old\\nERROR: no such wheel.\\nmore", "it cannot be done: ERROR: no such wheel: do this"),
    ("E: Failed to fetch x\\nE: Some files", "it cannot be done: E: Failed to fetch x: do this"),
    ("note\\na.c:3:1: error: no such type\\n1 error generated.",
     "it cannot be done: a.c:3:1: error: no such type: do this"),
    ("one\\nlast", "it cannot be done: last: do this"),
    ("", "it cannot be done: exit code 3: do this"),
])
def test_a_program_that_fails_is_one_line_with_its_reason(said: str, line: str) -> None:
    with pytest.raises(DeviceError) as caught:
        _python(f"import sys; sys.stderr.write('{said}'); sys.exit(3)")
    assert str(caught.value) == line


def test_a_program_that_hangs_is_ended_at_its_deadline() -> None:
    started_s = time.monotonic()
    with pytest.raises(DeviceError, match="did not end within 1 s: do this"):
        _python("import time; time.sleep(120)", timeout_s=1.0)
    assert time.monotonic() - started_s < 60


def test_a_full_disk_is_said_as_such() -> None:
    with pytest.raises(OutputError, match="no space left on the disk"):
        _python("import sys; sys.stderr.write('cp: a: No space left on device'); sys.exit(1)")


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises((InstallError, DeviceError), match="no-such-program"):
        run(["/no-such-program"], what="it cannot be done", timeout_s=10, next_step="do this")
