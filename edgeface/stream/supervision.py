"""A source that is looked after: online, stalled or offline, and started anew when it fails or hangs."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from time import monotonic
from types import TracebackType

from msgspec.structs import replace as replace_field

from edgeface import errors
from edgeface.errors import EdgefaceError, OptionError, SourceError
from edgeface.stream.process import CaptureProcess
from edgeface.stream.shots import Shot, State, Status
from edgeface.stream.sources import SourceSpec
from edgeface.stream.wire import Ended, Failed, FromProcess, Noted, Opened, Started, Taken

_TICK_S = 0.1
_CLOSE_S = 3.0
# A source of fewer frames a second than the deadlines are made for is given this many periods.
_PERIODS = 3.0
_MOST_CHANGES = 256
# Of a deadline, where it is not the source that is slow but a busy machine.
_MOST_PATIENCE = 6.0

_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class Deadlines:
    """How long a source may take, in seconds, before something is done about it. Raises OptionError.

    Where its process waits for a processor, that time is not counted, up to six times each: a machine that is busy for
    a while would kill it again and again, and be busy with its start.

    ``start_s``: for a process to start, which takes a busy board seconds; ``open_s``: to open the source. ``stall_s``
    without a frame: it counts as stalled; ``read_s``: its process is killed, even when the driver blocks for ever. Both
    grow for a source that announces less than three frames in that time. Retries come after ``first_retry_s``, then
    twice as long each time up to ``last_retry_s``; a frame starts the count anew, and a source that has given one is
    tried every ``worked_retry_s`` at least, from start to start. ``give_up_s`` without a working process ends it all
    with a SourceError; None goes on for ever.
    """

    start_s: float = 30.0
    open_s: float = 10.0
    stall_s: float = 1.0
    read_s: float = 2.0
    first_retry_s: float = 1.0
    last_retry_s: float = 30.0
    worked_retry_s: float = 3.0
    give_up_s: float | None = None

    @classmethod
    def patient(cls, read_s: float | None, give_up_s: float | None) -> Deadlines:
        """The usual ones, with ``read_s`` where it is given: with less than a second nothing counts as stalled."""
        if read_s is None:
            return cls(give_up_s=give_up_s)
        return cls(read_s=read_s, stall_s=min(cls.stall_s, read_s), give_up_s=give_up_s)

    def __post_init__(self) -> None:
        shortest_s = min(self.start_s, self.open_s, self.stall_s, self.first_retry_s, self.worked_retry_s)
        if shortest_s <= 0 or self.stall_s > self.read_s or self.first_retry_s > self.last_retry_s:
            raise OptionError(
                "deadlines of a source must be more than 0 seconds, and it counts as stalled before it is given up"
            )


@dataclass(frozen=True)
class _Lost:
    """Why a process is no more, and whether it hangs, so that waiting for it is of no use."""

    reason: str
    hangs: bool = False


@dataclass
class _Clock:
    """CLOCK_MONOTONIC when a process was launched, said that it runs, and said that its source is open; 0: not yet."""

    launched_s: float
    started_s: float = 0.0
    opened_s: float = 0.0
    _silent_since_s: float = 0.0
    _starved_before_s: float = 0.0

    def hangs(self, process: CaptureProcess, since_s: float, limit_s: float) -> bool:
        """Whether nothing came of it for ``limit_s``, without the time that it waited for a processor."""
        if since_s != self._silent_since_s:
            self._silent_since_s, self._starved_before_s = since_s, process.starved_s
        silent_s = monotonic() - since_s
        if silent_s <= limit_s:
            return False
        own_s = silent_s - (process.starved_s - self._starved_before_s)
        return own_s > limit_s or silent_s > _MOST_PATIENCE * limit_s


class Supervisor:
    """Runs a source in a process of its own and gives out its newest frame; a context that is used once.

    ``newest`` is for one thread; everything else for any.
    """

    def __init__(self, spec: SourceSpec, deadlines: Deadlines | None = None) -> None:
        self.spec = spec
        self._deadlines = deadlines or Deadlines()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._process: CaptureProcess | None = None
        self._status = Status("offline", "starting", time.time())
        self._changes: deque[Status] = deque([self._status], _MOST_CHANGES)
        self._shot: Shot | None = None
        self._is_wanted = False
        self._is_over = False
        self._error: BaseException | None = None
        self._past_frames = 0
        self._past_damaged = 0
        self._last_number = -1
        self._has_had_frames = False
        self._down_since_s = monotonic()
        self._fps: float | None = None
        self._thread = threading.Thread(target=self._run, name="edgeface-supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            _log.error("%s: the capture process cannot be ended", self.spec.shown)

    @property
    def status(self) -> Status:
        """How the source fares now."""
        with self._changed:
            process = self._process
            frames, damaged = (0, 0) if process is None else (process.frames, process.damaged)
            return replace(
                self._status, captured=self._past_frames + frames, damaged=self._past_damaged + damaged
            )

    @property
    def fps(self) -> float | None:
        """The rate that the source announced when it was last opened."""
        return self._fps

    @property
    def is_over(self) -> bool:
        """Whether there will be no more frames: the source is at its end, or ``newest`` has raised its error."""
        with self._changed:
            return self._is_over and self._shot is None

    def changes(self) -> list[Status]:
        """What became of the source since the last call, in order."""
        with self._changed:
            changes = list(self._changes)
            self._changes.clear()
        return changes

    def newest(self, timeout_s: float) -> Shot | None:
        """The newest frame that was not given out yet, waiting for it up to ``timeout_s``; None when none came.

        Raises what ends the source for good, once: an EdgefaceError, such as an InputError for a file that is no video.
        """
        deadline_s = monotonic() + timeout_s
        with self._changed:
            if not self._is_wanted and self._shot is None:
                self._is_wanted = True
                if self._process is not None:
                    self._process.ask()
            while self._shot is None and not self._is_over and (left_s := deadline_s - monotonic()) > 0:
                self._changed.wait(left_s)
            shot, self._shot = self._shot, None
            if shot is None and self._error is not None:
                error, self._error = self._error, None
                raise error
        return shot

    def _run(self) -> None:
        backoff_s = self._deadlines.first_retry_s
        has_worked = False
        try:
            while True:
                started_s = monotonic()
                lost = self._one_process()
                if lost is None:
                    return
                if self._has_had_frames:
                    has_worked = True
                    backoff_s = self._deadlines.first_retry_s
                    self._down_since_s = monotonic()
                delay_s = backoff_s
                if has_worked and not self._has_had_frames:
                    # Cameras are off for seconds, while the wait would have doubled to half a minute.
                    left_s = started_s + self._deadlines.worked_retry_s - monotonic()
                    delay_s = round(min(backoff_s, max(0.0, left_s)), 1)
                give_up_s = self._deadlines.give_up_s
                gives_up = give_up_s is not None and monotonic() + delay_s - self._down_since_s > give_up_s
                self._set("offline", lost.reason, retry_in_s=None if gives_up else delay_s)
                if gives_up:
                    raise SourceError(f"{lost.reason}: given up after {give_up_s:g} s")
                if self._stopping.wait(delay_s):
                    return
                backoff_s = min(2 * backoff_s, self._deadlines.last_retry_s)
        except BaseException as error:
            self._finish(error)

    def _one_process(self) -> _Lost | None:
        """Run one process until it is lost; None when no other one is wanted."""
        self._has_had_frames = False
        try:
            process = CaptureProcess(replace_field(self.spec, patience_s=self._deadlines.read_s))
        except SourceError as error:
            return _Lost(str(error))
        with self._changed:
            self._process = process
            self._status = replace(self._status, starts=self._status.starts + 1, retry_in_s=None)
            if self._is_wanted:
                process.ask()
        lost: _Lost | None = None
        try:
            lost = self._watch(process)
        finally:
            with self._changed:
                self._process = None
                self._past_frames += process.frames
                self._past_damaged += process.damaged
            self._has_had_frames = process.frames > 0
            if not process.close(*((0.0,) if lost is not None and lost.hangs else ())):
                _log.error("%s: its process hangs in the kernel and cannot be killed", self.spec.shown)
        return lost

    def _watch(self, process: CaptureProcess) -> _Lost | None:
        poll = select.poll()
        poll.register(process.connection, select.POLLIN)
        clock = _Clock(monotonic())
        while not self._stopping.is_set():
            if poll.poll(_TICK_S * 1e3):
                message = process.receive()
                if message is None:
                    return _Lost(f"{self.spec.shown}: {process.last_words()}")
                if isinstance(message, Started):
                    clock.started_s = monotonic()
                elif isinstance(message, Opened):
                    clock.opened_s, self._fps = monotonic(), message.fps
                elif isinstance(message, Failed):
                    error = _as_error(message)
                    if not isinstance(error, SourceError):
                        raise error
                    return _Lost(message.text)
                elif isinstance(message, Ended):
                    self._finish(None)
                    return None
                else:
                    self._take(process, message)
            lost = self._overdue(process, clock)
            if lost is not None:
                return lost
        return None

    def _take(self, process: CaptureProcess, message: FromProcess) -> None:
        if isinstance(message, Noted):
            _log.log(message.level, "%s", message.text)
        elif isinstance(message, Taken):
            self._set("online", "")
            shot = process.shot(message, self._past_frames, self.status)
            with self._changed:
                dropped = self._status.dropped + shot.number - self._last_number - 1
                self._status = replace(self._status, dropped=dropped)
                self._last_number = shot.number
                self._shot = replace(shot, status=replace(shot.status, dropped=dropped))
                self._is_wanted = False
                self._changed.notify_all()

    def _overdue(self, process: CaptureProcess, clock: _Clock) -> _Lost | None:
        """Set the state by how long nothing came; what is lost when that was too long."""
        now_s, limits, shown = monotonic(), self._deadlines, self.spec.shown
        if not clock.started_s:
            if clock.hangs(process, clock.launched_s, limits.start_s):
                return _Lost(f"{shown}: its process does not start within {limits.start_s:g} s", hangs=True)
            return None
        if not clock.opened_s:
            if clock.hangs(process, clock.started_s, limits.open_s):
                return _Lost(f"{shown}: does not open within {limits.open_s:g} s", hangs=True)
            return None
        if self.spec.every_frame and not self._is_wanted:
            # It waits for us, not we for it.
            return None
        least_s = _PERIODS / self._fps if self._fps else 0.0
        heard_s = max(process.last_heard_s, clock.opened_s)
        unheard_s = now_s - heard_s
        if clock.hangs(process, heard_s, max(limits.read_s, least_s)):
            return _Lost(f"{shown}: no frame for {unheard_s:.1f} s", hangs=True)
        if now_s - max(process.last_frame_s, clock.opened_s) > max(limits.stall_s, least_s):
            damaged = unheard_s < limits.stall_s
            self._set("stalled", f"{shown}: {'only damaged frames' if damaged else 'no frame'} for a moment")
        elif process.frames:
            self._set("online", "")
        return None

    def _set(self, state: State, reason: str, retry_in_s: float | None = None) -> None:
        with self._changed:
            before = self._status
            since_unix_s = before.since_unix_s if state == before.state else time.time()
            self._status = replace(
                before, state=state, reason=reason, retry_in_s=retry_in_s, since_unix_s=since_unix_s
            )
            is_new = (state, reason) != (before.state, before.reason)
            if is_new or retry_in_s is not None:
                self._changes.append(self.status)
        if not is_new:
            return
        if state == "online":
            _log.info("%s: online", self.spec.shown)
        elif state == "stalled":
            _log.warning("stalled: %s", reason)
        elif retry_in_s is not None:    # what ends the run is an error's text, and no try comes next
            _log.warning("offline: %s; next try in %g s", reason, retry_in_s)

    def _finish(self, error: BaseException | None) -> None:
        with self._changed:
            self._is_over = True
            self._error = error
            self._changed.notify_all()


def _as_error(failed: Failed) -> EdgefaceError:
    """The error that was raised in the process, as far as it is one of ours."""
    kind = getattr(errors, failed.error, SourceError)
    return kind(failed.text) if issubclass(kind, EdgefaceError) else SourceError(failed.text)
