"""One capture process as its supervisor holds it: started, asked, killed, and nothing of it left."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from edgeface.addresses import redacted_text
from edgeface.children import PYTHON_VARIABLE, python_command
from edgeface.errors import SourceError
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sources import SourceSpec, source
from edgeface.stream.wire import (
    SLOTS,
    Counter,
    Failed,
    FromProcess,
    Next,
    Noted,
    Open,
    Slot,
    Taken,
    decode,
    encode,
    received,
)

CLOSE_S = 0.7
_KILL_S = 1.0
# Where standard streams are closed, their numbers are free for anything; a child has other things there.
_FIRST_OWN = 3
# Not -m: that would look for modules in the current folder first.
_START = "import sys; sys.path[:] = sys.argv[2:]; from edgeface.stream.capture import main; " \
    "main([int(n) for n in sys.argv[1].split(',')])"


class CaptureProcess:
    """A running capture process. Used by one thread, except for ``ask``. Close it, whatever happens."""

    def __init__(self, spec: SourceSpec) -> None:
        """Start it; raises SourceError when the system starts no process."""
        opener = source.get(spec.kind)
        self._spec = spec
        self._descriptors: list[int] = []
        self._slots: list[Slot] = []
        self._counter: Counter | None = None
        self.connection, theirs = map(_above, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        try:
            self._notes = self._memory("notes", 0)
            counter = self._memory("counter", Counter.NBYTES)
            slots = [self._memory("slot", 0) for _ in range(SLOTS)]
            self._counter = Counter(counter)
            self._slots = [Slot(descriptor) for descriptor in slots]
            given = (theirs.fileno(), counter, *slots)
            self._process = subprocess.Popen(
                [*(python_command() or [sys.executable]), "-c", _START, ",".join(map(str, given)), *sys.path],
                stdin=subprocess.DEVNULL, stdout=self._notes, stderr=self._notes, pass_fds=given,
                # Out of reach of the terminal's Ctrl-C, which is for the supervisor alone.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._release()
            reason = getattr(error, "strerror", None) or error
            raise SourceError(
                f"{spec.shown}: the capture process cannot be started: {reason}: "
                f"set {PYTHON_VARIABLE} to the command that runs this Python"
            ) from None
        finally:
            theirs.close()
        self.connection.setblocking(False)
        with suppress(OSError):
            asked = Open(
                opener.__module__, getattr(opener, "__qualname__", ""), msgspec.structs.replace(spec, address=""),
                os.fsencode(spec.address),
            )
            self.connection.send(encode(asked))

    @property
    def frames(self) -> int:
        """Frames that it took so far."""
        return 0 if self._counter is None else self._counter.frames

    @property
    def last_frame_s(self) -> float:
        """CLOCK_MONOTONIC when it took the last one, 0 before the first."""
        return 0.0 if self._counter is None else self._counter.last_ns / 1e9

    @property
    def damaged(self) -> int:
        """Frames that it left out so far, since they were damaged."""
        return 0 if self._counter is None else self._counter.damaged

    @property
    def last_heard_s(self) -> float:
        """CLOCK_MONOTONIC when its last frame came, whole or damaged; 0 before the first."""
        return 0.0 if self._counter is None else self._counter.last_heard_ns / 1e9

    @property
    def starved_s(self) -> float:
        """How long its first thread has waited for a processor so far, in seconds; 0 where the kernel does not say."""
        try:
            return int(Path(f"/proc/{self._process.pid}/schedstat").read_bytes().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def ask(self) -> None:
        """Ask for the newest frame; the answer is a Taken. Nothing happens when the process is gone."""
        with suppress(OSError):
            self.connection.send(encode(Next()))

    def receive(self) -> FromProcess | None:
        """A message that is there, its text without the secrets of the source's address; None when the process is gone.

        Raises SourceError for what is no message.
        """
        packet = received(self.connection)
        if not packet:
            return None
        try:
            message: FromProcess = decode(packet, FromProcess)
        except msgspec.MsgspecError as error:
            raise SourceError(f"{self._spec.shown}: the capture process sent what is no message: {error}") from None
        if isinstance(message, Failed | Noted):
            return msgspec.structs.replace(message, text=redacted_text(message.text, self._spec.address, parts=False))
        return message

    def shot(self, taken: Taken, first_number: int, status: Status) -> Shot:
        """The frame of a message, copied, numbered from ``first_number`` on."""
        return Shot(
            self._spec.shown, self._slots[taken.slot].read(taken), first_number + taken.number,
            taken.taken_monotonic_ns, taken.taken_unix_ns, status,
        )

    def last_words(self) -> str:
        """The last line that it wrote, and how it ended: for a process that died without a message."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        size = os.fstat(self._notes).st_size
        said = os.pread(self._notes, 4096, max(0, size - 4096)).decode("utf-8", "replace").strip()
        code = self._process.returncode
        how = "still runs" if code is None else f"ended with {code}" if code >= 0 else f"was killed by signal {-code}"
        last = f": {said.splitlines()[-1]}" if said else ""
        return redacted_text(f"the capture process {how}{last}", self._spec.address)

    def close(self, wait_s: float = CLOSE_S) -> bool:
        """End it, by force after ``wait_s``, and free all that it held; False when even the system cannot kill it."""
        self.connection.close()
        gone = True
        try:
            self._process.wait(wait_s) if wait_s else self._process.kill()
        except subprocess.TimeoutExpired:
            self._process.kill()
        try:
            self._process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            gone = False
        self._release()
        return gone

    def _memory(self, name: str, size_bytes: int) -> int:
        descriptor = os.memfd_create(f"edgeface-{name}")
        if descriptor < _FIRST_OWN:
            lower = descriptor
            descriptor = fcntl.fcntl(lower, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN)
            os.close(lower)
        self._descriptors.append(descriptor)
        os.ftruncate(descriptor, size_bytes)
        return descriptor

    def _release(self) -> None:
        self.connection.close()
        if self._counter is not None:
            self._counter.close()
            self._counter = None
        for slot in self._slots:
            slot.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _above(connection: socket.socket) -> socket.socket:
    """The same connection under a number that is no standard stream's."""
    if connection.fileno() >= _FIRST_OWN:
        return connection
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN))
