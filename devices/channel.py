"""A process with three pipes, each used with deadlines: bytes in, bytes out, and the last lines of its errors."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from .links.registry import Command

# As many as ssh says about a host key that changed.
_LAST_LINES = 24
_LINE_LIMIT = 300
_KILL_TIMEOUT_S = 10.0
_READ_BYTES = 1 << 20


class EndedError(Exception):
    """The process closed its side, or a write found nobody to read it."""


class LateError(Exception):
    """The deadline passed."""


class Channel:
    """Starts ``command`` in a process group of its own. Raises OSError when it cannot be started.

    ``deadline`` is always that of ``time.monotonic``.
    """

    def __init__(self, command: Command) -> None:
        self._process = subprocess.Popen(
            command.argv, env=command.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, bufsize=0, start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        for number in (self._in, self._out):
            os.set_blocking(number, False)
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        # A full pipe of errors would stop the process, so somebody has to read it all the time.
        self._drain = threading.Thread(target=self._drain_errors, name="edgeface-worker-errors", daemon=True)
        self._drain.start()

    def write(self, pieces: Sequence[memoryview], deadline: float) -> None:
        """All of them. Raises EndedError and LateError."""
        for piece in pieces:
            rest = piece
            while rest.nbytes:
                self._wait(self._in, selectors.EVENT_WRITE, deadline)
                try:
                    rest = rest[os.write(self._in, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise EndedError from None

    def read_exactly(self, count: int, deadline: float) -> bytearray:
        """Raises EndedError and LateError."""
        # Grows with what comes: a length alone must not make room for itself.
        content = bytearray()
        while len(content) < count:
            self._wait(self._out, selectors.EVENT_READ, deadline)
            try:
                got = os.read(self._out, min(_READ_BYTES, count - len(content)))
            except BlockingIOError:
                continue
            if not got:
                raise EndedError
            content += got
        return content

    def end(self, grace_s: float) -> int:
        """Close its input, wait ``grace_s`` for its end, kill it with all it started if need be; the exit code."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            code = process.wait(grace_s)
        except subprocess.TimeoutExpired:
            # What it started (a proxy of ssh) would go on holding the pipes.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait(_KILL_TIMEOUT_S)
        process.stdout.close()
        self._drain.join(_KILL_TIMEOUT_S)
        return code

    def last_lines(self) -> list[str]:
        """The last lines of its standard error that are not empty, oldest first."""
        return list(self._lines)

    def _wait(self, number: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(number, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise LateError

    def _drain_errors(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with stream:
            pending = b""
            while block := stream.read(_READ_BYTES):
                *lines, pending = (pending + block).split(b"\n")
                # A line without an end must not fill the memory.
                pending = pending[-_READ_BYTES:]
                self._keep(lines)
            self._keep([pending])

    def _keep(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = "".join(c if c.isprintable() else " " for c in line.decode(errors="replace")).strip()
            if text:
                self._lines.append(text[:_LINE_LIMIT])

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.end(0.0)
