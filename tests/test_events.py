"""``edgeface camera --events`` and ``edgeface events``: what is kept, its limits, and what a full disk does."""

from __future__ import annotations

import csv
import json
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.errors import InputError, OutputError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.stream.events.recorder import EventOptions, EventRecorder
from edgeface.stream.events.store import DATABASE, Event, EventStore
from edgeface.stream.preview.events import KeptEvents
from edgeface.stream.preview.server import Server
from edgeface.stream.results import Result as Found
from edgeface.stream.results import TrackedFaces
from edgeface.stream.shots import Shot, Status

ONLINE = Status("online", "", 0.0)
POINTS = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
START_NS = 1_764_000_000_000_000_000


def shot(image: NDArray[np.uint8], number: int) -> Shot:
    return Shot("door", Frame(image), number, number * 40_000_000, START_NS + number * 40_000_000, ONLINE)


def found(
    tracks: list[int], *, mask: float | None = None, ended: tuple[int, ...] = (), seen: bool = True, shift: float = 0
) -> Found:
    n = len(tracks)
    faces = Faces(
        np.tile(np.array([10 + shift, 20, 90 + shift, 100], np.float32), (n, 1)), np.full(n, 0.9, np.float32),
        np.tile(POINTS, (n, 1, 1)),
        attributes={} if mask is None else {"mask": np.full(n, mask, np.float32), "hat": np.full(n, 0.2, np.float32)},
        thresholds={} if mask is None else {"mask": 0.6},
    )
    tracked = TrackedFaces.of(faces, np.array(tracks, np.int64), np.full(n, seen))
    return Found(tracked, True, ended, {}, 10.0, 0, 0)


def events(folder: Path) -> list[Event]:
    store = EventStore(folder)
    try:
        return list(store.events())
    finally:
        store.close()


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["events", *map(str, arguments)])


