"""The sinks ``video`` and ``window``."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.errors import OptionError, OutputError
from edgeface.stream.recordings import Recordings
from edgeface.stream.sinks import SinkContext, open_sink
from edgeface.stream.sinks.video import VideoFile
from edgeface.video_writing import VideoSink
from preview_shots import result, shot

BOX = (40.0, 30.0, 100.0, 100.0)
LOSSLESS = SinkContext("test", fps=10.0, lossless=True)


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    video = cv2.VideoCapture(str(path))
    assert video.isOpened()
    frames = []
    while True:
        ok, frame = video.read()
        if not ok:
            return frames
        frames.append(np.asarray(frame, np.uint8))


def grey(number: int, size: tuple[int, int] = (160, 128)) -> NDArray[np.uint8]:
    return np.full((size[1], size[0], 3), 40 + 10 * number, np.uint8)


def test_every_result_is_a_frame_with_its_faces_drawn(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = open_sink("video", str(path), LOSSLESS)
    for number in range(12):
        sink.put(shot(grey(number), number), result([BOX]))
    assert not path.exists()
    sink.close()
    frames = frames_of(path)
    assert len(frames) == 12
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 10.0
    edge, ground = frames[0][65, 38:43].astype(int), frames[0][120, 150].astype(int)
    assert np.abs(edge - ground).max() > 40


def test_live_results_are_shown_as_long_as_they_lasted(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoFile(Recordings(str(path)), 10.0, in_time=True)
    # Every 0.2 s, two at once, a gap of half a second, and one of an hour, of which 2 s stay.
    taken_s = [0.0, 0.2, 0.4, 0.41, 0.9, 3600.9, 3601.0]
    for number, second in enumerate(taken_s):
        taken = replace(shot(grey(2 * number), number), taken_monotonic_ns=round((1000 + second) * 1e9))
        sink.put(taken, result([]))
    sink.close()
    seen = [round((float(frame[120, 150].mean()) - 40) / 20) for frame in frames_of(path)]
    assert seen == [0, 0, 1, 1, 2, 2, 2, 2, 2, 4] + [4] * 19 + [5, 6]


def test_a_frame_of_another_size_is_brought_into_the_first_ones_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoFile(Recordings(str(path)), 10.0)
    for number, size in enumerate([(160, 128), (80, 64), (128, 160), (128, 160), (160, 128)]):
        sink.put(shot(grey(10, size), number), result([]))
    sink.close()
    frames = frames_of(path)
    assert [frame.shape for frame in frames] == [(128, 160, 3)] * 5
    # The turned picture stands upright in the middle, as high as the video, with bars of black beside it.
    turned = frames[2].astype(int)
    assert turned[:, :20].max() < 40
    assert turned[:, 140:].max() < 40
    assert np.abs(turned[5:120, 40:120] - 140).mean() < 15
    assert np.abs(frames[1][10:100, 10:150].astype(int) - 140).mean() < 15
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "frames from number 1 on have 80 x 64 pixels: they are brought into the 160 x 128 of the first",
        "frames from number 2 on have 128 x 160 pixels: they are brought into the 160 x 128 of the first",
        "frames from number 4 on have 160 x 128 pixels: they are brought into the 160 x 128 of the first",
    ]


def test_a_name_that_is_not_utf8_and_an_odd_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / os.fsdecode(b"o\xe9") / os.fsdecode(b"v\xe9.mp4")
    path.parent.mkdir()
    sink = VideoFile(Recordings(str(path)), 10.0)
    sink.put(shot(grey(10, (161, 129)), 0), result([]))
    sink.close()
    copy = path.rename(tmp_path / "copy.mp4")
    assert [frame.shape for frame in frames_of(copy)] == [(130, 162, 3)]
    assert "has 162 x 130 pixels for 161 x 129" in caplog.text


def test_a_run_without_results_leaves_no_file(tmp_path: Path) -> None:
    sink = open_sink("video", str(tmp_path / "out.mp4"), LOSSLESS)
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_ends_the_recording_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoFile(Recordings(str(path)), 10.0)
    sink.put(shot(grey(0), 0), result([]))
    unfinished = tmp_path / "out.unfinished.mp4"
    deadline = time.monotonic() + 30
    while not unfinished.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.02)

    def full(self: VideoSink, image: NDArray[np.uint8]) -> None:
        raise OutputError(f"{path}: the disk is full")

    monkeypatch.setattr(VideoSink, "write", full)
    with caplog.at_level(logging.WARNING, "edgeface.stream"):
        sink.put(shot(grey(1), 1), result([]))
        sink.put(shot(grey(2), 2), result([]))
    with pytest.raises(OutputError, match="the disk is full"):
        sink.close()        # so that the run does not end as if all were well
    sink.close()
    assert caplog.text.count("the disk is full; the run goes on without it") == 1
    assert f"{unfinished}: holds what was recorded" in caplog.text


def test_hidden_faces_are_hidden_in_the_file(tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    box = (180.0, 60.0, 270.0, 180.0)
    detail = []
    for hide_faces in (False, True):
        path = tmp_path / f"{hide_faces}.mp4"
        context = SinkContext("test", fps=10.0, lossless=True, hide_faces=hide_faces)
        sink = open_sink("video", str(path), context)
        sink.put(shot(astronaut, 0), result([box], pose=False))
        sink.close()
        part = frames_of(path)[0][70:100, 190:260].astype(int)
        detail.append(np.abs(np.diff(part, axis=1)).mean())
    assert detail[1] < 0.5 * detail[0]


@pytest.mark.parametrize("name", ["out.avi", "out"])
def test_another_suffix_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=r"\.mp4"):
        open_sink("video", name, LOSSLESS)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        open_sink("video", str(tmp_path / "no" / "out.mp4"), LOSSLESS)


def test_an_opencv_without_windows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(OutputError, match=r"built without windows.*use --show and a browser"):
        open_sink("window", "", LOSSLESS)


def test_a_machine_without_a_display_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           GTK3\n")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(OutputError, match=r"no display here.*use --show and a browser"):
        open_sink("window", "", LOSSLESS)
