"""Videos that browsers play, by whatever can write them here; and recordings that outlive what cuts them off."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detect_command import Detect, clip, error_lines, everything
from edgeface import video_encoders
from edgeface.errors import OptionError, OutputError
from edgeface.stream.camera import CameraOptions, check
from edgeface.stream.recordings import RecordingLimits, Recordings
from edgeface.stream.sinks import SinkContext, open_sink
from edgeface.stream.sinks.video import VideoFile
from edgeface.video_encoders import Encoding, video_encoding
from edgeface.video_writing import writing_video
from preview_shots import result, shot

LOSSLESS = SinkContext("test", fps=10.0, lossless=True)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without ffmpeg and PyAV."""
    monkeypatch.setattr(video_encoders.shutil, "which", lambda _name: None)
    monkeypatch.setattr(video_encoders, "find_spec", lambda _name: None)


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """An ``ffmpeg`` that knows H.264 and does with the pictures what ``body`` says."""
    path = folder / "ffmpeg"
    path.write_text(f'#!/bin/sh\ncase "$*" in *encoder=libx264*) echo Encoder libx264; exit;; esac\n{body}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def encoding_by(name: str, monkeypatch: pytest.MonkeyPatch) -> Encoding:
    if name != "ffmpeg":
        monkeypatch.setattr(video_encoders.shutil, "which", lambda _name: None)
    if name == "OpenCV":
        monkeypatch.setattr(video_encoders, "find_spec", lambda _name: None)
    found = video_encoding()
    if found.by != name:
        pytest.skip(f"{name} is not here, or has no H.264")
    return found


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(np.asarray(read[1], np.uint8))
    return frames


def codec_of(path: Path) -> str:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")


@pytest.mark.parametrize(("by", "codec"), [("ffmpeg", "avc1h264"), ("PyAV", "avc1h264"), ("OpenCV", "VP80vp08")])
def test_each_writes_every_frame_in_its_colours(
    here: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, by: str, codec: str
) -> None:
    encoding = encoding_by(by, monkeypatch)
    source = np.asarray(cv2.blur(cv2.resize(astronaut, (97, 81)), (5, 5)), np.uint8)
    path = here / f"out{encoding.suffix}"
    with writing_video(path, 29.97, encoding) as sink:
        for _ in range(7):
            sink.write(source)
    assert codec_of(path) in codec
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=0.3)
    frames = frames_of(path)
    assert len(frames) == 7
    difference = frames[6][:81, :97].astype(int) - source
    assert np.abs(difference).mean() < 6
    assert np.abs(difference.mean(axis=(0, 1))).max() < 3.5
    assert "has 98 x 82 pixels for 97 x 81" in sink.remarks[0]
    assert everything(here) == [path.name]
    if encoding.suffix == ".mp4":       # so that a browser seeks before it has all of it
        assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


def test_the_line_says_which_was_taken(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, bare: None
) -> None:
    clip(here / "clip.avi", astronaut[:64, :64], 3, "MJPG")
    said = detect("clip.avi").stdout
    assert "-> edgeface-out/clip.webm, VP8 by OpenCV (for H.264, in less time: sudo apt install ffmpeg" in said
    assert everything(here) == ["clip.avi", "edgeface-out/clip.webm"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("echo Unknown thing 1>&2; echo >&2; exit 3", "ffmpeg ended with code 3 (Unknown thing)"),
        ("cat > /dev/null; echo x.mp4: No space left on device 1>&2; exit 1", "cannot be written: No space left on"),
        ("cat > /dev/null", "cannot be written whole"),
        ("exec sleep 60", "ffmpeg wrote nothing for 1 s and did not end"),
    ],
)
def test_an_ffmpeg_that_dies_or_hangs_is_one_line_and_leaves_nothing(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch, body: str, says: str,
) -> None:
    program(tmp_path_factory.mktemp("bin"), monkeypatch, body)
    monkeypatch.setattr(video_encoders, "HANG_S", 1.0)
    clip(here / "clip.avi", astronaut[:64, :64], 3, "MJPG")
    result = detect("clip.avi")
    assert result.exit_code == 10
    (line,) = error_lines(result)
    assert "edgeface-out/clip.mp4: " in line
    assert says in line
    assert everything(here) == ["clip.avi"]


def test_an_ffmpeg_that_takes_no_more_pictures_is_ended(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path_factory.mktemp("bin"), monkeypatch, "exec sleep 60")
    monkeypatch.setattr(video_encoders, "HANG_S", 0.3)
    large = np.zeros((1024, 2048, 3), np.uint8)
    with (
        pytest.raises(OutputError, match="ffmpeg took no picture for"),
        writing_video(here / "out.mp4", 10, video_encoding()) as sink,
    ):
        sink.write(large)
    assert everything(here) == []


