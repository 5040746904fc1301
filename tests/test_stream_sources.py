"""What a user's text means as a source, and what each kind of source gives."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edgeface
from detect_command import clip
from edgeface.errors import (
    EdgefaceError,
    InputError,
    MissingExtraError,
    OptionError,
    SourceError,
    UnknownSourceError,
)
from edgeface.stream.sources import Grab, Source, SourceSpec, make_spec, parse_source, source
from edgeface.stream.sources.demo import open_demo
from edgeface.stream.sources.files import open_file, open_folder
from edgeface.stream.sources.picamera2 import open_picamera2
from edgeface.stream.sources.scene import DemoScene, demo_scene
from edgeface.stream.supervision import Supervisor


def frames_of(opened: Source) -> list[Grab]:
    return list(iter(opened.read, None))  # type: ignore[arg-type]  # iter's sentinel is None on purpose


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes."""
    inside = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    return float(inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside))


@pytest.mark.parametrize(("text", "meant"), [
    ("0", ("v4l2", "/dev/video0")),
    ("/dev/video2", ("v4l2", "/dev/video2")),
    ("v4l2:/dev/v4l/by-id/camera", ("v4l2", "/dev/v4l/by-id/camera")),
    ("demo", ("demo", "")),
    ("picamera2", ("picamera2", "")),
    ("picamera2:1", ("picamera2", "1")),
    ("rtsp://me:secret@camera:554/1", ("rtsp", "rtsp://me:secret@camera:554/1")),
    ("RTSPS://camera/1", ("rtsp", "RTSPS://camera/1")),
    ("https://camera/x.mjpeg", ("http", "https://camera/x.mjpeg")),
    (".", ("folder", ".")),
    ("*.jpg", ("folder", "*.jpg")),
    ("clip.mp4", ("file", "clip.mp4")),
    ("demo.avi", ("file", "demo.avi")),
])
def test_a_text_means_a_kind_and_an_address(here: Path, text: str, meant: tuple[str, str]) -> None:
    for name in ("clip.mp4", "demo.avi"):
        (here / name).touch()
    assert parse_source(text) == meant


@pytest.mark.parametrize(("text", "error", "words"), [
    ("deemo", UnknownSourceError, "no source 'deemo'. Did you mean 'demo'?"),
    ("ftp://camera/1", UnknownSourceError, "no source 'ftp'"),
    ("gstreamer:videotestsrc", UnknownSourceError, "no source 'gstreamer'"),
    ("clips/none.mp4", InputError, "clips/none.mp4: no such file: check the path"),
    ("none.mp4", InputError, "none.mp4: no such file"),
])
def test_what_is_no_source_is_answered_with_the_choices(
    here: Path, text: str, error: type[EdgefaceError], words: str
) -> None:
    with pytest.raises(error, match=words.replace("?", r"\?")):
        parse_source(text)


@pytest.mark.parametrize("options", [{"width_px": 0}, {"height_px": 10_000}, {"fps": 0.0}, {"fps": float("nan")}])
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="cannot work"):
        make_spec("demo", **options)
    with pytest.raises(OptionError, match="exclude each other"):
        make_spec("demo", every_frame=True, fps=10.0)


def test_a_password_is_never_shown() -> None:
    assert make_spec("rtsp://me:p@s/s@camera/1?x=a@b").shown == "rtsp://camera/1"
    assert make_spec("http://camera/x?user=me&pwd=a@b&n=1").shown == "http://camera/x"


def test_every_kind_has_its_opener_at_the_top_of_a_module() -> None:
    """The capture process finds it there by name."""
    assert {"demo", "file", "folder", "http", "picamera2", "rtsp", "v4l2"} <= set(source.names())
    for name in source.names():
        opener = source.get(name)
        assert getattr(sys.modules[opener.__module__], getattr(opener, "__name__", "")) is opener


