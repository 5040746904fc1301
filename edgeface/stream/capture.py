"""The capture process: opens one source, keeps its newest frame in shared memory, and hands it out when asked.

A process of its own, since a driver may block for ever inside a call, and only a process can be killed. It is started
by ``process.py`` with a socket and the memory of the slots, and ends when the other side of the socket is gone.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from edgeface.children import end_with_parent
from edgeface.errors import EdgefaceError, SourceError
from edgeface.stream.sources import Grab, Opener, Source, source
from edgeface.stream.sources.orientation import oriented
from edgeface.stream.sources.pictures import Damage
from edgeface.stream.wire import (
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    Counter,
    Ended,
    Failed,
    FromProcess,
    Next,
    Noted,
    Open,
    Opened,
    Slot,
    Started,
    Taken,
    ToProcess,
    as_text,
    decode,
    encode,
)

# A source that does not come back from its last call is left to the system.
CLOSE_S = 0.5
_STDERR = 2
_MOST_STDERR_BYTES = 1 << 20


class _Supervisor:
    """The other side of the socket; both threads send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: FromProcess) -> None:
        # When it is gone, the thread that receives sees that too, and ends the process.
        with suppress(OSError):
            self._connection.send(encode(message))

    def receive(self) -> ToProcess | None:
        """The next message, None when there will be none."""
        try:
            packet = self._connection.recv(MAX_MESSAGE_BYTES)
        except OSError:
            return None
        message: ToProcess | None = decode(packet, ToProcess) if packet else None
        return message


class _Notes(logging.Handler):
    """The log lines of this process go to the supervisor's log."""

    def __init__(self, supervisor: _Supervisor) -> None:
        super().__init__(logging.INFO)
        self._supervisor = supervisor

    def emit(self, record: logging.LogRecord) -> None:
        self._supervisor.send(Noted(record.levelno, as_text(record.getMessage())[:2000]))


class _Newest:
    """The slots: frames go in as they come, the newest goes out when it is asked for."""

    def __init__(self, supervisor: _Supervisor, slots: Sequence[Slot], counter: Counter, *, every_frame: bool) -> None:
        self._supervisor = supervisor
        self._slots = slots
        self._counter = counter
        self._every_frame = every_frame
        self._changed = threading.Condition()
        self._ready: Taken | None = None
        self._out: int | None = None
        self._is_wanted = False
        self._is_stopped = False

    def stop(self) -> None:
        """Nothing waits any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def put(self, grab: Grab) -> None:
        """Keep a frame; where every frame counts, wait until the one before is out. Raises SourceError."""
        pixels = grab.frame.pixels
        if pixels.nbytes > MAX_FRAME_BYTES:
            raise SourceError(f"a frame of {grab.frame.width} x {grab.frame.height} pixels is too large")
        with self._changed:
            while self._every_frame and self._ready is not None and not self._is_stopped:
                self._changed.wait()
            taken_slots = {self._out, None if self._ready is None else self._ready.slot}
        slot = next(i for i in range(len(self._slots)) if i not in taken_slots)
        self._slots[slot].write(pixels)
        now_ns = time.monotonic_ns()
        taken = Taken(
            slot, pixels.shape, grab.frame.format, self._counter.frames, grab.taken_monotonic_ns,
            time.time_ns() - (now_ns - grab.taken_monotonic_ns),
        )
        self._counter.count(now_ns)
        with self._changed:
            self._ready = taken
            self._hand_out()

    def want(self) -> None:
        """The frame that is out is copied; the next may go out."""
        with self._changed:
            self._out = None
            self._is_wanted = True
            self._hand_out()

    def drain(self) -> None:
        """Wait until the last frame is out, since what is said next ends it all."""
        with self._changed:
            while self._ready is not None and not self._is_stopped:
                self._changed.wait()

    def _hand_out(self) -> None:
        if self._is_wanted and self._ready is not None:
            self._supervisor.send(self._ready)
            self._out, self._ready, self._is_wanted = self._ready.slot, None, False
            self._changed.notify_all()


def run(connection: socket.socket, counter: Counter, slots: Sequence[Slot]) -> None:
    """Serve until the source ends or fails or the supervisor is gone."""
    supervisor = _Supervisor(connection)
    log = logging.getLogger("edgeface")
    log.addHandler(_Notes(supervisor))
    log.setLevel(logging.INFO)
    log.propagate = False
    first = supervisor.receive()
    if not isinstance(first, Open):
        return
    spec = msgspec.structs.replace(first.spec, address=os.fsdecode(first.address))
    newest = _Newest(supervisor, slots, counter, every_frame=spec.every_frame)
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(supervisor, newest, stopping), name="edgeface-listen", daemon=True).start()
    opened: Source | None = None
    try:
        # Found by name and not by the registry: it may be registered in a module of the user's own.
        module = importlib.import_module(first.module)
        opener: Opener = getattr(module, first.opener, None) or source.get(spec.kind)
        for library in getattr(module, "LIBRARIES", ()):
            with suppress(ImportError):     # the opener says what is missing
                importlib.import_module(library)
        supervisor.send(Started())
        opened = oriented(opener(spec), spec)
        supervisor.send(Opened(opened.fps))
        damage: Damage | None = getattr(opened, "damage", None)
        if damage is not None:
            damage.tell(lambda: counter.count_damaged(time.monotonic_ns()))
        while not stopping.is_set():
            grab = opened.read()
            if grab is None:
                newest.drain()
                supervisor.send(Ended())
                break
            newest.put(grab)
            _forget_old_notes()
    except EdgefaceError as error:
        supervisor.send(Failed(type(error).__name__, as_text(str(error))))
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        supervisor.send(Failed(SourceError.__name__, as_text(f"{spec.shown}: {type(error).__name__}: {line}")))
    finally:
        if opened is not None:
            opened.close()


def _listen(supervisor: _Supervisor, newest: _Newest, stopping: threading.Event) -> None:
    while isinstance(supervisor.receive(), Next):
        newest.want()
    stopping.set()
    newest.stop()
    time.sleep(CLOSE_S)
    os._exit(0)


def _forget_old_notes() -> None:
    """Standard error is a file in memory here (process.py), and a decoder may write a line a frame."""
    if os.fstat(_STDERR).st_size > _MOST_STDERR_BYTES:
        os.ftruncate(_STDERR, 0)
        os.lseek(_STDERR, 0, os.SEEK_SET)


def main(descriptors: Sequence[int]) -> None:
    """Run on the inherited descriptors: the socket, the counter's memory, the slots' memory."""
    end_with_parent()
    # Ctrl-C reaches every process of a terminal; this one ends when its supervisor says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection, counter, *slots = descriptors
    with socket.socket(fileno=connection) as supervisor:
        run(supervisor, Counter(counter), [Slot(descriptor) for descriptor in slots])
    # Threads of drivers and decoders may hold up an orderly end.
    sys.stderr.flush()
    os._exit(0)