def test_a_recording_that_is_cut_off_plays_and_gets_a_name(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed with its encoder, as when the power goes."""
    if video_encoding().by != "ffmpeg":
        pytest.skip("no ffmpeg here")
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_video_encoders import LOSSLESS, grey, open_sink, result, shot\n"
        "sink = open_sink('video', 'out.mp4', LOSSLESS)\n"
        "for i in range(1000): sink.put(shot(grey(i % 10), i), result([])); time.sleep(0.002)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    running = subprocess.Popen(command, start_new_session=True)
    unfinished = here / "out.unfinished.mp4"
    deadline = time.monotonic() + 60
    while not (unfinished.exists() and unfinished.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(OutputError, match="another run records to it"):
        open_sink("video", "out.mp4", LOSSLESS)
    for line in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split():
        os.kill(int(line), signal.SIGKILL)
    running.kill()
    running.wait()
    sink = open_sink("video", "out.mp4", LOSSLESS)
    sink.put(shot(grey(0), 0), result([]))
    sink.close()
    (cut_off,) = set(everything(here)) - {"out.mp4"}
    assert cut_off.startswith("out-20")
    assert f"{cut_off}: is what an earlier run recorded until it was cut off" in caplog.text
    assert len(frames_of(Path(cut_off))) >= 20


def test_an_encoder_that_is_stopped_ends_with_a_process_that_is_killed(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path_factory.mktemp("bin"), monkeypatch, "exec cat > /dev/null")
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_video_encoders import LOSSLESS, grey, open_sink, result, shot\n"
        "sink = open_sink('video', 'out.mp4', LOSSLESS)\n"
        "sink.put(shot(grey(0), 0), result([])); print(flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        encoder = _running(running.pid, "cat")
        os.kill(encoder, signal.SIGSTOP)
        running.kill()
    try:
        deadline = time.monotonic() + 10
        while _name_of(encoder) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert _name_of(encoder) == ""
    finally:
        with suppress(ProcessLookupError):
            os.kill(encoder, signal.SIGKILL)


def _running(parent: int, name: str) -> int:
    """The child of a process that has become the program of this name."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in Path(f"/proc/{parent}/task").glob("*/children"):
            for child in map(int, line.read_text().split()):
                if _name_of(child) == name:
                    return child
        time.sleep(0.02)
    raise AssertionError(f"no {name}")


def _name_of(process: int) -> str:
    """The name of what it runs; empty where it is gone, or waits for nobody to ask how it ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return ""
    return "" if "\nState:\tZ" in status else status.split()[1]


def grey(number: int, size: tuple[int, int] = (160, 128)) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)


def test_a_folder_gets_a_file_for_every_size_and_lists_them(here: Path) -> None:
    recordings = Recordings("rec/")
    context = SinkContext("test", fps=10.0, lossless=True, recordings=recordings)
    sink = open_sink("video", "rec/", context)
    for number, size in enumerate([(160, 128), (160, 128), (128, 160)]):
        sink.put(shot(grey(number, size), number), result([]))
    sink.close()
    listed = recordings.listed()
    assert len(listed) == 2
    assert not any(one.is_unfinished for one in listed)
    sizes = {cv2.VideoCapture(str(one.path)).read()[1].shape for one in listed}
    assert sizes == {(128, 160, 3), (160, 128, 3)}
    assert Recordings("rec", own_only=True).listed() == []
    (here / "rec" / "private.mp4").write_bytes(b"no recording")
    assert recordings.listed() == listed
    assert recordings.named("../rec/private.mp4") is None


def _recorded(folder: Path, day: int, size_bytes: int, name: str = "") -> Path:
    """A recording that ended ``day`` days ago."""
    path = folder / (name or f"202601{day:02}-120000.mp4")
    path.write_bytes(bytes(size_bytes))
    os.utime(path, (time.time() - day * 86_400,) * 2)
    return path


def test_a_folder_keeps_its_days_and_megabytes_and_says_so_before(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = here / "rec"
    folder.mkdir()
    by_age = [_recorded(folder, day, 400_000) for day in (1, 2, 3, 8)]
    others = [_recorded(folder, 50, 9, "holiday.mp4"), _recorded(folder, 0, 9, "20260101-130000.unfinished.mp4")]
    recordings = Recordings("rec/", limits=RecordingLimits(days=7, megabytes=1))
    with caplog.at_level(logging.INFO, "edgeface.stream"), others[1].open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        VideoFile(recordings, 10.0).close()
    assert [path.exists() for path in by_age] == [True, True, False, False]
    assert all(path.exists() for path in others)
    limits = "older than 7 days, and the oldest where all take more than 1 MB"
    assert caplog.messages[1:] == [
        f"rec/: recordings are deleted that are {limits}", f"rec/: recordings deleted: 2, 1 MB: {limits}",
    ]
    with pytest.raises(OptionError, match="choose more than 0 days, 1 MB"):
        RecordingLimits(days=0)


def test_limits_are_for_a_folder(here: Path) -> None:
    options = CameraOptions("demo", sinks=(("video", "out.mp4"),), video_days=3)
    with pytest.raises(OptionError, match="--video-days and --video-mb say what a folder of recordings keeps"):
        check(options)


def test_without_h264_a_recording_is_a_webm_and_a_wrong_name_is_refused(bare: None, here: Path) -> None:
    assert Recordings("out.mp4").path == Path("out.webm")
    with pytest.raises(OptionError, match=r"out\.avi: videos are written as \.mp4 or \.webm"):
        Recordings("out.avi")