def test_a_video_is_played_at_its_own_rate(here: Path, astronaut: NDArray[np.uint8]) -> None:
    clip(here / "clip.avi", astronaut[:64, :64], 6, "MJPG")     # 10 frames a second
    opened = open_file(SourceSpec(kind="file", address="clip.avi"))
    taken_s = np.array([grab.taken_monotonic_ns for grab in frames_of(opened)]) / 1e9
    assert opened.fps == pytest.approx(10)
    assert len(taken_s) == 6
    assert taken_s[-1] - taken_s[0] >= 0.4      # never faster; the first may be stamped late


def test_a_video_can_be_played_at_another_rate_again_and_again(here: Path, astronaut: NDArray[np.uint8]) -> None:
    clip(here / "clip.avi", astronaut[:64, :64], 3, "MJPG")
    opened = open_file(SourceSpec(kind="file", address="clip.avi", fps=50.0, loop=True))
    grabs = [opened.read() for _ in range(7)]
    pictures = [grab.frame.pixels for grab in grabs if grab is not None]
    assert len(pictures) == 7
    assert (pictures[0] == pictures[3]).all()
    assert not (pictures[0] == pictures[1]).all()
    taken_s = [grab.taken_monotonic_ns / 1e9 for grab in grabs if grab is not None]
    assert taken_s[-1] - taken_s[0] >= 0.1      # at the file's own rate it would be 0.6; the first may be stamped late


def test_a_video_that_ends_in_the_middle_is_refused(here: Path, astronaut: NDArray[np.uint8]) -> None:
    whole = clip(here / "clip.mp4", astronaut[:64, :64], 10).read_bytes()
    (here / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"cut\.mp4: the video is cut short"):
        open_file(SourceSpec(kind="file", address="cut.mp4"))


