"""JSON lines that others can rely on, and queues that keep a slow sink from slowing the loop."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeface.errors import OutputError, UnknownSinkError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.stream.results import Result, TrackedFaces, frame_record, status_record
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext, open_sink, sink
from edgeface.stream.sinks.json_lines import open_json
from edgeface.stream.sinks.queued import CallQueue, Queued

CONTEXT = SinkContext("rtsp://camera/1")
ONLINE = Status("online", "", 1_700_000_000.0, starts=1, captured=8, dropped=2)


class Pose(msgspec.Struct, forbid_unknown_fields=True):
    """docs/camera.md in types, as a reader of version 1 would write them."""

    pitch: float
    yaw: float
    roll: float


class Face(msgspec.Struct, forbid_unknown_fields=True):
    track: int | None
    seen: bool
    box: tuple[float, float, float, float]
    score: float
    landmarks: list[tuple[float, float]] | None
    pose: Pose | None
    attributes: dict[str, float]
    present: list[str]


class FrameLine(msgspec.Struct, tag_field="type", tag="frame", forbid_unknown_fields=True):
    schema: int
    source: str
    frame: int
    time: float
    width: int
    height: int
    detected: bool
    faces: list[Face]
    ended: list[int]
    ms: dict[str, float]
    latency_ms: float
    state: str
    dropped: int
    failed: int
    damaged: int


class StateLine(msgspec.Struct, tag_field="type", tag="state", forbid_unknown_fields=True):
    schema: int
    source: str
    time: float
    state: str
    reason: str
    retry_in_s: float | None
    starts: int
    captured: int
    dropped: int
    damaged: int


def shot(number: int = 7) -> Shot:
    frame = Frame(np.zeros((48, 64, 3), np.uint8))
    return Shot(CONTEXT.source, frame, number, 5_000_000_000, 1_700_000_000_123_456_789, ONLINE)


def result(tracks: tuple[int, ...] = (3, -1)) -> Result:
    n = len(tracks)
    faces = Faces(
        np.arange(4 * n, dtype=np.float32).reshape(n, 4) / 3, np.linspace(0.9, 0.5, n, dtype=np.float32),
        np.ones((n, 5, 2), np.float32), np.full((n, 3), 1.005, np.float32),
        {"mask": np.full(n, 0.25, np.float32)}, {"mask": 0.2},
    )
    seen = np.arange(n) % 2 == 0
    tracked = TrackedFaces.of(faces, np.array(tracks, np.int64), seen)
    return Result(tracked, True, (2,), {"preprocess": 0.5, "network": 3.25, "decode": 0.1}, 12.3456, 2, 1)


def test_a_frames_line_is_what_the_document_says() -> None:
    line = json.loads(msgspec.json.encode(frame_record(shot(), result())))
    assert line == {
        "schema": 1, "type": "frame", "source": "rtsp://camera/1", "frame": 7, "time": 1700000000.123457,
        "width": 64, "height": 48, "detected": True,
        "faces": [
            {
                "track": 3, "seen": True, "box": [0.0, 0.33, 0.67, 1.0], "score": 0.9, "landmarks": [[1.0, 1.0]] * 5,
                "pose": {"pitch": 1.0, "yaw": 1.0, "roll": 1.0}, "attributes": {"mask": 0.25}, "present": ["mask"],
            },
            {
                "track": None, "seen": False, "box": [1.33, 1.67, 2.0, 2.33], "score": 0.5,
                "landmarks": [[1.0, 1.0]] * 5, "pose": {"pitch": 1.0, "yaw": 1.0, "roll": 1.0},
                "attributes": {"mask": 0.25}, "present": ["mask"],
            },
        ],
        "ended": [2], "ms": {"preprocess": 0.5, "network": 3.25, "decode": 0.1}, "latency_ms": 12.346,
        "state": "online", "dropped": 2, "failed": 1, "damaged": 0,
    }


def test_the_examples_in_the_document_are_lines_of_this_version() -> None:
    text = (Path(__file__).parents[1] / "docs" / "camera.md").read_text()
    examples = [line for line in text.splitlines() if line.startswith('{"schema"')]
    lines = [msgspec.json.decode(line, type=FrameLine | StateLine) for line in examples]
    assert {type(line) for line in lines} == {FrameLine, StateLine}
    assert {line.schema for line in lines} == {1}
    documented = {name for kind in (FrameLine, StateLine, Face, Pose) for name in kind.__struct_fields__}
    assert [name for name in sorted(documented) if f"`{name}`" not in text] == []


def test_lines_are_appended_at_once_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "faces.jsonl"
    target.write_text("before\n")
    lines = open_sink("json", str(target), CONTEXT)
    lines.put(shot(1), result())
    lines.status(ONLINE)
    deadline_s = time.monotonic() + 60
    while target.read_text().count("\n") < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    before, *written = target.read_text().splitlines()
    assert before == "before"
    assert [json.loads(line) for line in written] == [
        json.loads(msgspec.json.encode(frame_record(shot(1), result()))),
        json.loads(msgspec.json.encode(status_record(CONTEXT.source, ONLINE))),
    ]
    lines.close()
    lines.close()


def test_a_disk_that_is_full_for_a_while_loses_lines_and_never_halves_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk takes a part of the second, third and fifth line and refuses the rest: it is full two times."""
    target = tmp_path / "faces.jsonl"
    write = os.write

    def nearly_full(descriptor: int, data: Any) -> int:
        line = bytes(data)
        if any(b'"frame":%d,' % number in line for number in (1, 2, 4)):
            return write(descriptor, line[:100])
        if not line.startswith(b"{"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, line)

    monkeypatch.setattr(os, "write", nearly_full)
    lines = open_json(str(target), CONTEXT)
    for number in range(6):
        lines.put(shot(number), result())
    lines.close()
    assert [json.loads(line)["frame"] for line in target.read_text().splitlines()] == [0, 3, 5]
    assert lines.lost == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{target}: cannot be written: No space left on device: free some space, or choose another place; "
        "lines are lost until it can be"
    ] * 2


