"""Cameras that hang upside down or on their side: ``--rotate`` and ``--flip``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgeface
from camera_pictures import frames
from edgeface.cli import main
from edgeface.errors import OptionError
from edgeface.frames import Frame
from edgeface.stream.sources import make_spec
from edgeface.stream.sources.orientation import turned
from edgeface.stream.sources.picamera2 import open_picamera2

TURNS = [(rotate_deg, flip) for rotate_deg in (0, 90, 180, 270) for flip in (False, True)]


def upright(pixels: NDArray[np.uint8], rotate_deg: int, flip: bool) -> NDArray[np.uint8]:
    """What is meant: np.rot90 turns counter-clockwise."""
    moved = np.rot90(pixels, -rotate_deg // 90)
    return moved[:, ::-1] if flip else moved


@settings(max_examples=200, deadline=None)
@given(frame=frames(40), turn=st.sampled_from(TURNS))
def test_every_format_is_turned_as_its_picture_is(frame: Frame, turn: tuple[int, bool]) -> None:
    before = frame.pixels.copy()
    result = turned(frame, *turn)
    assert (result.to_bgr() == upright(frame.to_bgr(), *turn)).all()
    assert (result.format == frame.format) or (frame.format, turn[0] % 180) == ("yuyv", 90)
    assert (frame.pixels == before).all()


@pytest.mark.parametrize(("rotate_deg", "flip"), TURNS)
def test_a_picture_that_was_turned_the_other_way_is_upright_again(
    here: Path, astronaut: NDArray[np.uint8], rotate_deg: int, flip: bool
) -> None:
    hung = np.rot90(astronaut[:, ::-1] if flip else astronaut, rotate_deg // 90)
    cv2.imwrite("hung.png", hung)
    shots = edgeface.stream(
        "hung.png", every_frame=True, size=320, threads=1, track=False, rotate_deg=rotate_deg, flip=flip
    )
    ((shot, faces),) = shots
    assert (shot.image == astronaut).all()
    assert len(faces) == 1
    assert faces.boxes[0] == pytest.approx([178, 54, 272, 175], abs=12)


def test_the_command_and_the_file_of_settings_turn_it(here: Path, astronaut: NDArray[np.uint8]) -> None:
    cv2.imwrite("hung.png", np.rot90(astronaut[:300], 2))
    (here / "camera.toml").write_text('[source]\nsource = "hung.png"\nrotate_deg = 180\nevery_frame = true\n')

    def frame(*options: str) -> dict[str, Any]:
        lines = here / "lines.jsonl"
        result = CliRunner().invoke(
            main, ["camera", "--size", "160", "--threads", "1", "--no-track", "--json", str(lines), *options]
        )
        assert result.exit_code == 0, result.stderr
        (line,) = [r for r in map(json.loads, lines.read_text().splitlines()) if r["type"] == "frame"]
        lines.unlink()
        return dict(line)

    by_file = frame("--config", "camera.toml")
    assert len(by_file["faces"]) == 1
    assert frame("hung.png", "--every-frame", "--rotate", "180")["faces"] == by_file["faces"]
    assert frame("--config", "camera.toml", "--rotate", "0")["faces"] != by_file["faces"]
    on_its_side = frame("--config", "camera.toml", "--rotate", "90", "--flip")
    assert (on_its_side["width"], on_its_side["height"]) == (300, 512)


def test_another_angle_is_refused(here: Path) -> None:
    with pytest.raises(OptionError, match="to rotate by 45 degrees cannot work: choose 0, 90, 180 or 270"):
        make_spec("demo", rotate_deg=45)
    (here / "camera.toml").write_text("[source]\nrotate_deg = 45\n")
    for arguments in (["demo", "--rotate", "45"], ["demo", "--config", "camera.toml"]):
        result = CliRunner().invoke(main, ["camera", *arguments, "--check"])
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("rotate_deg", "flip"), TURNS)
def test_a_pi_camera_turns_in_its_sensor_what_it_can(
    monkeypatch: pytest.MonkeyPatch, rotate_deg: int, flip: bool
) -> None:
    asked: dict[str, Any] = {}

    class Camera:
        def __init__(self, _number: int) -> None:
            pass

        @staticmethod
        def global_camera_info() -> list[dict[str, object]]:
            return [{}]

        def create_video_configuration(self, **settings: Any) -> dict[str, Any]:
            asked.update(settings)
            return settings

        def configure(self, _configuration: dict[str, Any]) -> None:
            pass

        def start(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=Camera))
    monkeypatch.setitem(sys.modules, "libcamera", SimpleNamespace(Transform=lambda **flips: flips))
    opened = open_picamera2(make_spec("picamera2", rotate_deg=rotate_deg, flip=flip))
    assert opened.is_oriented == (rotate_deg in (0, 180))
    flips = asked.get("transform", {"hflip": False, "vflip": False})
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4, 1).repeat(3, axis=2)
    sensor = picture[:: -1 if flips["vflip"] else 1, :: -1 if flips["hflip"] else 1]
    if opened.is_oriented:
        assert (sensor == upright(picture, rotate_deg, flip)).all()
    else:
        assert (sensor == picture).all()
