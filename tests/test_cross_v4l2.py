"""The trials on a real /dev/video0: what they take for right, and the machine that they run in.

The trials themselves take minutes: python cross/try_v4l2.py.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import camera_trials
from arm_code import without_programs
from camera_trials import Outcome, WrongError
from edgeface.errors import DeviceError, InstallError
from prerequisites import load_order
from virtual_machine import Initramfs, boot, find_qemu

_BARS = [[163, 163, 163], [13, 165, 164], [162, 163, 11], [5, 156, 5], [162, 11, 161], [0, 0, 179], [188, 0, 0],
         [0, 0, 0]]
_LUMA = [163, 154, 130, 114, 54, 38, 13, 0]
_SHAPES = {"yuyv": (180, 320, 2), "nv12": (270, 320), "grey": (180, 320), "bgr": (180, 320, 3)}


def _looks() -> list[dict[str, Any]]:
    """What look.py writes in the emulated machine."""
    return [
        {"asked": asked, "given": given, "shape": _SHAPES[given], "width": 320, "height": 180, "fps": 25.0,
         "age_ms": 330.0, "bars": [[luma] * 3 for luma in _LUMA] if given == "grey" else _BARS}
        for asked, given in [*((name, name) for name in _SHAPES), ("mjpeg", "bgr")]
    ]


def _run(*words: str) -> list[dict[str, Any]]:
    """Lines of ``edgeface camera``: a state for each word that is one, and as many frames as a number says."""
    lines: list[dict[str, Any]] = []
    starts = number = 0
    for word in words:
        starts += word == "online"
        if not word.isdigit():
            lines.append({"type": "state", "state": word, "starts": starts, "time": float(len(lines))})
            continue
        for _ in range(int(word)):
            number += 7
            lines.append({"type": "frame", "state": "online", "time": float(len(lines)), "width": 320, "height": 180,
                          "frame": number})
    return lines


def _outcome(out: list[dict[str, Any]], code: int | None = 0, err: tuple[str, ...] = ()) -> Outcome:
    return Outcome("trial", code, [msgspec.json.encode(line).decode() for line in out], list(err), 9.0)


def _judge(name: str) -> Callable[[Outcome], str]:
    return next(trial.judge for trial in camera_trials.TRIALS if trial.step.name == name)


def test_pictures_in_all_formats_are_right() -> None:
    assert "yuyv as yuyv 320 x 180" in _judge("pixel formats")(_outcome(_looks()))


@pytest.mark.parametrize(("number", "changed", "said"), [
    (0, {"bars": [[r, g, b] for b, g, r in _BARS]}, "yuyv: a bar of the colour"),
    (1, {"bars": _BARS[:7]}, "nv12: 7 bars"),
    (1, {"age_ms": 0.6}, "nv12: a frame that waited counts as 1 ms old"),
    (2, {"bars": [[luma] * 3 for luma in reversed(_LUMA)]}, "grey: the bars do not get darker"),
    (0, {"given": "bgr", "shape": _SHAPES["bgr"]}, "yuyv asked, bgr"),
    (1, {"shape": (180, 320)}, r"nv12 asked, nv12 \(180, 320\) given"),
    (3, {"error": "no pictures"}, "bgr: no pictures"),
])
def test_a_wrong_picture_is_noticed(number: int, changed: dict[str, Any], said: str) -> None:
    looks = _looks()
    looks[number] |= changed
    with pytest.raises(WrongError, match=said):
        _judge("pixel formats")(_outcome(looks))


def test_a_format_that_was_not_looked_at_is_missed() -> None:
    with pytest.raises(WrongError, match=r"looked at yuyv, nv12, grey, bgr$"):
        _judge("pixel formats")(_outcome(_looks()[:4]))


@pytest.mark.parametrize(("name", "lines", "said"), [
    ("yuyv", _run("offline", "online", "4"), "4 frames and not 5"),
    ("yuyv", _run("offline", "online", "3", "offline", "online", "2"), "offline, online, offline, online"),
    ("nv12", _run("offline", "online", "5"), "320 x 180 and not 640 x 480"),
    ("yuyv", [*_run("offline", "online", "4"), _run("1")[0]], "do not rise"),
    ("unplugged", _run("offline", "online", "10"), "the camera was offline, online"),
    ("unplugged", _run("offline", "online", "10", "offline"), "started 1 times"),
    ("unplugged", _run("offline", "online", "10", "offline", "online"), "0 of 10 frames came after"),
])
def test_a_wrong_run_is_noticed(name: str, lines: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(WrongError, match=said):
        _judge(name)(_outcome(lines))


def test_runs_with_and_without_a_lost_camera_are_right() -> None:
    other = "edgeface: /dev/video0: the camera gives height 180 for 240"
    frames = _run("offline", "online", "5")
    assert _judge("yuyv")(_outcome(frames, err=(other,))).startswith("5 frames of 320 x 180")
    with pytest.raises(WrongError, match="in place of what was asked is not said"):
        _judge("yuyv")(_outcome(frames))
    back = _judge("unplugged")(_outcome(_run("offline", "online", "6", "offline", "offline", "online", "4")))
    assert back.startswith("6 frames, then")
    assert back.endswith("4 frames more")


@pytest.mark.parametrize(("code", "err", "said"), [
    (0, ("edgeface: /dev/video0: in use by another program: close it",), "exit code 0 and not 13"),
    (None, (), "did not end within 9 s"),
    (13, (), "0 of errors"),
    (13, ("edgeface: /dev/video0: OpenCV gets no pictures from it",), "does not say in use by another program"),
    (13, ("Traceback: /dev/video0 in use by another program",), "does not say who speaks"),
])
def test_a_wrong_refusal_is_noticed(code: int | None, err: tuple[str, ...], said: str) -> None:
    with pytest.raises(WrongError, match=said):
        _judge("in use")(_outcome([], code, err))


def test_a_refusal_is_the_line_that_was_said() -> None:
    line = "edgeface: /dev/video0: in use by another program: close it"
    assert _judge("in use")(_outcome([], 13, (line,))) == line


def _module(folder: Path, name: str, needs: str) -> None:
    (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0")


def test_modules_come_after_those_that_they_need(tmp_path: Path) -> None:
    _module(tmp_path, "camera", "video_dev,buffers")
    _module(tmp_path, "buffers", "video_dev,memory")
    _module(tmp_path, "memory", "")
    _module(tmp_path, "video-dev", "")
    names = [path.stem for path in load_order("camera", tmp_path)]
    assert names == ["video-dev", "memory", "buffers", "camera"]


def test_a_module_that_the_kernel_has_not_is_named(tmp_path: Path) -> None:
    _module(tmp_path, "camera", "gone")
    with pytest.raises(DeviceError, match="no module gone"):
        load_order("camera", tmp_path)


def _entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name of a cpio archive, read as Linux's Documentation/driver-api/early-userspace says."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while "TRAILER!!!" not in found:
        assert data[at:at + 6] == b"070701"
        fields = [int(data[n:n + 8], 16) for n in range(at + 6, at + 110, 8)]
        mode, size, name_bytes = fields[1], fields[6], fields[11]
        name = data[at + 110:at + 110 + name_bytes]
        assert name[-1:] == b"\0"
        start = at + 110 + name_bytes + (-(110 + name_bytes) % 4)
        found[name[:-1].decode()] = mode, data[start:start + size]
        at = start + size + (-size % 4)
    assert at == len(data)
    return found


def test_an_archive_holds_files_folders_and_links(tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/proc").mkdir()
    (tmp_path / "root/bin/program").write_bytes(b"#!")
    (tmp_path / "root/bin/program").chmod(0o755)
    (tmp_path / "root/bin/data").write_bytes(bytes(range(7)))
    (tmp_path / "root/sbin").symlink_to("bin")
    with Initramfs(tmp_path / "archive") as archive:
        archive.tree(tmp_path / "root", "", without=("proc",))
        archive.folder("opt")
        archive.tree(tmp_path / "root/bin", "opt")
        archive.file("init", b"exec", executable=True)
    found = _entries((tmp_path / "archive").read_bytes())
    assert list(found) == ["bin", "bin/data", "bin/program", "sbin", "opt", "opt/data", "opt/program", "init",
                           "TRAILER!!!"]
    assert stat.S_ISDIR(found["bin"][0])
    assert found["sbin"] == (stat.S_IFLNK | 0o777, b"bin")
    assert found["bin/data"] == (stat.S_IFREG | 0o644, bytes(range(7)))
    assert found["init"] == (stat.S_IFREG | 0o755, b"exec") == (found["opt/program"][0], b"exec")


def _machine(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_machine_that_hangs_is_given_up(tmp_path: Path) -> None:
    qemu = _machine(tmp_path, "echo Booting; exec sleep 60")
    lines: list[str] = []
    with pytest.raises(DeviceError, match=r"not off within 1 s; it last said: Booting"):
        boot(qemu, "cortex-a72", tmp_path, tmp_path, lines.append, timeout_s=1)
    assert lines == ["Booting"]


def test_a_machine_that_cannot_start_says_why(tmp_path: Path) -> None:
    qemu = _machine(tmp_path, "echo could not load kernel >&2; exit 1")
    with pytest.raises(DeviceError, match="ended with 1; it last said: could not load kernel"):
        boot(qemu, "cortex-a72", tmp_path, tmp_path, lambda line: None, timeout_s=60)


def test_without_qemu_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_programs(monkeypatch, tmp_path / "programs")
    with pytest.raises(InstallError, match=r"qemu-system-aarch64 is not installed: .*apt-get install qemu-system-arm"):
        find_qemu()
