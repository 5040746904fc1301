"""Word to systemd: ready, alive after every processed frame, stopping (sd_notify(3)); nothing without systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic

from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status

# systemd asks to hear at least twice a period.
_WORDS_A_PERIOD = 4


class SystemdSink:
    """Sends READY=1 when it is made, WATCHDOG=1 after results and never otherwise, the source's state as STATUS.

    ``environment`` is the process's own: NOTIFY_SOCKET and WATCHDOG_USEC as systemd sets them.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = environment.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        period_us = environment.get("WATCHDOG_USEC", "")
        self._every_s = int(period_us) / 1e6 / _WORDS_A_PERIOD if period_us.isdigit() else None
        self._next_s = float("-inf")
        self._send("READY=1")

    def put(self, shot: Shot, result: Result) -> None:
        now_s = monotonic()
        if self._every_s is not None and now_s >= self._next_s:
            self._next_s = now_s + self._every_s
            self._send("WATCHDOG=1")

    def status(self, status: Status) -> None:
        reason = f": {status.reason}" if status.reason else ""
        self._send(f"STATUS={status.state}{reason}".replace("\n", " "))

    def close(self) -> None:
        self._send("STOPPING=1")

    def _send(self, word: str) -> None:
        if not self._address:
            return
        # A manager that does not listen is no reason to stop finding faces.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.settimeout(0.1)
            line.sendto(word.encode(), self._address)
