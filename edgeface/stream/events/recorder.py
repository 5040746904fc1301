"""The sink behind ``edgeface camera --events``."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import OutputError
from edgeface.stream.best_shot import BestShots
from edgeface.stream.events.store import Event, EventStore
from edgeface.stream.keeping import require_kept
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks.queued import CallQueue
from edgeface.stream.track_history import TrackHistories, TrackHistory

# How often a track that goes on is brought up to date, so that a pulled plug loses no more.
_UPDATE_NS = 10_000_000_000
_CAPACITY = 1024
# What comes within so long is written together: a transaction costs more than a row.
_TOGETHER_S = 1.0
_JPEG_QUALITY = 95
# How long after one look a track is looked at again for a better shot; how many frames may wait for that, and how much
# they may take.
_LOOK_NS, _MOST_HELD, _MOST_HELD_BYTES = 200_000_000, 32, 16_000_000

_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class EventOptions:
    """``shots``: keep the best shot of every track; ``attributes``: keep what its face had, apart from a mask, which is
    always kept. Events are deleted after ``days``, and the oldest where all take more than ``megabytes`` (10^6 bytes).
    Raises OptionError for limits that keep nothing."""

    folder: Path
    days: float = 30.0
    megabytes: float = 1_000.0
    shots: bool = True
    attributes: bool = False

    def __post_init__(self) -> None:
        require_kept("events", self.days, self.megabytes)


@dataclass(frozen=True)
class _Row:
    """What is to be written of a track: the newest of it. With its end comes its best shot."""

    track: int
    event: Event
    has_ended: bool


class EventRecorder:
    """Writes a row a track: when it is first seen, every 10 seconds, and when it has ended, then with its best shot.

    A thread chooses the best shots, and writes the files, once a second at most. A disk that takes no more is logged,
    counted in ``lost``, and does not end the run. Raises OutputError when the folder cannot be used.
    """

    def __init__(self, options: EventOptions) -> None:
        self.lost = 0
        self._options = options
        self._is_refused = False
        self._histories = TrackHistories()
        self._best = BestShots() if options.shots else None     # in the thread
        self._held_lock, self._held_bytes = Lock(), 0
        self._looked_ns: dict[int, int] = {}
        self._written_ns: dict[int, int] = {}
        self._waiting: dict[int, _Row] = {}    # by track, until all are written together
        self._last_s = -_TOGETHER_S
        self._rows: dict[int, int] = {}        # by track, in the thread
        self._store = EventStore(options.folder, create=True)
        self._store.keep(options.days, options.megabytes, time.time())
        self._queue = CallQueue("events", self._store.close, capacity=_CAPACITY)

    def put(self, shot: Shot, result: Result) -> None:
        seen = self._histories.add(shot, result)
        if self._best is not None:
            self._have_looked_at(self._best, shot, result, [history.track for history in seen])
        for history in seen:
            if shot.taken_unix_ns - self._written_ns.get(history.track, 0) >= _UPDATE_NS:
                self._written_ns[history.track] = shot.taken_unix_ns
                self._queue_up(history, has_ended=False)
        self._end(self._histories.take(result.ended))
        if time.monotonic() - self._last_s >= _TOGETHER_S:
            self._flush()

    def status(self, status: Status) -> None:
        self._flush()       # no frame may come for long

    def close(self) -> None:
        self._end(self._histories.take_all())
        self._flush()
        self._queue.close()

    def _end(self, histories: list[TrackHistory]) -> None:
        for history in histories:
            self._written_ns.pop(history.track, None)
            self._looked_ns.pop(history.track, None)
            self._queue_up(history, has_ended=True)

    def _have_looked_at(self, best: BestShots, shot: Shot, result: Result, tracks: list[int]) -> None:
        """Let the thread look at a shot that has a track which was not looked at for a while."""
        now = shot.taken_monotonic_ns
        due = [track for track in tracks if now - self._looked_ns.get(track, -_LOOK_NS) >= _LOOK_NS]
        # Where the disk is slow frames are not piled up: the next one will do.
        if not due or self._held_bytes > _MOST_HELD_BYTES:
            return
        size = max(shot.frame.pixels.nbytes, _MOST_HELD_BYTES // _MOST_HELD)
        self._hold(size)
        self._looked_ns.update(dict.fromkeys(due, now))

        def look() -> None:
            best.add(shot, result)
            self._hold(-size)

        self._queue.add(look, droppable=False)

    def _hold(self, size: int) -> None:
        with self._held_lock:
            self._held_bytes += size

    def _queue_up(self, history: TrackHistory, *, has_ended: bool) -> None:
        event = _event(history, with_attributes=self._options.attributes)
        self._waiting[history.track] = _Row(history.track, event, has_ended)

    def _flush(self) -> None:
        if self._waiting:
            rows = list(self._waiting.values())
            self._waiting, self._last_s = {}, time.monotonic()
            self._queue.add(lambda: self._write(rows), droppable=not any(row.has_ended for row in rows))

    def _write(self, rows: list[_Row]) -> None:
        new = [row.track for row in rows if row.track not in self._rows]
        shots = [self._shot_of(row) for row in rows]
        try:
            with self._store.together():
                for row, (event, jpeg) in zip(rows, shots, strict=True):
                    if row.track not in self._rows:
                        self._rows[row.track] = self._store.add(event)
                        if jpeg is None:
                            continue
                    self._store.change(self._rows[row.track], event, jpeg)
        except OutputError as error:
            for track in new:
                self._rows.pop(track, None)
            self._refused(error, len(rows))
        else:
            # A row that is there may be changed on a disk that is full.
            if self._is_refused and new:
                self._is_refused = False
                _log.warning("%s: events are kept again; %d were lost", self._options.folder, self.lost)
            if any(row.has_ended for row in rows):
                self._keep()
        for row in rows:
            if row.has_ended:
                self._rows.pop(row.track, None)

    def _shot_of(self, row: _Row) -> tuple[Event, bytes | None]:
        """The event with how good its best shot is, and that as a JPEG; None before its end, or without one."""
        if self._best is None or not row.has_ended:
            return row.event, None
        for best in self._best.take([row.track]):
            return replace(row.event, shot_quality=round(best.quality, 4)), _jpeg(best.crop)
        return row.event, None

    def _keep(self) -> None:
        try:
            self._store.keep(self._options.days, self._options.megabytes, time.time())
        except OutputError as error:
            self._refused(error, 0)

    def _refused(self, error: OutputError, lost: int) -> None:
        if not self._is_refused:
            self._is_refused = True
            _log.warning("%s; events are lost until it can be", error)
        self.lost += lost


def _jpeg(crop: NDArray[np.uint8]) -> bytes:
    # A PNG of a face takes four times the room, and nine times as long.
    return cv2.imencode(".jpg", crop, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))[1].tobytes()


def _event(history: TrackHistory, *, with_attributes: bool) -> Event:
    attributes = history.attributes()
    has_mask = history.has("mask")
    corners: dict[str, Any] = {
        f"{when}_{corner}": round(value, 2)
        for when, box in (("first", history.first_box), ("last", history.last_box))
        for corner, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)
    }
    rounded = {name: round(value, 4) for name, value in attributes.items()}
    return Event(
        history.source, history.track, round(history.first_unix_ns / 1e9, 6), round(history.last_unix_ns / 1e9, 6),
        history.sightings, history.width, history.height,
        **corners,
        score=round(history.best_score, 4),
        mask=rounded.get("mask"),
        has_mask=None if has_mask is None else int(has_mask),
        attributes=json.dumps(rounded) if with_attributes else None,
    )
