"""What systemd hears, on a socket like its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeface.stream.systemd import SystemdSink
from preview_shots import result, shot, status

PICTURE = np.zeros((24, 32, 3), np.uint8)


class Manager:
    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        words = []
        while True:
            try:
                words.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return words


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[Manager, dict[str, str]]]:
    address = str(tmp_path / "notify")
    made = Manager(address)
    yield made, {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
    made.socket.close()


def test_alive_is_said_after_results_and_never_otherwise(manager: tuple[Manager, dict[str, str]]) -> None:
    listening, environment = manager
    sink = SystemdSink(environment)
    assert listening.heard() == ["READY=1"]
    sink.status(status())
    sink.status(status("stalled", "no frame for 1 s"))
    assert listening.heard() == ["STATUS=online", "STATUS=stalled: no frame for 1 s"]
    sink.put(shot(PICTURE, 0), result([]))
    sink.put(shot(PICTURE, 1), result([]))      # at once: not said again
    assert listening.heard() == ["WATCHDOG=1"]
    sink.close()
    assert listening.heard() == ["STOPPING=1"]


def test_an_abstract_socket_is_understood() -> None:
    listening = Manager("\0edgeface-test-notify")
    SystemdSink({"NOTIFY_SOCKET": "@edgeface-test-notify"})
    assert listening.heard() == ["READY=1"]
    listening.socket.close()


def test_without_a_watchdog_it_is_not_said(manager: tuple[Manager, dict[str, str]]) -> None:
    listening, environment = manager
    sink = SystemdSink({"NOTIFY_SOCKET": environment["NOTIFY_SOCKET"]})
    sink.put(shot(PICTURE, 0), result([]))
    assert listening.heard() == ["READY=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_nobody_to_tell_is_no_error(environment: dict[str, str]) -> None:
    sink = SystemdSink(environment)
    sink.put(shot(PICTURE, 0), result([]))
    sink.close()
