"""The source ``v4l2``: which devices are cameras, and what is made of what they give."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.errors import DamagedFrameError, OptionError, SourceError
from edgeface.stream.sources import SourceSpec, make_spec
from edgeface.stream.sources.pictures import PictureDecoder
from edgeface.stream.sources.v4l2 import as_frame, check_device, open_camera


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
    with pytest.raises(DamagedFrameError, match="cannot be used: 32767 x 32767"):
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


@pytest.mark.parametrize(("number", "said"), [
    (errno.EBUSY, "in use by another program: close it, 'fuser -v camera' names it"),
    (errno.EINVAL, "OpenCV gets no pictures from it: try another --pixel-format, --width and --height"),
])
def test_a_camera_that_opens_and_gives_nothing_is_told_from_a_busy_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    class Closed(FakeCapture):
        def isOpened(self) -> bool:  # noqa: N802
            return False

    (here / "camera").touch()
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(SourceError, match=re.escape(f"camera: {said}")):
        open_camera(SourceSpec(kind="v4l2", address="camera"), lambda _path, _settings: Closed("YUYV", None))
