"""The page's server under attack: whoever has no token takes nothing from those who have one."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.stream.preview import accepting, access, connections
from edgeface.stream.preview.server import Server
from preview_shots import result, shot
from test_preview import DEADLINE_S, TOKEN, get, live, serving, taken

GET = b"GET /?token=%s HTTP/1.1\r\nHost: localhost\r\n" % TOKEN.encode()


@pytest.fixture(autouse=True)
def refusals_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "REFUSAL_S", 0.0)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def connected(stack: ExitStack, server: Server, said: bytes = b"") -> socket.socket:
    line = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE_S))
    with suppress(OSError):
        line.sendall(said)
    return line


def answer(line: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    got = b""
    with suppress(OSError):
        while some := line.recv(65536):
            got += some
    return got


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_connections_without_a_token_deny_nobody_the_page(
    said: bytes, stack: ExitStack, picture: NDArray[np.uint8]
) -> None:
    with serving(TOKEN) as (board, server, _):
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        viewer = stack.enter_context(live(server, **bearer))
        for _ in range(300):
            connected(stack, server, said)
        assert get(server, "/", **bearer)[0] == 200
        assert get(server, "/faces.json", **bearer)[0] == 200
        board.put(shot(picture, 3), result([]))
        viewer.send('{"more": 1}')      # nor was the viewer there before let go
        assert taken(viewer.recv(DEADLINE_S))[0]["frame"]["frame"] == 3
        with live(server, **bearer) as second:
            second.send('{"more": 1}')
            assert taken(second.recv(DEADLINE_S))[0]["frame"]["frame"] == 3


def test_a_request_is_answered_among_connections_without_end(stack: ExitStack) -> None:
    """A viewer's connection is a stranger's until its request is there, which may take a moment."""
    with serving(TOKEN) as (_, server, _):
        viewer = connected(stack, server)
        for _ in range(200):
            connected(stack, server)
        viewer.sendall(GET + b"Connection: close\r\n\r\n")
        assert answer(viewer).startswith(b"HTTP/1.1 303")


def test_connections_are_taken_at_a_pace(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    monkeypatch.setattr(accepting, "ACCEPTED_BURST", 5)
    monkeypatch.setattr(accepting, "ACCEPTED_A_S", 20)
    with serving() as (_, server, _):
        started_s = time.monotonic()
        lines = [connected(stack, server, GET + b"Connection: close\r\n\r\n") for _ in range(11)]
        assert [answer(line)[:12] for line in lines] == [b"HTTP/1.1 200"] * 11
        assert time.monotonic() - started_s >= 0.25


def test_of_one_address_only_so_many_wait(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    monkeypatch.setattr(connections, "MOST_WAITING_AN_ADDRESS", 20)
    with serving(TOKEN) as (_, server, _):
        lines = [connected(stack, server) for _ in range(30)]
        for line in lines[:10]:
            assert answer(line) == b""      # the oldest ones made room
        lines[-1].sendall(GET + b"Connection: close\r\n\r\n")
        assert answer(lines[-1]).startswith(b"HTTP/1.1 303")


def test_who_asks_for_nothing_that_is_let_in_is_let_go(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 0.2)
    with serving(TOKEN) as (_, server, _):
        for said in (b"", b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            started_s = time.monotonic()
            answer(connected(stack, server, said))
            assert time.monotonic() - started_s < DEADLINE_S / 2


@pytest.mark.parametrize("start", [
    b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET / HTTP/1.1\r\nHost: localhost\r\n",
    GET + b"Upgrade: websocket\r\nConnection: upgrade\r\nX: ",
    GET.replace(b"GET", b"POST") + b"Content-Length: 99999999\r\n\r\n",
    GET.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n5f5e0ff\r\n", GET + b"\r\n",
])
def test_megabytes_that_nobody_asked_for_are_not_read(start: bytes, stack: ExitStack) -> None:
    with serving(TOKEN) as (_, server, _):
        before_kb = memory_kb()

        def pour() -> None:
            line = connected(stack, server, start)
            with suppress(OSError):
                for n in range(160):
                    line.sendall(b"X-%d: %b\r\n" % (n, b"a" * 65536))

        threads = [threading.Thread(target=pour) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()        # it was let go of, not read to the end
        assert memory_kb() - before_kb < 60_000
        assert get(server, "/", Authorization=f"Bearer {TOKEN}")[0] == 200


def memory_kb() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0])


@pytest.mark.parametrize("said", [
    GET.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\nbad\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [\r\nOrigin: http://[\r\nX-Forwarded-Prefix: //evil\r\n\r\n",
    GET.replace(b"GET", b"POST") + b"Content-Length: -5\r\n\r\n",
    GET + b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
])
def test_what_is_no_http_leaves_no_traceback(
    said: bytes, stack: ExitStack, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO), serving(TOKEN) as (_, server, _):
        for pause_s in (0.0, 0.2):      # at once, and with the rest after the answer
            line = connected(stack, server, said[:-8])
            time.sleep(pause_s)
            with suppress(OSError):
                line.sendall(said[-8:])
            line.settimeout(0.5)
            with suppress(OSError):
                while line.recv(4096):
                    pass
        assert get(server, "/", Authorization=f"Bearer {TOKEN}")[0] == 200
    text = caplog.text + capfd.readouterr().err
    assert "Traceback" not in text
    assert len(text) < 300


def test_an_error_of_our_own_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serving() as (board, server, _):
        board.record = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]  # fails on purpose
        code, headers, _ = get(server, "/faces.json")
        assert code == 500
        assert headers["x-content-type-options"] == "nosniff"
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" not in caplog.text


def test_every_answer_is_for_nobody_else_and_what_it_says_it_is() -> None:
    with serving(TOKEN) as (_, server, _):
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        answers = [
            get(server, "/", **bearer), get(server, "/page.js", **bearer), get(server, "/faces.json", **bearer),
            get(server, "/nothing", **bearer), get(server, "/"), get(server, f"/?token={TOKEN}"),
            get(server, "/", Host="evil.example"),
        ]
        assert [code for code, _, _ in answers] == [200, 200, 200, 404, 401, 303, 403]
        for _, headers, _ in answers:
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "server" not in headers
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as line:
            line.sendall(b"nonsense\r\n\r\n")
            said = answer(line).lower()
        assert said.startswith(b"http/1.1 400")
        assert b"cache-control: no-store" in said
        assert b"x-content-type-options: nosniff" in said


def test_a_refused_websocket_has_the_headers_of_every_answer_and_no_line_in_the_log(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    head = (
        b"GET /live HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with serving(token=TOKEN) as (_, server, _):
        for host, code in ((b"evil.example", b"403"), (b"127.0.0.1", b"401")):
            said = answer(connected(stack, server, head % host)).lower()
            assert said.startswith(b"http/1.1 " + code)
            assert b"cache-control: no-store" in said
            assert b"x-content-type-options: nosniff" in said
    assert not caplog.records


def test_guessing_a_token_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "REFUSAL_S", 0.3)
    with serving(TOKEN) as (_, server, _):
        started_s = time.monotonic()
        assert get(server, "/?token=wrong")[0] == 401
        assert time.monotonic() - started_s >= 0.3


FLOOD = """
import sys
from websockets.sync.client import connect
text, ping = b'\\x81\\x8b\\0\\0\\0\\0{"more": 1}', b'\\x89\\x84\\0\\0\\0\\0abcd'
with connect(f"ws://127.0.0.1:{sys.argv[1]}/live") as viewer:
    print("ready", flush=True)
    while True:
        viewer.socket.sendall((text if sys.argv[2] == "text" else ping) * 500)
"""


@pytest.mark.parametrize("kind", ["text", "ping"])
def test_a_viewers_flood_is_read_at_the_pace_of_a_viewer(kind: str, picture: NDArray[np.uint8]) -> None:
    with serving() as (board, server, _), live(server) as quick:
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(server.port), kind], stdout=subprocess.PIPE)
        try:
            assert flood.stdout is not None
            flood.stdout.readline()
            time.sleep(1.0)     # the burst that everybody has
            before_s, started_s = web_cpu_s(), time.monotonic()
            for number in range(20):
                board.put(shot(picture, number), result([]))
                quick.send('{"more": 1}')
                header, _ = taken(quick.recv(DEADLINE_S))
                assert header["frame"]["frame"] == number
                time.sleep(0.1)
            share = (web_cpu_s() - before_s) / (time.monotonic() - started_s)
            assert flood.poll() is None         # it is not refused, but waits
        finally:
            flood.kill()
            flood.communicate()
        assert share < 0.2


def web_cpu_s() -> float:
    """Processor time of the page's thread so far."""
    thread = next(thread for thread in threading.enumerate() if thread.name == "edgeface-web")
    fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
