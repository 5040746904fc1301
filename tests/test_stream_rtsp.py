"""Streams by RTSP from a server that others wrote: over TCP and UDP, with losses, behind a password, restarted."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from edgeface.stream.shots import Shot
from edgeface.stream.sources import make_spec
from edgeface.stream.sources.network import _FFMPEG_OPTIONS, _OPTIONS_VARIABLE
from edgeface.stream.supervision import Deadlines, Supervisor

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("gst_rtsp_server.py")
LONG_S = 60.0
_ELEMENTS = "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0'); " \
    "from gi.repository import Gst; Gst.init(None); " \
    "assert all(map(Gst.ElementFactory.find, ('videotestsrc', 'jpegenc', 'rtpjpegpay')))"


@lru_cache(maxsize=1)
def is_installed() -> bool:
    try:
        return subprocess.run([SYSTEM_PYTHON, "-c", _ELEMENTS], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _needs_the_server() -> None:
    if not is_installed():
        pytest.skip(
            "no RTSP server: sudo apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base "
            "gstreamer1.0-plugins-good"
        )


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found: int = server.getsockname()[1]
    return found


@contextmanager
def serving(port: int, *password: str, loss: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    command = [SYSTEM_PYTHON, str(SERVER), str(port), str(loss), *password]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield server
        finally:
            server.kill()


def address(port: int, user: str = "") -> str:
    return f"rtsp://{user}127.0.0.1:{port}/live"


def newest(supervisor: Supervisor) -> Shot:
    shot = supervisor.newest(LONG_S)
    assert shot is not None, list(supervisor.changes())
    return shot


def is_blue(shot: Shot) -> bool:
    pixels = np.asarray(shot.frame.pixels)
    assert pixels.shape == (240, 320, 3)
    blue, green, red = pixels.reshape(-1, 3).mean(axis=0)
    return bool(blue > 200 > 60 > max(green, red))


def test_a_stream_over_tcp_behind_a_password_comes_back_after_its_server(port: int) -> None:
    often = Deadlines(first_retry_s=0.1, worked_retry_s=0.3)
    with Supervisor(make_spec(address(port, "me:secret@")), often) as supervisor:
        for _ in range(2):
            with serving(port, "me", "secret"):
                assert is_blue(newest(supervisor))
            while supervisor.newest(0.2) is not None:
                pass
        reasons = [change.reason for change in supervisor.changes() if change.retry_in_s is not None]
    assert reasons
    assert not any("secret" in reason for reason in reasons)


def test_a_wrong_password_is_named_and_not_shown(port: int) -> None:
    with serving(port, "me", "secret"), Supervisor(make_spec(address(port, "me:other@"))) as supervisor:
        reasons: list[str] = []
        while not reasons:
            assert supervisor.newest(0.1) is None
            reasons = [change.reason for change in supervisor.changes() if change.retry_in_s is not None]
    assert "the name or password is wrong: check both in the address" in reasons[0]
    assert "other" not in reasons[0]


def test_a_stream_over_udp_goes_on_when_packets_are_lost(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_OPTIONS_VARIABLE, _FFMPEG_OPTIONS.replace("tcp", "udp"))
    with serving(port, loss=0.05), Supervisor(make_spec(address(port))) as supervisor:
        shots = [newest(supervisor) for _ in range(8)]
        assert not [change for change in supervisor.changes() if change.retry_in_s is not None]
    # FFmpeg drops a picture with a piece missing.
    assert all(map(is_blue, shots))
