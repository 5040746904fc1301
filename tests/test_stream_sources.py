"""What a user's text means as a source, and what each kind of source gives."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import struct
import sys
import time
from collections.abc import Iterator
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
from edgeface.stream.sources.demo import DemoScene, demo_scene, open_demo
from edgeface.stream.sources.files import open_file, open_folder
from edgeface.stream.sources.picamera2 import open_picamera2
from edgeface.stream.sources.pictures import PictureDecoder
from edgeface.stream.sources.v4l2 import as_frame, check_device, open_camera


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
    assert make_spec("rtsp://me:p@s/s@camera/1?x=a@b").shown == "rtsp://***@camera/1?x=a@b"
    assert make_spec("http://camera/x?user=me&pwd=a@b&n=1").shown == "http://camera/x?user=me&pwd=***&n=1"


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


class FakeCapture:
    """cv2.VideoCapture of a V4L2 camera that gives ``raw`` in the format of ``fourcc``."""

    def __init__(
        self, fourcc: str, raw: NDArray[np.uint8] | Iterator[NDArray[np.uint8]] | None, stamp_ms: float = 0.0
    ) -> None:
        self.frames = raw if isinstance(raw, Iterator) else itertools.repeat(raw)
        self.released = False
        self.values: dict[int, float] = {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*fourcc)),
            cv2.CAP_PROP_FPS: 30.0,
            cv2.CAP_PROP_POS_MSEC: stamp_ms,
        }

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, propId: int) -> float:  # noqa: N803
        return self.values.get(propId, 0.0)

    def set(self, propId: int, value: float) -> bool:  # noqa: N803
        self.values[propId] = value
        return True

    def read(self) -> tuple[bool, Any]:
        raw = next(self.frames)
        return raw is not None, raw

    def release(self) -> None:
        self.released = True


def raw_of(fourcc: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``image`` as OpenCV hands it out unconverted: a neutral chroma is enough to tell the layouts apart."""
    height, width = image.shape[:2]
    luma = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)[:height]
    if fourcc == "YUYV":
        return np.stack([luma, np.full_like(luma, 128)], axis=-1)
    if fourcc == "NV12":
        return np.concatenate([luma, np.full((height // 2, width), 128, np.uint8)])
    if fourcc == "MJPG":
        return np.asarray(cv2.imencode(".jpg", image)[1], np.uint8).reshape(1, -1)
    return luma if fourcc == "GREY" else image


@pytest.mark.parametrize(("fourcc", "format_"), [
    ("YUYV", "yuyv"), ("NV12", "nv12"), ("MJPG", "bgr"), ("GREY", "grey"), ("BGR3", "bgr"), ("UYVY", "bgr"),
])
def test_a_cameras_pixels_go_on_as_they_are_where_that_is_possible(
    astronaut: NDArray[np.uint8], fourcc: str, format_: str
) -> None:
    image = np.ascontiguousarray(astronaut[:240, :320])
    raw = raw_of(fourcc, image)
    capture = FakeCapture(fourcc, raw)
    camera = open_camera(SourceSpec(kind="v4l2", address="/dev/video0"), lambda _path, _settings: capture)
    grab = camera.read()
    assert grab is not None
    assert (grab.frame.format, grab.frame.width, grab.frame.height) == (format_, 320, 240)
    if format_ in ("yuyv", "nv12", "grey"):
        assert np.shares_memory(grab.frame.pixels, raw)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(int)
    assert np.abs(cv2.cvtColor(grab.frame.to_bgr(), cv2.COLOR_BGR2GRAY) - grey).mean() < 16
    assert capture.values.get(cv2.CAP_PROP_CONVERT_RGB) == (1 if fourcc == "UYVY" else None)
    camera.close()
    assert capture.released


def test_a_camera_is_asked_for_what_was_asked_for() -> None:
    asked: list[int] = []

    def capture(_path: str, settings: Any) -> FakeCapture:
        asked.extend(settings)
        return FakeCapture("NV12", None)

    spec = make_spec("0", width_px=1280, height_px=720, fps=30.0, pixel_format="nv12")
    open_camera(spec, capture)
    pairs = dict(itertools.zip_longest(asked[::2], asked[1::2]))
    assert pairs == {
        cv2.CAP_PROP_CONVERT_RGB: 0, cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"NV12"),
        cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720, cv2.CAP_PROP_FPS: 30,
    }
    with pytest.raises(OptionError, match="no pixel format 'rgba': choose bgr, grey, mjpeg, nv12, yuyv"):
        open_camera(make_spec("0", pixel_format="rgba"), capture)


@pytest.mark.parametrize(("fourcc", "asked", "said"), [
    ("BGR3", {"width_px": 320, "height_px": 240, "pixel_format": "mjpeg"},
     "/dev/video0: the camera gives height 180 for 240, pixel format bgr for mjpeg"),
    ("UYVY", {"pixel_format": "yuyv", "fps": 60.0},
     "/dev/video0: the camera gives fps 30 for 60, pixel format UYVY for yuyv"),
    ("JPEG", {"pixel_format": "mjpeg", "fps": 29.97, "width_px": 320}, None),
    ("BGR3", {}, None),
])
def test_a_camera_that_gives_something_else_says_so(
    fourcc: str, asked: dict[str, Any], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    capture = FakeCapture(fourcc, None)
    capture.values |= {cv2.CAP_PROP_FRAME_WIDTH: 320.0, cv2.CAP_PROP_FRAME_HEIGHT: 180.0}
    open_camera(make_spec("0", **asked), lambda _path, _settings: capture)
    assert caplog.messages == ([] if said is None else [said])


def test_a_cameras_own_stamp_is_taken_where_it_is_of_our_clock() -> None:
    raw = np.zeros((48, 64, 3), np.uint8)
    spec = SourceSpec(kind="v4l2", address="/dev/video0")
    taken_ns = time.monotonic_ns() - 50_000_000
    good = open_camera(spec, lambda _path, _settings: FakeCapture("BGR3", raw, taken_ns / 1e6)).read()
    other_clock = open_camera(spec, lambda _path, _settings: FakeCapture("BGR3", raw, time.time() * 1e3)).read()
    assert good is not None
    assert other_clock is not None
    assert abs(good.taken_monotonic_ns - taken_ns) < 1_000_000
    assert other_clock.taken_monotonic_ns > taken_ns


def test_a_camera_that_stops_or_sends_rubbish_is_an_error_of_the_source() -> None:
    spec = SourceSpec(kind="v4l2", address="/dev/video0")
    with pytest.raises(SourceError, match="/dev/video0: the camera stopped: check its plug"):
        open_camera(spec, lambda _path, _settings: FakeCapture("YUYV", None)).read()
    for raw, fourcc in ((np.zeros((1, 40), np.uint8), "MJPG"), (np.zeros((0, 64, 2), np.uint8), "YUYV")):
        with pytest.raises(SourceError, match="/dev/video0"):
            as_frame(raw, fourcc, PictureDecoder("/dev/video0"))


def damaged_jpegs(jpeg: bytes) -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 255, 5000).astype(np.uint8).tobytes()
    return {
        "empty": b"", "one byte": jpeg[:1], "no start": jpeg[3000:], "header cut": jpeg[:300],
        "half": jpeg[: len(jpeg) // 2], "no end": jpeg[:-2], "zeros": bytes(4000), "noise": noise,
    }


@pytest.mark.parametrize("kind", damaged_jpegs(b""))
def test_a_damaged_picture_is_left_out_counted_and_the_next_one_taken(
    astronaut: NDArray[np.uint8], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = raw_of("MJPG", astronaut)
    damaged = np.frombuffer(damaged_jpegs(whole.tobytes())[kind], np.uint8).reshape(1, -1)
    told: list[None] = []
    capture = FakeCapture("MJPG", itertools.chain([damaged, whole, damaged, whole]))
    camera = open_camera(SourceSpec(kind="v4l2", address="/dev/video0"), lambda _path, _settings: capture)
    camera.damage.tell(lambda: told.append(None))
    for seen in (1, 2):
        grab = camera.read()
        assert grab is not None
        assert np.abs(grab.frame.pixels.astype(int) - astronaut).mean() < 3
        assert len(told) == camera.damage.total == seen
    assert caplog.messages == [
        "/dev/video0: a picture came damaged, check the cable or the network: left out, 1 so far"
    ]


def test_a_camera_whose_pictures_are_all_damaged_is_given_up_after_many() -> None:
    capture = FakeCapture("MJPG", np.zeros((1, 40), np.uint8))
    camera = open_camera(SourceSpec(kind="v4l2", address="/dev/video0"), lambda _path, _settings: capture)
    with pytest.raises(SourceError, match=r"a picture came damaged.*: 30 in a row"):
        camera.read()


@pytest.mark.parametrize("padding", [b"\0" * 9000, b"\xff\xd9", b"rubbish"])
def test_what_follows_the_end_of_a_picture_does_no_harm(astronaut: NDArray[np.uint8], padding: bytes) -> None:
    padded = raw_of("MJPG", astronaut).tobytes() + padding
    assert PictureDecoder("camera").decode(padded).shape == astronaut.shape


def test_a_camera_that_ends_none_of_its_pictures_is_believed(astronaut: NDArray[np.uint8]) -> None:
    endless = raw_of("MJPG", astronaut).tobytes()[:-2]
    capture = FakeCapture("MJPG", np.frombuffer(endless, np.uint8).reshape(1, -1))
    camera = open_camera(SourceSpec(kind="v4l2", address="/dev/video0"), lambda _path, _settings: capture)
    grabs = [camera.read() for _ in range(3)]
    assert [grab is not None and grab.frame.width for grab in grabs] == [512] * 3
    assert camera.damage.total == 5


def test_a_picture_larger_than_any_frame_is_not_decoded(astronaut: NDArray[np.uint8]) -> None:
    jpeg = bytearray(raw_of("MJPG", astronaut).tobytes())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\x7f\xff\x7f\xff"
    with pytest.raises(SourceError, match="its pictures cannot be used: 32767 x 32767"):
        PictureDecoder("camera").decode(bytes(jpeg))


@pytest.mark.parametrize(("capabilities", "of_device", "refused"), [
    (0x84A00001, 0x04200001, None),                         # a UVC camera
    (0x84A00001, 0x04A00000, "gives no pictures"),          # its node for metadata
    (0x84201000, 0x04201000, None),                         # rkisp1 on RK3399 and RK3588: several planes
    (0x05000001, 0, None),                                  # a driver from before there were capabilities of a device
    (0x84204000, 0x04204000, "is a codec"),
    (0x84208000, 0x04208000, "is a codec"),
    (0x84205000, 0x04205000, "is a codec"),                 # one that says that it captures, too
    (0x84202000, 0x04202000, "gives no pictures"),          # an output of several planes
    (0x85200010, 0x05200010, "gives no pictures"),          # teletext
])
def test_cameras_of_one_plane_and_of_several_are_told_from_what_is_none(
    monkeypatch: pytest.MonkeyPatch, capabilities: int, of_device: int, refused: str | None
) -> None:
    answer = bytearray(104)
    struct.pack_into("=II", answer, 84, capabilities, of_device)
    monkeypatch.setattr(fcntl, "ioctl", lambda *_arguments: bytes(answer))
    if refused is None:
        check_device("/dev/null")
        return
    with pytest.raises(SourceError, match=refused):
        check_device("/dev/null")


def test_a_named_pipe_or_a_file_in_place_of_a_device_is_not_opened(here: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(SourceError, match="pipe: is no V4L2 device"):
        check_device("pipe")


def test_a_device_that_is_not_there_or_no_camera_is_named(here: Path) -> None:
    with pytest.raises(SourceError, match=r"/dev/video97: no such device: plug the camera in, .* \(there"):
        check_device("/dev/video97")
    (here / "file").touch()
    with pytest.raises(SourceError, match="file: is no V4L2 device"):
        check_device("file")


def test_a_device_that_may_not_be_opened_says_which_group_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceError, match=r"/dev/video0: permission denied: .* video: 'sudo usermod -aG video \$USER'"):
        check_device("/dev/video0")


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
