"""Where recordings lie: one file, or a folder with one for every ten minutes, named by the time when it began.

While it is written, ``out.mp4`` is ``out.unfinished.mp4``, held by a lock. When the power goes, that is what stays: it
can be played, and the next run that records to the same place gives it a name of its own. Of a folder the oldest go, by
``RecordingLimits``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgeface.atomic import followed, is_special, refused
from edgeface.errors import EdgefaceError, OptionError, OutputError
from edgeface.stream.keeping import require_kept
from edgeface.video_encoders import MP4, WEBM, Encoding, video_encoding
from edgeface.video_writing import VideoSink, writing_video

SUFFIXES = (MP4, WEBM)
_UNFINISHED = ".unfinished"
_TIME = "%Y%m%d-%H%M%S"
_STAMP = r"\d{8}-\d{6}(-\d+)?"
_END = rf"({re.escape(_UNFINISHED)})?\.(mp4|webm)"

_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class RecordingLimits:
    """How long the recordings of a folder are kept: ``days`` after their last frame, and while all take no more than
    ``megabytes`` (10^6 bytes). Raises OptionError for limits that keep nothing."""

    days: float = 30.0
    megabytes: float = 10_000.0

    def __post_init__(self) -> None:
        require_kept("recordings", self.days, self.megabytes)

    @property
    def text(self) -> str:
        """What they say, for people."""
        return f"older than {self.days:g} days, and the oldest where all take more than {self.megabytes:g} MB"


@dataclass(frozen=True)
class Recording:
    """One file: its ``name`` once it is finished, where it is now, when it was last written to, in Unix seconds, and
    its size in bytes."""

    name: str
    path: Path
    time_s: float
    size_bytes: int

    @property
    def is_unfinished(self) -> bool:
        """Whether it is being written, or was left by a run that was cut off."""
        return self.path.name != self.name


class Recordings:
    """The recordings of ``target``: a file's name, .mp4 or .webm, or a folder that is there or whose name ends in '/'.

    ``is_folder``: a recording has many files, in ``path``; else it is that file, .webm where H.264 cannot be written.
    ``encoding`` is what they are written with, ``limits`` say which of a folder's are deleted. Raises OptionError for a
    name that a recording cannot have.
    """

    def __init__(self, target: str, *, own_only: bool = False, limits: RecordingLimits | None = None) -> None:
        path = Path(target)
        self.is_folder = target.endswith("/") or path.is_dir()
        if not self.is_folder and path.suffix.lower() not in SUFFIXES:
            raise OptionError(
                f"{target}: videos are written as {MP4} or {WEBM}: name it so, or '{target}/' for a folder of them"
            )
        self.encoding: Encoding = video_encoding(MP4 if self.is_folder else path.suffix.lower())
        if not self.is_folder:
            path = path if path.suffix.lower() == self.encoding.suffix else path.with_suffix(self.encoding.suffix)
            path = followed(path)
        self.path = path
        self.folder = path if self.is_folder else path.parent
        self.limits = limits or RecordingLimits()
        self._own_only = own_only
        self._own: set[str] = set()
        stamped = _STAMP if self.is_folder else rf"{re.escape(path.stem)}(-{_STAMP})?"
        self._names = re.compile(stamped + _END, re.DOTALL | re.IGNORECASE)

    def prepare(self) -> None:
        """Make the folder, and name what a run left here that was cut off. Raises OutputError."""
        try:
            if self.is_folder:
                self.folder.mkdir(parents=True, exist_ok=True)
            for one in self._all():
                if one.is_unfinished:
                    self._rescue(one)
        except OSError as error:
            raise refused(self.folder, error) from None

    def trim(self) -> None:
        """Delete those of the folder that are over its limits, the oldest first, and say how many; what is being
        written stays. A file that cannot be deleted is logged. Raises OutputError where the folder cannot be read."""
        try:
            found = sorted(self._all(), key=lambda one: one.time_s)
        except OSError as error:
            raise refused(self.folder, error) from None
        oldest_s = time.time() - self.limits.days * 86_400
        over_bytes = sum(one.size_bytes for one in found) - self.limits.megabytes * 1e6
        deleted, freed_bytes = 0, 0
        for one in found:
            if one.is_unfinished or (one.time_s >= oldest_s and freed_bytes >= over_bytes):
                continue
            try:
                one.path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s: cannot be deleted: %s", one.path, error.strerror)
                continue
            deleted, freed_bytes = deleted + 1, freed_bytes + one.size_bytes
        if deleted:
            _log.info(
                "%s/: recordings deleted: %d, %.0f MB: %s", self.path, deleted, freed_bytes / 1e6, self.limits.text
            )

    @contextmanager
    def recording(self, fps: float) -> Iterator[VideoSink]:
        """A video that is named when the block ends; after an error what was written of it stays, unfinished.

        Raises OutputError.
        """
        path = self._free(time.time()) if self.is_folder else self.path
        if is_special(path):
            with writing_video(path, fps, self.encoding) as sink:
                yield sink
            return
        self._own.add(path.name)
        with _unfinished(path) as temporary:
            sink = VideoSink(path, temporary, fps, self.encoding, live=True)
            try:
                yield sink
                sink.end()
            except BaseException:
                sink.close()
                raise
        # It has its name by now, however long its encoder takes: the run may not wait for that.
        try:
            sink.finish()
        finally:
            sink.close()

    def listed(self) -> list[Recording]:
        """What is there, the newest first; with ``own_only`` what was recorded since this was made. Raises OSError."""
        found = [one for one in self._all() if one.size_bytes and (not self._own_only or one.name in self._own)]
        return sorted(found, key=lambda one: one.time_s, reverse=True)

    def named(self, name: str) -> Recording | None:
        """The one of that name, None where it is not among the listed. Raises OSError."""
        return next((one for one in self.listed() if one.name == name), None)

    def _all(self) -> list[Recording]:
        found: list[Recording] = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if self._names.fullmatch(entry.name) is None or not entry.is_file():
                    continue
                seen = entry.stat()
                name = entry.name.replace(_UNFINISHED, "")
                found.append(Recording(name, Path(entry.path), seen.st_mtime, seen.st_size))
        return found

    def _free(self, moment_s: float, stem: str = "") -> Path:
        """A name by the time that nothing has."""
        first = stem + time.strftime(_TIME, time.localtime(moment_s))
        path, number = self.folder / f"{first}{self.encoding.suffix}", 1
        while path.exists() or _temporary_of(path).exists():
            number += 1
            path = self.folder / f"{first}-{number}{self.encoding.suffix}"
        return path

    def _rescue(self, left: Recording) -> None:
        with left.path.open("rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.is_folder:
                    return
                raise OutputError(f"{self.path}: another run records to it: choose another name") from None
            if not left.size_bytes:
                left.path.unlink()
                return
            path = self.folder / left.name
            if not self.is_folder or path.exists():
                stem = "" if self.is_folder else f"{self.path.stem}-"
                path = self._free(left.time_s, stem).with_suffix(left.path.suffix)
            left.path.rename(path)
        _log.warning("%s: is what an earlier run recorded until it was cut off", path)


def _temporary_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}{_UNFINISHED}{path.suffix}")


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place when the block ends; after an error it stays, if it holds
    anything."""
    temporary = _temporary_of(path)
    try:
        held = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise OutputError(f"{path}: another run records to it: choose another name") from None
    except OSError as error:
        raise refused(path, error) from None
    try:
        with suppress(OSError):     # not every file system has locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield temporary
            temporary.replace(path)
        except (EdgefaceError, OSError) as error:
            if temporary.is_file() and temporary.stat().st_size:
                _log.warning("%s: holds what was recorded", temporary)
            else:
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise refused(path, error) from None
            raise
    finally:
        os.close(held)
