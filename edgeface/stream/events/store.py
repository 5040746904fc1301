"""A folder of events: ``events.db`` (SQLite in WAL mode, which a pulled plug leaves whole) and ``shots/ID.jpg``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgeface.atomic import make_folder, refused
from edgeface.errors import InputError, OutputError

DATABASE, SHOTS = "events.db", "shots"
SCHEMA = 1
_APPLICATION_ID = 0x45464556        # "EFEV"
_BUSY_S = 5.0
# Below the limit by so much, so that not every new event trims.
_TRIMMED_TO = 0.95

_CREATE = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, track INTEGER NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL,
    sightings INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    first_x1 REAL NOT NULL, first_y1 REAL NOT NULL, first_x2 REAL NOT NULL, first_y2 REAL NOT NULL,
    last_x1 REAL NOT NULL, last_y1 REAL NOT NULL, last_x2 REAL NOT NULL, last_y2 REAL NOT NULL,
    score REAL NOT NULL, mask REAL, has_mask INTEGER, attributes TEXT,
    shot TEXT, shot_quality REAL, shot_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS events_last_seen ON events (last_seen);
"""


@dataclass(frozen=True)
class Event:
    """One row. Times are seconds since 1970; boxes x1 y1 x2 y2 are in pixels of a picture of ``width`` x ``height``;
    ``score`` is the best, ``mask`` the mean probability, None where the model does not say; ``attributes`` are JSON,
    None where they were not asked for; ``shot`` is a file in the folder, None where there is none."""

    source: str
    track: int
    first_seen: float
    last_seen: float
    sightings: int
    width: int
    height: int
    first_x1: float
    first_y1: float
    first_x2: float
    first_y2: float
    last_x1: float
    last_y1: float
    last_x2: float
    last_y2: float
    score: float
    mask: float | None = None
    has_mask: int | None = None
    attributes: str | None = None
    shot: str | None = None
    shot_quality: float | None = None
    shot_bytes: int = 0
    id: int | None = None


_COLUMNS = tuple(each.name for each in fields(Event) if each.name != "id")
_SELECT = f"SELECT {', '.join(_COLUMNS)}, id FROM events"


