"""The sink behind ``edgeface camera --events``."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from edgeface.errors import OptionError, OutputError
from edgeface.stream.best_shot import BestShot, BestShots
from edgeface.stream.events.store import Event, EventStore
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks.queued import CallQueue
from edgeface.stream.track_history import TrackHistories, TrackHistory

DEFAULT_DAYS, DEFAULT_MB = 30.0, 1000.0
# How often a track that goes on is brought up to date, so that a pulled plug loses no more.
_UPDATE_NS = 10_000_000_000
_CAPACITY = 1024
# What comes within so long is written together: a transaction costs more than a row.
_TOGETHER_S = 1.0

_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class EventOptions:
    """``shots``: keep the best shot of every track; ``attributes``: keep what its face had, apart from a mask, which is
    always kept. Events are deleted after ``days``, and the oldest where all take more than ``megabytes`` (10^6 bytes).
    Raises OptionError for limits that keep nothing."""

    folder: Path
    days: float = DEFAULT_DAYS
    megabytes: float = DEFAULT_MB
    shots: bool = True
    attributes: bool = False

    def __post_init__(self) -> None:
        if not self.days > 0 or not self.megabytes >= 1:
            raise OptionError(
                f"events of {self.days:g} days in {self.megabytes:g} MB cannot be kept: choose more than 0 days, 1 MB"
            )


@dataclass(frozen=True)
class _Row:
    """What is to be written of a track: the newest of it, and its best shot at its end."""

    track: int
    event: Event
    best: BestShot | None
    has_ended: bool


class EventRecorder:
    """Writes a row a track: when it is first seen, every 10 seconds, and when it has ended, then with its best shot.

    Files are written by a thread, once a second at most. A disk that takes no more is logged, counted in ``lost``, and
    does not end the run. Raises OutputError when the folder cannot be used.
    """

    def __init__(self, options: EventOptions) -> None:
        self.lost = 0
        self._options = options
        self._is_refused = False
        self._histories = TrackHistories()
        self._best = BestShots() if options.shots else None
        self._written_ns: dict[int, int] = {}
        self._waiting: dict[int, _Row] = {}    # by track, until all are written together
        self._last_s = -_TOGETHER_S
        self._rows: dict[int, int] = {}        # by track, in the thread
        self._store = EventStore(options.folder, create=True)
        self._store.keep(options.days, options.megabytes, time.time())
        self._queue = CallQueue("events", self._store.close, capacity=_CAPACITY)

    def put(self, shot: Shot, result: Result) -> None:
        if self._best is not None:
            self._best.add(shot, result)
        for history in self._histories.add(shot, result):
            if shot.taken_unix_ns - self._written_ns.get(history.track, 0) >= _UPDATE_NS:
                self._written_ns[history.track] = shot.taken_unix_ns
                self._queue_up(history, None, has_ended=False)
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
            best = None if self._best is None else next(iter(self._best.take([history.track])), None)
            self._queue_up(history, best, has_ended=True)

    def _queue_up(self, history: TrackHistory, best: BestShot | None, *, has_ended: bool) -> None:
        event = _event(history, best, with_attributes=self._options.attributes)
        self._waiting[history.track] = _Row(history.track, event, best, has_ended)

    def _flush(self) -> None:
        if self._waiting:
            rows = list(self._waiting.values())
            self._waiting, self._last_s = {}, time.monotonic()
            self._queue.add(lambda: self._write(rows), droppable=not any(row.has_ended for row in rows))

    def _write(self, rows: list[_Row]) -> None:
        new = [row.track for row in rows if row.track not in self._rows]
        shots = [None if row.best is None else cv2.imencode(".png", row.best.crop)[1].tobytes() for row in rows]
        try:
            with self._store.together():
                for row, png in zip(rows, shots, strict=True):
                    if row.track not in self._rows:
                        self._rows[row.track] = self._store.add(row.event)
                        if png is None:
                            continue
                    self._store.change(self._rows[row.track], row.event, png)
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


def _event(history: TrackHistory, best: BestShot | None, *, with_attributes: bool) -> Event:
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
        shot_quality=None if best is None else round(best.quality, 4),
    )
