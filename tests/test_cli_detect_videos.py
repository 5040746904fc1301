"""``edgeface detect`` of videos as cameras record them: any container, any name, any size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detect_command import Detect, clip, error_lines, everything, lines_of, names, photo
from edgeface.errors import InputError
from edgeface.stream.sources import SourceSpec
from edgeface.stream.sources.files import open_file
from edgeface.videos import Video

NOT_UTF8 = os.fsdecode(b"b\xe9")


def size_of(path: Path) -> tuple[int, int, int]:
    """Width, height and frames of a video."""
    video = cv2.VideoCapture(str(path))
    return tuple(int(video.get(p)) for p in (  # type: ignore[return-value]  # of three
        cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT,
    ))  # fmt: skip


@pytest.mark.parametrize("name", ["raw.h264", "raw.h265", "a.m2ts", "a.ivf", "raw.mjpeg"])
def test_a_recording_of_a_camera_is_read_whatever_its_name(
    detect: Detect, here: Path, shared_cases: Path, name: str
) -> None:
    shutil.copy(shared_cases / "camera_recordings" / name, here / "noname")
    (here / "folder").mkdir()
    shutil.copy(here / "noname", here / "folder" / name)
    result = detect("noname", "folder", "--json", "-", "--size", "64")
    assert result.exit_code == 0, result.stderr
    records = lines_of(result.stdout)
    assert [record["frame"] for record in records] == [*range(40), *range(40)]
    assert size_of(here / "edgeface-out" / "noname.mp4") == (320, 240, 40)


def test_a_recording_of_bare_jpegs_is_read_to_its_end(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8]
) -> None:
    one = np.asarray(cv2.imencode(".jpg", cv2.resize(astronaut, (96, 96)))[1], np.uint8).tobytes()
    (here / "camera.mjpeg").write_bytes(one * 12)
    result = detect("camera.mjpeg", "--json", "-", "--no-draw")
    assert result.exit_code == 0
    assert len(lines_of(result.stdout)) == 12


def test_a_recording_of_bare_jpegs_keeps_sizes_and_leaves_out_what_is_damaged(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    wide, high = (
        np.asarray(cv2.imencode(".jpg", cv2.resize(astronaut, size))[1], np.uint8).tobytes()
        for size in ((160, 90), (90, 160))
    )
    (here / "turned").write_bytes(wide * 2 + wide[:2000] + high * 3)
    result = detect("turned", "--json", "-", "--size", "64")
    assert [(r["width"], r["height"]) for r in lines_of(result.stdout)] == [(160, 90)] * 2 + [(90, 160)] * 3
    assert error_lines(result) == [
        "edgeface: edgeface-out/turned.mp4: frames from number 2 on have 90 x 160 pixels: they are brought into the "
        "160 x 90 of the first",
        "edgeface: turned: 1 damaged frame left out",
    ]
    opened = open_file(SourceSpec(kind="file", address="turned", every_frame=True))
    grabs = list(iter(opened.read, None))   # type: ignore[arg-type]  # iter's sentinel is None on purpose
    assert [grab.frame.width for grab in grabs] == [160, 160, 90, 90, 90]
    assert caplog.messages == ["turned: 1 damaged frame left out"]


def test_a_codec_that_is_not_decoded_is_told_from_damage(detect: Detect, here: Path, shared_cases: Path) -> None:
    shutil.copy(shared_cases / "codec_called_damage" / "av1.mp4", here)
    result = detect("av1.mp4")
    if result.exit_code == 0:
        pytest.skip("OpenCV here decodes AV1")
    assert result.exit_code == 3
    (line,) = error_lines(result)
    assert f"av1.mp4: OpenCV {cv2.__version__} here has no decoder for AV1: convert it to MP4 with H.264" in line
    assert "damaged" not in line


def test_damage_is_still_called_so(here: Path, astronaut: NDArray[np.uint8]) -> None:
    data = bytearray(clip(here / "clip.mp4", cv2.resize(astronaut, (96, 96)), 5).read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    (here / "clip.mp4").write_bytes(data)
    with pytest.raises(InputError, match=r"clip\.mp4: not one frame can be read: the video is damaged"):
        list(Video(Path("clip.mp4")).frames())


def test_a_name_that_is_not_utf8_is_one_like_any_other(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8]
) -> None:
    clip(here / "a.mp4", cv2.resize(astronaut, (96, 96)), 3).rename(here / f"{NOT_UTF8}.mp4")
    photo(here / "z.png", astronaut[:64, :64])
    result = detect(".", "--json", "faces.jsonl", "--out", NOT_UTF8)
    assert result.exit_code == 0, result.stderr
    assert sorted(r["image"] for r in lines_of((here / "faces.jsonl").read_text())) == [*["b\ufffd.mp4"] * 3, "z.png"]
    assert names(here / NOT_UTF8) == [f"{NOT_UTF8}.mp4", "z.png"]
    assert (here / NOT_UTF8 / f"{NOT_UTF8}.mp4").stat().st_size > 500


@pytest.mark.parametrize("name", ["100%d.mp4", "file:x.mp4", "-x.mp4", "a|b.mp4", "img_001.mp4"])
def test_a_name_is_a_name_and_nothing_more(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], name: str
) -> None:
    clip(here / "clip.mp4", cv2.resize(astronaut, (96, 96)), 3).rename(here / name)
    assert detect(f"./{name}", "--size", "64").exit_code == 0
    assert size_of(here / "edgeface-out" / name)[2] == 3 or "%" in name


def test_an_odd_size_is_kept_but_for_a_column_and_said(detect: Detect, here: Path, shared_cases: Path) -> None:
    shutil.copy(shared_cases / "odd_video_size" / "odd.mp4", here)
    result = detect("odd.mp4", "--size", "64", "--score", "1")
    assert result.exit_code == 0
    assert size_of(here / "edgeface-out" / "odd.mp4") == (322, 242, 40)
    (line,) = error_lines(result)
    assert "edgeface-out/odd.mp4: has 322 x 242 pixels for 321 x 241" in line
    _, drawn = cv2.VideoCapture("edgeface-out/odd.mp4").read()
    _, source = cv2.VideoCapture("odd.mp4").read()
    assert np.abs(drawn[:241, :321].astype(int) - source).mean() < 6


def test_a_pipe_and_a_device_are_refused_and_the_rest_is_done(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8]
) -> None:
    os.mkfifo("pipe.png")
    photo(here / "a.png", astronaut[:64, :64])
    result = detect("pipe.png", "/dev/zero", "a.png")
    assert result.exit_code == 3
    lines = error_lines(result)
    assert "pipe.png: is a pipe and no file" in lines[0]
    assert "/dev/zero: is a device and no file" in lines[1]
    assert everything(here / "edgeface-out") == ["a.png"]