class EventStore:
    """The events of ``folder``, used by one thread at a time.

    With ``create`` the folder and the database are made where they are not there; without it InputError is raised.
    OutputError is raised for a database that is none of edgeface, or that cannot be opened.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        path = folder / DATABASE
        if create:
            _make_private(folder)
            _make_private(folder / SHOTS)
        elif not path.is_file():
            raise InputError(f"{folder}: no {DATABASE} in it: give the folder of 'edgeface camera --events'")
        is_new = not path.exists()
        with self._reported():
            self._database = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            with self._reported():
                self._prepare(path, is_new)
        except OutputError:
            self._database.close()
            raise
        self._shot_bytes = self._sum_of_shots() if create else 0

    def _prepare(self, path: Path, is_new: bool) -> None:
        # Before there is a page: freed ones go back to the disk by incremental_vacuum.
        self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        known = self._database.execute("PRAGMA application_id").fetchone()[0]
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if tables and (known != _APPLICATION_ID or version != SCHEMA):
            raise OutputError(f"{path}: no events of this edgeface (schema {version}): move it away, or choose another")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        # What is deleted is overwritten: it was about people.
        self._database.execute("PRAGMA secure_delete = ON")
        if not tables:
            if is_new:
                path.chmod(0o600)
            self._database.executescript(
                f"BEGIN IMMEDIATE;{_CREATE}"
                f"PRAGMA application_id = {_APPLICATION_ID};PRAGMA user_version = {SCHEMA};COMMIT;"
            )

    def add(self, event: Event) -> int:
        """Insert it; its id, which no other event ever had. Raises OutputError."""
        marks = ", ".join("?" for _ in _COLUMNS)
        with self._reported():
            done = self._database.execute(
                f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES ({marks})", [getattr(event, c) for c in _COLUMNS]
            )
        return int(done.lastrowid or 0)

    def change(self, number: int, event: Event, jpeg: bytes | None = None) -> None:
        """Put ``event`` in the place of row ``number``, with its shot ``jpeg``, if any. Raises OutputError."""
        values = {column: getattr(event, column) for column in _COLUMNS}
        if jpeg is not None:
            name = f"{SHOTS}/{number:08}.jpg"
            _write_new(self.folder / name, jpeg)
            self._shot_bytes += len(jpeg)
            values |= {"shot": name, "shot_bytes": len(jpeg)}
        with self._reported():
            self._database.execute(
                f"UPDATE events SET {', '.join(f'{column} = ?' for column in values)} WHERE id = ?",
                [*values.values(), number],
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is added and changed within is written at once or not at all. Raises OutputError."""
        shot_bytes = self._shot_bytes
        with self._reported():
            self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._reported():
                self._database.execute("COMMIT")
        except BaseException:
            self._shot_bytes = shot_bytes
            with suppress(sqlite3.Error):       # a full disk has rolled it back already
                self._database.execute("ROLLBACK")
            raise

    def events(
        self, *, since_unix_s: float | None = None, until_unix_s: float | None = None, most: int | None = None
    ) -> Iterator[Event]:
        """Events that were seen at some time between, the newest first. Raises OutputError."""
        with self._reported():
            rows = self._database.execute(
                f"{_SELECT} WHERE last_seen >= ? AND first_seen <= ? ORDER BY first_seen DESC, id DESC LIMIT ?",
                (_or(since_unix_s, -1e300), _or(until_unix_s, 1e300), -1 if most is None else most),
            )
            for row in rows:
                yield Event(*row)

    def event(self, number: int) -> Event:
        """The event of that id. Raises InputError where there is none, and OutputError."""
        with self._reported():
            row = self._database.execute(f"{_SELECT} WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise InputError(f"{self.folder}: has no event {number}: 'edgeface events list' shows those that it has")
        return Event(*row)

    def purge(self, *, before_unix_s: float | None = None, number: int | None = None) -> int:
        """Delete event ``number``, or all that were last seen before that time, or all, with their shots; how many.
        Raises OutputError."""
        if number is not None:
            return self._delete("id = ?", (number,))
        return self._delete("last_seen < ?", (_or(before_unix_s, 1e300),))

    def keep(self, days: float, megabytes: float, now_unix_s: float) -> int:
        """Delete what is older than ``days``, then the oldest until all takes less than ``megabytes`` (10^6 bytes); how
        many were deleted. Raises OutputError."""
        deleted = self._delete("last_seen < ?", (now_unix_s - days * 86_400,))
        limit = megabytes * 1e6
        if self.size_bytes() <= limit:
            return deleted
        while self.size_bytes() > limit * _TRIMMED_TO:
            with self._reported():
                count = self._database.execute("SELECT count(*) FROM events").fetchone()[0]
            if not count:
                break
            deleted += self._delete(
                "id IN (SELECT id FROM events ORDER BY last_seen, id LIMIT ?)", (max(1, count // 50),)
            )
        return deleted

    def size_bytes(self) -> int:
        """Of the database and the shots, as far as this store knows."""
        size = self._shot_bytes
        for suffix in ("", "-wal"):
            with suppress(OSError):
                size += (self.folder / f"{DATABASE}{suffix}").stat().st_size
        return size

    def close(self) -> None:
        """Let go of the database; safe to call twice."""
        with suppress(sqlite3.Error):
            self._database.close()

    def _delete(self, where: str, values: tuple[Any, ...]) -> int:
        with self._reported():
            rows = self._database.execute(f"SELECT shot, shot_bytes FROM events WHERE {where}", values).fetchall()
            if not rows:
                return 0
            for shot, size in rows:
                if shot is not None:
                    (self.folder / shot).unlink(missing_ok=True)
                    self._shot_bytes -= size
            self._database.execute(f"DELETE FROM events WHERE {where}", values)
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._database.execute("PRAGMA incremental_vacuum").fetchall()
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return len(rows)

    def _sum_of_shots(self) -> int:
        """What the shots take; those that no row knows, left by a pulled plug, go."""
        with self._reported():
            known = dict(self._database.execute("SELECT shot, shot_bytes FROM events WHERE shot IS NOT NULL"))
            highest = self._database.execute("SELECT max(id) FROM events").fetchone()[0] or 0
            for path in (self.folder / SHOTS).iterdir():
                # Another camera may be about to write its row's shot: leave what is newer than all.
                is_old = path.stem.isdigit() and int(path.stem) < highest
                if is_old and f"{SHOTS}/{path.name}" not in known:
                    path.unlink(missing_ok=True)
        return sum(known.values())

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            is_full = "full" in what
            step = "free some space, or choose another place" if is_full else "check the folder, or choose another"
            raise OutputError(f"{self.folder / DATABASE}: {what}: {step}") from None


def _write_new(path: Path, content: bytes) -> None:
    # In place: no row names the file before it is whole, and what a pulled plug leaves is swept.
    try:
        path.write_bytes(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise refused(path, error) from None


def _make_private(folder: Path) -> None:
    """For its owner alone, where it is new: these are pictures of people."""
    is_new = not folder.exists()
    make_folder(folder)
    if is_new:
        folder.chmod(0o700)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
