"""What a file is: by the system and by its content, whatever its name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detect_command import clip, photo
from edgeface.errors import InputError
from edgeface.file_kinds import file_kind, is_text, open_regular


def jpeg(image: NDArray[np.uint8]) -> bytes:
    return np.asarray(cv2.imencode(".jpg", image)[1], np.uint8).tobytes()


def test_pictures_videos_and_recordings_are_told_apart(here: Path, astronaut: NDArray[np.uint8]) -> None:
    one = jpeg(astronaut[:64, :64])
    app2 = b"\xff\xe2\x00\x0cMPF\0rest.."
    files = {
        "a.jpg": (one, "picture"),
        "padded.jpg": (one + bytes(9000), "picture"),
        "stereo.mpo": (one[:2] + app2 + one[2:] + one, "picture"),
        "live.jpg": (one + clip(here / "live.mp4", astronaut[:64, :64], 3).read_bytes(), "picture"),
        "cut.jpg": (one[:200], "picture"),
        "recording": (one * 5, "video"),
        "padded.mjpeg": ((one + bytes(700)) * 5, "video"),
        "first-damaged.mjpeg": (one[:700] + one * 4, "video"),
        "raw.h264": (b"\0\0\0\x01\x67\x42\xc0\x1e" + bytes(range(200)), "video"),
        "a.heic": (b"\0\0\0\x18ftypheic" + bytes(300), "picture"),
        "empty": (b"", "picture"),
    }
    for name, (content, kind) in files.items():
        (here / name).write_bytes(content)
        assert file_kind(Path(name)) == kind, name
    for name in ("a.png", "a.webp", "a.bmp", "a.tiff", "a.ppm"):
        photo(here / name, astronaut[:32, :32])
        assert file_kind(Path(name)) == "picture", name


def test_a_file_that_begins_like_a_picture_and_never_ends_is_none_for_long(here: Path) -> None:
    with Path("sparse.jpg").open("wb") as stream:
        stream.write(b"\xff\xd8\xff\xda\0\x02")
        stream.truncate(1 << 40)
    assert file_kind(Path("sparse.jpg")) == "picture"


@pytest.mark.parametrize("text", [
    "words, and no picture", "#EXTM3U\n#EXTINF:1,\nhttp://host/x.ts\n", "ffconcat version 1.0\nfile secret.mp4\n",
    "<!DOCTYPE html>", "\ufeffv=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "caf\u00e9",
])
def test_a_text_is_none_so_that_no_playlist_opens_other_files(here: Path, text: str) -> None:
    (here / "clip.mp4").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"clip\.mp4: a text, not a picture and not a video"):
        file_kind(Path("clip.mp4"))
    assert not is_text(b"")


def test_bright_pixels_are_no_text() -> None:
    assert not is_text(b"YUV4MPEG2 W320 H240 F25:1\nFRAME\n" + b"\x80" * 200)
    assert is_text(b"#EXTM3U\n\0\xff")
    assert is_text("caf\u00e9".encode()[:-1])


def test_what_is_no_file_is_refused_without_waiting_for_it(here: Path) -> None:
    os.mkfifo("pipe.jpg")
    (here / "folder").mkdir()
    (here / "link").symlink_to("pipe.jpg")
    (here / "round").symlink_to("round")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name, what in (
            ("pipe.jpg", "is a pipe and no file"), ("link", "is a pipe and no file"), ("socket", "is a socket and no"),
            ("/dev/zero", "is a device and no file"), ("folder", "is a folder and no file"),
            ("none.jpg", "No such file"), ("round", "symbolic links"), ("a\0b", "null byte"),
        ):
            with pytest.raises(InputError, match=what):
                open_regular(Path(name))
