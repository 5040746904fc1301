"""The sink ``json``: one JSON object a line (docs/camera.md), to a file or to standard output."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgeface.atomic import is_special, open_special, refused
from edgeface.errors import OutputError
from edgeface.stream.results import Result, frame_record, status_record
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext, sink
from edgeface.stream.sinks.queued import CallQueue

STDOUT = "-"
_CAPACITY = 256

_log = logging.getLogger("edgeface.stream")


class JsonLines:
    """Appends a line a result to a file, at once, so that a reader may follow it; a line is there whole or not at all.

    A disk that takes no more is logged when it begins and counted in ``lost``; lines go on as soon as it takes them. A
    reader of standard output that leaves ends the run with BrokenPipeError.
    """

    def __init__(self, target: str, context: SinkContext) -> None:
        """Raises OutputError when the file cannot be opened."""
        self.lost = 0
        self._is_refused = False
        self._target = target
        self._source = context.source
        self._descriptor = _opened(target)
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._queue = CallQueue("json", self._close, capacity=_CAPACITY, lossless=context.lossless)

    def put(self, shot: Shot, result: Result) -> None:
        self._add(frame_record(shot, result), droppable=True)

    def status(self, status: Status) -> None:
        self._add(status_record(self._source, status), droppable=False)

    def close(self) -> None:
        self._queue.close()

    @property
    def dropped(self) -> int:
        """Lines that found no room in the queue."""
        return self._queue.dropped

    def _add(self, record: dict[str, Any], *, droppable: bool) -> None:
        line = msgspec.json.encode(record) + b"\n"
        self._queue.add(lambda: self._write(line), droppable=droppable)

    def _write(self, line: bytes) -> None:
        start = os.lseek(self._descriptor, 0, os.SEEK_END) if self._is_file else 0
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            self._is_refused = False
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            if not self._is_file:
                raise refused(_name(self._target), error) from None
            os.ftruncate(self._descriptor, start)
            if not self._is_refused:
                self._is_refused = True
                _log.warning("%s; lines are lost until it can be", refused(_name(self._target), error))
            self.lost += 1

    def _close(self) -> None:
        os.close(self._descriptor)


def _opened(target: str) -> int:
    try:
        if target == STDOUT:
            return os.dup(sys.stdout.fileno())
        if is_special(Path(target)):
            with open_special(Path(target)) as opened:
                return os.dup(opened.fileno())
        return os.open(Path(target), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except IsADirectoryError:
        raise OutputError(f"{target}: is a folder: give a file's name to --json") from None
    except OSError as error:
        raise refused(_name(target), error) from None


def _name(target: str) -> str:
    return "standard output" if target == STDOUT else target


@sink("json")
def open_json(target: str, context: SinkContext) -> JsonLines:
    """JSON lines appended to the file ``target``, or on standard output (``-``). Raises OutputError."""
    return JsonLines(target, context)
