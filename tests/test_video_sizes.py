"""Recordings whose size changes on the way: each frame has its own."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest

import turned_videos
from edgeface.errors import ImageTooLargeError, OutputError
from edgeface.stream.sources import make_spec
from edgeface.stream.sources.files import open_file
from edgeface.video_sizes import parameter_sets
from edgeface.videos import Video

WIDE, HIGH = (32, 64, 3), (64, 32, 3)
CODED = {"h264": turned_videos.H264, "h265": turned_videos.H265}


@pytest.mark.parametrize("codec", CODED)
@pytest.mark.parametrize("times", [1, 30])
def test_every_frame_keeps_its_own_size(codec: str, times: int, tmp_path: Path) -> None:
    path = tmp_path / f"turned.{codec}"
    path.write_bytes(CODED[codec] * times)
    frames = list(Video(path).frames())
    assert [frame.image.shape for frame in frames] == [WIDE, WIDE, WIDE, HIGH, HIGH, HIGH] * times
    assert [frame.index for frame in frames] == list(range(6 * times))
    assert [frame.time_s for frame in frames] == sorted(frame.time_s for frame in frames)


@pytest.mark.parametrize("codec", CODED)
def test_one_size_is_read_as_it_was(codec: str, tmp_path: Path) -> None:
    second = parameter_sets_start(CODED[codec])
    path = tmp_path / "wide"
    path.write_bytes(CODED[codec][:second])
    assert [frame.image.shape for frame in Video(path).frames()] == [WIDE] * 3


def parameter_sets_start(coded: bytes) -> int:
    """Where the second half begins: at what the stream begins with, a picture's parameters or those of all."""
    return coded.index(coded[:7], 7)


@pytest.mark.parametrize("codec", CODED)
def test_the_camera_plays_them_too(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "turned"
    path.write_bytes(CODED[codec])
    source = open_file(make_spec(str(path), every_frame=True))
    shapes = []
    while (grab := source.read()) is not None:
        shapes.append((grab.frame.height, grab.frame.width, 3))
    assert shapes == [WIDE] * 3 + [HIGH] * 3


def test_frames_that_become_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "turned"
    path.write_bytes(turned_videos.H264)
    video = Video(path)
    monkeypatch.setattr(video, "_max_megapixels", 0.001)
    with pytest.raises(ImageTooLargeError, match="turned: frames of 64 x 32 are more than 0"):
        list(video.frames())


def test_no_room_for_a_part_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "turned"
    path.write_bytes(turned_videos.H265)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with caplog.at_level(logging.WARNING), pytest.raises(OutputError, match="nowhere"):
        list(Video(path).frames())


def test_parameter_sets_are_those_before_the_first_picture() -> None:
    first, second = b"\x67first\x80", b"\x67second\x80"
    packet = b"\0\0\1" + first + b"\0\0\0\1\x68other\0\0\1\x65picture\0\0\1" + second
    assert parameter_sets(packet, is_h265=False) == [first]
    assert parameter_sets(b"\0\0\1", is_h265=False) == parameter_sets(b"", is_h265=True) == []
    assert parameter_sets(b"\0\0\1\x42\x01set\0\0\1\x26\x01picture", is_h265=True) == [b"\x42\x01set"]