def test_a_reader_that_waits_holds_up_nobody() -> None:
    reading, writing = os.pipe()
    try:
        lines = open_json(f"/proc/self/fd/{writing}", CONTEXT)
        for number in range(2000):
            lines.put(shot(number), result())
        lines.close()
        assert lines.dropped > 1000
    finally:
        os.close(reading)       # which lets go of the thread that writes
        os.close(writing)


def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    for target, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "faces.jsonl", "No such file or directory")):
        with pytest.raises(OutputError, match=words):
            open_sink("json", str(target), CONTEXT)


def test_an_unknown_sink_is_answered_with_the_choices() -> None:
    with pytest.raises(UnknownSinkError, match=r"no sink 'jsn'\. Did you mean 'json'\?"):
        open_sink("jsn", "-", CONTEXT)
    assert "json" in sink.names()


class Slow:
    """A sink that waits for ``gate`` before it takes anything."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.taken: list[int] = []
        self.states: list[str] = []
        self.is_closed = False

    def put(self, shot: Shot, _result: Result) -> None:
        self.gate.wait(60)
        self.taken.append(shot.number)

    def status(self, status: Status) -> None:
        self.states.append(status.state)

    def close(self) -> None:
        self.is_closed = True


def test_a_slow_sink_keeps_the_newest_and_counts_the_others() -> None:
    inner = Slow()
    queued = Queued(inner, "slow", capacity=3)
    for number in range(20):
        queued.put(shot(number), result())
        queued.status(ONLINE)
    assert queued.dropped in (16, 17)      # the first one may have been taken out of the queue already
    inner.gate.set()
    queued.close()
    assert inner.taken[-3:] == [17, 18, 19]
    assert len(inner.taken) == 20 - queued.dropped
    assert inner.states == ["online"] * 20
    assert inner.is_closed


def test_a_queue_that_must_lose_nothing_waits_for_room() -> None:
    inner = Slow()
    queued = Queued(inner, "slow", capacity=3, lossless=True)
    threading.Timer(0.2, inner.gate.set).start()
    for number in range(20):
        queued.put(shot(number), result())
    queued.close()
    assert inner.taken == list(range(20))
    assert queued.dropped == 0


def test_what_a_call_raises_is_raised_once_to_the_caller_and_ends_the_queue() -> None:
    finished = threading.Event()
    ran: list[int] = []

    def fail() -> None:
        raise OutputError("broken")

    queue = CallQueue("test", finished.set, capacity=3)
    queue.add(fail)
    assert finished.wait(60)
    with pytest.raises(OutputError, match="broken"):
        queue.add(lambda: ran.append(1))
    queue.add(lambda: ran.append(2))
    queue.close()
    assert ran == []


def test_closing_does_not_wait_for_ever() -> None:
    inner = Slow()
    queued = Queued(inner, "hung", capacity=3)
    for number in range(3):
        queued.put(shot(number), result())
    started_s = time.monotonic()
    queued.close()
    assert time.monotonic() - started_s < 30
    inner.gate.set()
