"""Which camera ``edgeface camera`` takes when none is named."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

import stream_fakes  # noqa: F401  # registers its sources
from edgeface.cli import main
from edgeface.errors import SourceError
from edgeface.stream import first_camera as module
from edgeface.stream.first_camera import first_camera
from edgeface.stream.sources import make_spec


def candidates(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    monkeypatch.setattr(module, "_candidates", lambda _devices: iter(texts))


def test_the_first_that_gives_pictures_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    candidates(monkeypatch, "/dev/video97", "counting", "demo")
    with caplog.at_level(logging.INFO, "edgeface.stream"):
        assert first_camera() == "counting"
    assert "/dev/video97: no such device" in caplog.text
    assert caplog.messages[-1] == "counting: the first camera that gives pictures; name another to take that"
    assert "next try" not in caplog.text


def test_one_that_opens_and_gives_nothing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates(monkeypatch, "hanging-open", "demo")
    assert first_camera() == "demo"


def test_what_is_asked_of_the_camera_is_asked_in_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates(monkeypatch, "demo")
    with pytest.raises(SourceError, match="demo: a source of the kind demo takes no pixel format"):
        first_camera(make_spec("demo", pixel_format="yuyv"))


def test_devices_are_tried_by_their_numbers_and_data_nodes_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for name in ("video10", "video2", "video-cam", "media0"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError) as raised:
        first_camera(devices=tmp_path)
    said = str(raised.value)
    assert said.index(f"{tmp_path}/video2: is no V4L2 device") < said.index(f"{tmp_path}/video10: is no V4L2 device")
    assert "video-cam" not in said
    assert "media0" not in said


def test_the_pi_camera_comes_first_where_its_package_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    (tmp_path / "video0").touch()
    assert list(module._candidates(tmp_path)) == ["picamera2", f"{tmp_path}/video0"]


def test_a_pi_without_the_package_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    (tmp_path / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    monkeypatch.setattr(module, "_MODEL", tmp_path / "model")
    with pytest.raises(SourceError, match="sudo apt install python3-picamera2"):
        first_camera(devices=tmp_path)


def test_without_any_the_command_offers_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates(monkeypatch)
    result = CliRunner().invoke(main, ["camera", "--show"])
    assert result.exit_code == 13
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("'edgeface camera demo --show'\n")


def test_the_command_runs_on_the_camera_that_was_found(
    here: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates(monkeypatch, "demo")
    options = ["--model", str(tiny_bundle), "--threads", "1", "--max-frames", "2"]
    result = CliRunner().invoke(main, ["camera", *options])
    assert result.exit_code == 0, result.output
    assert "edgeface: demo: the first camera that gives pictures" in result.stderr
    assert result.stdout.startswith("2 frames")


def test_a_service_names_the_camera_that_is_found_now(
    here: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates(monkeypatch, "demo")
    result = CliRunner().invoke(main, ["service", "install", "--print", "--user", "--model", str(tiny_bundle)])
    assert result.exit_code == 0, result.output
    assert "--source demo" in result.stdout
