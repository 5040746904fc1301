"""Streams over a network: what they show, why they cannot be opened, and that they come back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.errors import OptionError, SourceError
from edgeface.stream.sources import make_spec, network
from edgeface.stream.sources.network import reason
from edgeface.stream.supervision import Deadlines, Supervisor
from mjpeg_server import PASSWORD, serving

LONG_S = 60.0


@pytest.fixture
def jpeg(tmp_path: Path, astronaut: NDArray[np.uint8]) -> Path:
    path = tmp_path / "picture.jpg"
    cv2.imwrite(str(path), cv2.resize(astronaut, (320, 240)), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return path


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would ask a proxy for this machine's own address."""
    monkeypatch.delenv("http_proxy", raising=False)


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture
def rtsp_that_refuses() -> Iterator[int]:
    """A server that answers as cameras do: 401 to whoever describes a stream."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                while request := lines.readline():
                    number = b"0"
                    while line := lines.readline().strip():
                        number = line.split(b":")[1].strip() if line.lower().startswith(b"cseq") else number
                    answer = b"200 OK\r\nPublic: DESCRIBE" if request.startswith(b"OPTIONS") else (
                        b'401 Unauthorized\r\nWWW-Authenticate: Basic realm="camera"'
                    )
                    connection.sendall(b"RTSP/1.0 " + answer + b"\r\nCSeq: " + number + b"\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def why_not(address: str) -> str:
    """The first reason that a source is offline for."""
    with Supervisor(make_spec(address)) as supervisor:
        assert supervisor.newest(0.1) is None
        reasons: list[str] = []
        while not reasons:
            assert supervisor.newest(LONG_S / 600) is None
            reasons = [s.reason for s in supervisor.changes() if s.retry_in_s is not None]
    return reasons[0]


def test_mjpeg_over_http_shows_its_pictures(jpeg: Path) -> None:
    with serving(jpeg) as (_, port), Supervisor(make_spec(f"http://127.0.0.1:{port}/x.mjpeg")) as supervisor:
        shot = supervisor.newest(LONG_S)
    assert shot is not None
    sent = cv2.imread(str(jpeg))
    assert sent is not None
    assert np.abs(shot.image.astype(int) - sent).mean() < 2


def test_a_wrong_password_is_named_and_not_shown(jpeg: Path) -> None:
    with serving(jpeg) as (_, port):
        assert why_not(f"http://me:wrong@127.0.0.1:{port}/private.mjpeg") == (
            f"http://127.0.0.1:{port}/private.mjpeg: the name or password is wrong: check both in the address"
        )
        right = make_spec(f"http://me:{PASSWORD}@127.0.0.1:{port}/private.mjpeg")
        with Supervisor(right) as supervisor:
            shot = supervisor.newest(LONG_S)
    assert shot is not None
    assert PASSWORD not in shot.source


def test_a_camera_that_refuses_by_rtsp_says_why(rtsp_that_refuses: int) -> None:
    assert "the name or password is wrong" in why_not(f"rtsp://me:wrong@127.0.0.1:{rtsp_that_refuses}/1")


def test_a_wrong_path_and_a_closed_port_are_told_apart(jpeg: Path, closed_port: int) -> None:
    with serving(jpeg) as (_, port):
        assert "no such stream" in why_not(f"http://127.0.0.1:{port}/nothing")
    assert "nothing listens there" in why_not(f"http://127.0.0.1:{closed_port}/x.mjpeg")
    assert "nothing listens there" in why_not(f"rtsp://127.0.0.1:{closed_port}/x")


def test_a_server_that_is_killed_and_started_again_comes_back(jpeg: Path, closed_port: int) -> None:
    address = f"http://127.0.0.1:{closed_port}/x.mjpeg"
    with Supervisor(make_spec(address), Deadlines(first_retry_s=0.2, last_retry_s=1.0)) as supervisor:
        numbers = []
        for _ in range(3):
            with serving(jpeg, closed_port):
                shot = None
                while shot is None:
                    shot = supervisor.newest(LONG_S)
                numbers.append(shot.number)
            while supervisor.status.state != "offline":
                supervisor.newest(0.05)
        states = [status.state for status in supervisor.changes()]
    assert numbers == sorted(set(numbers))
    assert states.count("online") == 3


def test_a_server_that_sends_no_more_is_left_and_asked_again(jpeg: Path) -> None:
    with (
        serving(jpeg, frozen_after=3) as (_, port),
        Supervisor(make_spec(f"http://127.0.0.1:{port}/x.mjpeg")) as supervisor,
    ):
        while supervisor.status.starts < 2:
            supervisor.newest(0.1)
        assert supervisor.newest(LONG_S) is not None
        states = [status.state for status in supervisor.changes()]
    assert states[:4] == ["offline", "online", "stalled", "offline"]


def test_a_stream_of_h264_that_changes_its_size_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What FFmpeg says of it, as it is written beside other lines."""
    said = bytearray(b"[OPENCV:FFMPEG:40] Reinit context to 640x368, pix_fmt: yuv420p\n" * 2)

    class Capture:
        def get(self, _property: int) -> float:
            return 25.0

        def read(self) -> tuple[bool, NDArray[np.uint8]]:
            return True, np.zeros((360, 640, 3), np.uint8)

    monkeypatch.setattr(network, "_stderr_length", lambda: len(said))
    monkeypatch.setattr(network, "_stderr_since", lambda start: bytes(said[start:]))
    stream = network.Stream("camera", Capture(), 0)  # type: ignore[arg-type]  # as much of it as is used
    for line in (b"", b"[OPENCV:FFMPEG:24] max delay reached\n", b"Reinit context to 640x368, pix_fmt: yuv420p\n"):
        said += line
        assert stream.read() is not None
    said += b"[OPENCV:FFMPEG:40] Reinit context to 368x640, pix_fmt: yuv420p\n"
    with pytest.raises(SourceError, match="camera: its pictures have another size now: it is opened anew"):
        stream.read()


def test_a_stream_of_h265_whose_decoder_is_set_up_anew_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg says that of every codec, and of no other than H.264 which size it has."""
    said = bytearray()

    class Capture:
        def get(self, _property: int) -> float:
            return 25.0

        def read(self) -> tuple[bool, NDArray[np.uint8]]:
            return True, np.zeros((360, 640, 3), np.uint8)

    monkeypatch.setattr(network, "_stderr_length", lambda: len(said))
    monkeypatch.setattr(network, "_stderr_since", lambda start: bytes(said[start:]))
    stream = network.Stream("camera", Capture(), 0)  # type: ignore[arg-type]  # as much of it as is used
    said += b"[OPENCV:FFMPEG:48] Format yuv420p chosen by get_format().\n" * 2
    assert stream.read() is not None
    said += b"[OPENCV:FFMPEG:48] Decoded frame with POC 0/1.\n"
    assert stream.read() is not None
    said += b"[OPENCV:FFMPEG:48] Format yuv420p chosen by get_format().\n"
    with pytest.raises(SourceError, match="camera: its pictures are coded in another way now: it is opened anew"):
        stream.read()


def test_an_unknown_refusal_still_says_what_to_do() -> None:
    assert reason(b"something new") == "the stream cannot be opened: check the address, and that the camera is on"


def test_a_stream_has_its_own_size(jpeg: Path) -> None:
    with (
        serving(jpeg) as (_, port),
        Supervisor(make_spec(f"http://127.0.0.1:{port}/x.mjpeg", width_px=100)) as supervisor,
        pytest.raises(OptionError, match="takes no width: leave that out"),
    ):
        supervisor.newest(LONG_S)