def test_a_folder_shows_its_pictures_in_order_and_leaves_out_what_is_damaged(
    here: Path, astronaut: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    for name, side_px in (("b.png", 32), ("a.png", 16), ("d.jpg", 48)):
        cv2.imwrite(str(here / name), astronaut[:side_px, :side_px])
    (here / "c.jpg").write_bytes((here / "d.jpg").read_bytes()[:100])
    (here / "notes.txt").touch()
    with caplog.at_level(logging.WARNING, "edgeface.stream"):
        grabs = frames_of(open_folder(SourceSpec(kind="folder", address=".", every_frame=True)))
    assert [grab.frame.width for grab in grabs] == [16, 32, 48]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["c.jpg"]


def test_a_folder_without_a_usable_picture_is_refused(here: Path) -> None:
    (here / "a.jpg").write_bytes(b"no picture")
    opened = open_folder(SourceSpec(kind="folder", address=".", loop=True))
    with pytest.raises(InputError, match="no picture here can be used"):
        opened.read()


def test_a_single_picture_is_a_file_too(here: Path, astronaut: NDArray[np.uint8]) -> None:
    cv2.imwrite("a.png", astronaut)
    (grab,) = frames_of(open_file(SourceSpec(kind="file", address="a.png")))
    assert (grab.frame.pixels == astronaut).all()


def test_the_demo_is_the_same_each_time_and_moves() -> None:
    scene, again, other = DemoScene(320, 240, 25.0), DemoScene(320, 240, 25.0), DemoScene(320, 240, 25.0, seed=1)
    assert (scene.image(7) == again.image(7)).all()
    assert not (scene.image(7) == other.image(7)).all()
    assert not (scene.image(7) == scene.image(8)).all()
    assert scene.image(0).shape == (240, 320, 3)
    moved = np.ptp([scene.boxes(i) for i in range(0, 300, 5)], axis=0)
    assert (moved > 20).all()


def test_the_demo_plays_the_scene_whose_boxes_are_known() -> None:
    spec = SourceSpec(kind="demo", address="", width_px=320, height_px=240, every_frame=True)
    opened, scene = open_demo(spec), demo_scene(spec)
    for index in range(3):
        grab = opened.read()
        assert grab is not None
        assert (grab.frame.pixels == scene.image(index)).all()


@pytest.mark.parametrize("drawn", [False, True], ids=["astronaut", "drawn"])
def test_the_bundled_model_finds_the_faces_of_the_demo(monkeypatch: pytest.MonkeyPatch, drawn: bool) -> None:
    if drawn:
        monkeypatch.setitem(sys.modules, "skimage", None)
    scene = DemoScene(640, 480, 25.0)
    detector = edgeface.load("mos_s", size=320, threads=1)
    for index in range(0, 400, 50):
        found = detector(scene.image(index)).boxes
        assert len(found) == 2
        for box in scene.boxes(index):
            assert max(overlap(box, other) for other in found) > 0.6


def test_picamera2_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(MissingExtraError, match="sudo apt install python3-picamera2"):
        open_picamera2(make_spec("picamera2"))


class FakePicamera2:
    """The part of picamera2.Picamera2 in use, as its manual describes it."""

    made: list[FakePicamera2]

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls: list[object] = []
        type(self).made.append(self)

    @staticmethod
    def global_camera_info() -> list[dict[str, object]]:
        return [{"Model": "imx708"}, {"Model": "imx219"}]

    def create_video_configuration(self, *, main: dict[str, Any], controls: dict[str, Any]) -> dict[str, Any]:
        return {"main": main, "controls": controls}

    def configure(self, configuration: dict[str, Any]) -> None:
        self.calls.append(configuration)

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")

    def capture_request(self) -> SimpleNamespace:
        stamp_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 30_000_000
        return SimpleNamespace(
            make_array=lambda _name: np.full((480, 640, 3), 9, np.uint8),
            get_metadata=lambda: {"SensorTimestamp": stamp_ns},
            release=lambda: self.calls.append("release"),
        )


def test_a_pi_camera_is_configured_stamped_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    FakePicamera2.made = []
    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=FakePicamera2))
    opened = open_picamera2(make_spec("picamera2:1", fps=15.0))
    grab = opened.read()
    opened.close()
    assert grab is not None
    assert grab.frame.format == "bgr"
    assert 29e6 < time.monotonic_ns() - grab.taken_monotonic_ns < 60e9
    (camera,) = FakePicamera2.made
    assert camera.number == 1
    assert camera.calls == [
        {"main": {"size": (640, 480), "format": "RGB888"}, "controls": {"FrameRate": 15.0}},
        "start", "release", "stop", "close",
    ]
    with pytest.raises(SourceError, match="picamera2:2: no such camera"):
        open_picamera2(make_spec("picamera2:2"))
    with pytest.raises(OptionError, match="a camera has a number"):
        open_picamera2(make_spec("picamera2:left"))


def test_a_pipe_is_refused_at_once_and_for_good(here: Path) -> None:
    os.mkfifo("pipe.mp4")
    with (
        Supervisor(make_spec("pipe.mp4")) as supervisor,
        pytest.raises(InputError, match=r"pipe\.mp4: is a pipe and no file"),
    ):
        supervisor.newest(60.0)


def test_a_video_whose_name_is_not_utf8_is_played_and_shown_as_text(here: Path, astronaut: NDArray[np.uint8]) -> None:
    name = os.fsdecode(b"b\xe9.avi")
    clip(here / "clip.avi", astronaut[:64, :64], 3, "MJPG").rename(here / name)
    with Supervisor(make_spec(name, every_frame=True)) as supervisor:
        shots = [supervisor.newest(60.0) for _ in range(3)]
    assert [shot and shot.source for shot in shots] == ["b\ufffd.avi"] * 3
    (here / name).write_bytes(b"RIFF\0")
    with Supervisor(make_spec(name)) as supervisor, pytest.raises(InputError, match="b\ufffd\\.avi: the video is cut"):
        supervisor.newest(60.0)