@pytest.fixture
def image(astronaut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(astronaut[:128, 150:278])


@pytest.fixture
def seen(tmp_path: Path, image: NDArray[np.uint8]) -> Path:
    """The events of two tracks: one of three sightings with a mask, and one that the end of the run cut off."""
    folder = tmp_path / "seen"
    recorder = EventRecorder(EventOptions(folder, days=1e5, attributes=True))
    recorder.put(shot(image, 0), found([1], mask=0.9))
    recorder.put(shot(image, 1), found([1], mask=0.7, shift=2))
    recorder.put(shot(image, 2), found([1], mask=0.1, seen=False))
    recorder.put(shot(image, 3), found([1], mask=0.5, shift=4))
    recorder.put(shot(image, 4), found([2], mask=0.1, ended=(1,)))
    recorder.close()
    assert recorder.lost == 0
    return folder


def test_a_track_is_a_row_and_its_best_shot_lies_beside_it(seen: Path) -> None:
    second, first = events(seen)
    assert (first.source, first.track, first.sightings, first.width, first.height) == ("door", 1, 3, 128, 128)
    assert (first.first_seen, first.last_seen) == pytest.approx((START_NS / 1e9, START_NS / 1e9 + 0.12), abs=1e-3)
    assert (first.first_x1, first.last_x1, first.last_y2) == (10, 14, 100)
    assert (first.mask, first.has_mask) == (pytest.approx(0.7, abs=1e-4), 1)
    assert json.loads(first.attributes or "") == pytest.approx({"mask": 0.7, "hat": 0.2}, abs=1e-4)
    assert (second.track, second.sightings, second.has_mask) == (2, 1, 0)
    for event in (first, second):
        assert event.shot is not None
        picture = cv2.imread(str(seen / event.shot))
        assert picture.shape == (112, 112, 3)
        assert event.shot_bytes == (seen / event.shot).stat().st_size
    assert seen.stat().st_mode & 0o077 == 0
    assert (seen / DATABASE).stat().st_mode & 0o077 == 0
    assert (seen / "shots").stat().st_mode & 0o077 == 0


def test_nothing_is_kept_that_was_not_asked_for(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    recorder = EventRecorder(EventOptions(tmp_path, days=1e5, shots=False))
    recorder.put(shot(image, 0), found([1], mask=0.9))
    recorder.close()
    (event,) = events(tmp_path)
    assert (event.attributes, event.shot) == (None, None)
    assert list((tmp_path / "shots").iterdir()) == []


def test_a_plug_that_is_pulled_leaves_the_row(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    recorder = EventRecorder(EventOptions(tmp_path, days=1e5))
    recorder.put(shot(image, 0), found([7]))
    recorder.put(shot(image, 1), found([7]))
    deadline = time.monotonic() + 10
    while not events(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # The database as it is at this moment, its log beside it, as a machine that goes out leaves them.
    copy = tmp_path / "copy"
    (copy / "shots").mkdir(parents=True)
    (copy / "shots" / "00000000.jpg").write_bytes(b"of no row")
    for path in tmp_path.glob(f"{DATABASE}*"):
        (copy / path.name).write_bytes(path.read_bytes())
    (event,) = events(copy)
    assert (event.track, event.sightings, event.shot) == (7, 1, None)
    EventStore(copy, create=True).close()
    assert list((copy / "shots").iterdir()) == []
    recorder.close()


def test_limits_in_days_and_in_megabytes_are_kept(tmp_path: Path) -> None:
    store = EventStore(tmp_path, create=True)
    now = 1_800_000_000.0
    jpeg = np.random.default_rng(0).bytes(50_000)
    for i in range(60):
        moment = now - 86_400 * (60 - i)
        event = Event("door", i, moment, moment, 1, 64, 48, *([0.0] * 8), score=0.9)
        store.change(store.add(event), event, jpeg)
    assert store.keep(30.5, 1000, now) == 30
    assert [event.track for event in store.events()] == list(range(59, 29, -1))
    assert store.keep(1e5, 1, now) > 10
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert on_disk <= 1_000_000
    left = list(store.events())
    assert left[0].track == 59
    assert len(list((tmp_path / "shots").iterdir())) == len(left) > 10
    store.close()


def test_a_full_disk_is_said_once_and_the_camera_goes_on(
    tmp_path: Path, image: NDArray[np.uint8], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeface.stream.events.recorder._TOGETHER_S", 0.0)
    recorder = EventRecorder(EventOptions(tmp_path, days=1e5))
    pages = recorder._store._database.execute("PRAGMA page_count").fetchone()[0]
    recorder._store._database.execute(f"PRAGMA max_page_count = {pages}")     # SQLite's own "disk is full"
    with caplog.at_level(logging.WARNING, "edgeface.stream"):
        for number in range(400):
            recorder.put(shot(image, number), found([number + 1], ended=(number,) if number else ()))
        deadline = time.monotonic() + 60
        while not recorder.lost:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        more = "PRAGMA max_page_count = 100000"
        recorder._queue.add(lambda: recorder._store._database.execute(more).close(), droppable=False)
        recorder.put(shot(image, 400), found([401]))
        recorder.close()
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings[0].startswith(f"{tmp_path / DATABASE}: database or disk is full: free some space")
    assert len([text for text in warnings if "is full" in text]) == 1
    assert any("events are kept again" in text for text in warnings)
    assert events(tmp_path)[0].track == 401


def test_what_comes_within_a_second_is_written_together(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    recorder = EventRecorder(EventOptions(tmp_path, days=1e5))
    commits: list[str] = []
    recorder._store._database.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    for number in range(30):
        recorder.put(shot(image, number), found([number + 1], ended=(number,) if number else ()))
    assert len(recorder._waiting) == 30            # all but what was written at once, and that it has ended
    recorder.status(ONLINE)
    assert recorder._waiting == {}
    recorder.put(shot(image, 30), found([31]))
    recorder.close()
    assert len(commits) == 3
    assert sorted(event.track for event in events(tmp_path)) == list(range(1, 32))
    assert all(event.shot for event in events(tmp_path))


def test_what_cannot_be_written_together_is_not_written_at_all(tmp_path: Path) -> None:
    store = EventStore(tmp_path, create=True)
    event = Event("door", 1, 1.0, 2.0, 1, 64, 48, *([0.0] * 8), score=0.9)

    def stopped() -> None:
        with store.together():
            store.change(store.add(event), event, b"jpeg")
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        stopped()
    assert list(store.events()) == []
    with store.together():
        store.add(event)
    assert len(list(store.events())) == 1
    store.close()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        EventStore(tmp_path / "file", create=True)
    with pytest.raises(InputError, match=r"no events\.db in it"):
        EventStore(tmp_path)
    (tmp_path / DATABASE).write_bytes(b"no database" * 100)
    with pytest.raises(OutputError, match="not a database"):
        EventStore(tmp_path)
    (tmp_path / DATABASE).unlink()
    other = sqlite3.connect(tmp_path / DATABASE)
    other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(OutputError, match="no events of this edgeface"):
        EventStore(tmp_path, create=True)


def test_events_are_listed_shown_exported_and_purged(seen: Path, tmp_path: Path) -> None:
    listed = command("list", seen)
    assert listed.exit_code == 0, listed.stderr
    assert [line.split()[-4] for line in listed.stdout.splitlines()[1:]] == ["2", "1"]
    assert len(json.loads(command("list", seen, "--json", "--most", "1").stdout)) == 1
    assert json.loads(command("list", seen, "--json", "--since", "1h").stdout) == []
    assert "give the earlier one to --since" in command("list", seen, "--since", "1h", "--until", "2h").stderr
    shown = json.loads(command("show", seen, "1", "--json").stdout)
    assert (shown["has_mask"], shown["last_box"][0], shown["attributes"]["hat"]) == (True, 14, 0.2)
    assert str(seen / "shots" / "00000001.jpg") in command("show", seen, "1").stdout

    assert command("export", seen, tmp_path / "e.csv").stdout.endswith("2 events\n")
    rows = list(csv.DictReader((tmp_path / "e.csv").open()))
    assert [row["id"] for row in rows] == ["2", "1"]
    assert (rows[1]["last_x1"], rows[1]["has_mask"]) == ("14.0", "True")
    assert json.loads(rows[1]["attributes"])["hat"] == 0.2
    assert command("export", seen, tmp_path / "e.jsonl", "--format", "jsonl").exit_code == 0
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[1]) == shown

    assert command("purge", seen, "--id", "1").stdout.endswith("1 event deleted\n")
    assert [event.id for event in events(seen)] == [2]
    assert [path.name for path in (seen / "shots").iterdir()] == ["00000002.jpg"]
    assert command("purge", seen, "--before", "2001-01-01").stdout.endswith("0 events deleted\n")
    assert command("purge", seen, "--all").exit_code == 0
    assert events(seen) == []
    assert b"door" not in b"".join(path.read_bytes() for path in seen.glob(f"{DATABASE}*"))
    assert command("list", seen).stdout.endswith("no events\n")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["list", "nowhere"], 3, "no events.db in it"),
        (["show", "seen", "9"], 3, "has no event 9"),
        (["purge", "seen"], 2, "by one of --before TIME, --id ID and --all"),
        (["purge", "seen", "--id", "1", "--all"], 2, "by one of"),
        (["purge", "seen", "--before", "yesterday"], 2, "is no time: write an age"),
        (["export", "seen", "none/e.csv"], 10, "cannot be written"),
    ],
)
def test_what_cannot_work(
    seen: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, says: str
) -> None:
    monkeypatch.chdir(seen.parent)
    result = command(*arguments)
    assert result.exit_code == exit_code
    assert says in result.stderr
    assert len(events(seen)) == 2


def test_the_page_lists_the_newest_and_their_shots(seen: Path) -> None:
    def served(folder: Path | None, *, hide_faces: bool = False) -> tuple[int, Any, int]:
        routes = KeptEvents(folder, hide_faces=hide_faces).routes()
        server = Server(routes, bind="127.0.0.1", port=0, token=None)
        try:
            url = f"http://127.0.0.1:{server.port}"
            listed = requests.get(f"{url}/events.json", timeout=20)
            shot = requests.get(f"{url}/shots/1", timeout=20)
            assert requests.get(f"{url}/shots/99", timeout=20).status_code == 404
            assert requests.get(f"{url}/shots/..%2Fevents.db", timeout=20).status_code == 404
            return listed.status_code, listed.json() if listed.content else None, shot.status_code
        finally:
            server.close()

    status, rows, shot_status = served(seen)
    assert (status, shot_status) == (200, 200)
    assert [(row["id"], row["has_mask"], row["has_shot"]) for row in rows] == [(2, False, True), (1, True, True)]
    # Shots of an earlier run are not shown by one that hides faces.
    status, rows, shot_status = served(seen, hide_faces=True)
    assert (status, shot_status, [row["has_shot"] for row in rows]) == (200, 404, [False, False])
    assert served(None) == (204, None, 404)
    (seen / DATABASE).unlink()
    assert served(seen)[0] == 503


def test_the_camera_keeps_events(tmp_path: Path) -> None:
    folder = tmp_path / "seen"
    result = CliRunner().invoke(main, [
        "camera", "demo", "--model", "mos_s", "--size", "320", "--every-frame", "--max-frames", "8", "--events",
        str(folder), "--threads", "1",
    ])
    assert result.exit_code == 0, result.stderr
    found = events(folder)
    assert {event.source for event in found} == {"demo"}
    assert len(found) == len(list((folder / "shots").iterdir())) == 2
    refused = CliRunner().invoke(main, ["camera", "demo", "--events", str(folder), "--no-track"])
    assert (refused.exit_code, "--events keeps a row a track" in refused.stderr) == (2, True)
    blurred = CliRunner().invoke(main, ["camera", "demo", "--events", str(folder), "--blur"])
    assert (blurred.exit_code, "--no-events-shots" in blurred.stderr) == (2, True)
