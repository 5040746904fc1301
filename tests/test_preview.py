"""The page's server from outside: who gets in, what viewers get, and that a slow one holds up nobody."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from edgeface.errors import OptionError, OutputError
from edgeface.stream.controls import Controls
from edgeface.stream.preview import access, connections, page
from edgeface.stream.preview import broadcaster as broadcaster_module
from edgeface.stream.preview.access import choose_token, is_loopback
from edgeface.stream.preview.broadcaster import Broadcaster
from edgeface.stream.preview.page import Page
from edgeface.stream.preview.server import Server
from preview_shots import SOURCE, result, shot, status

TOKEN = "a-token-of-good-length"
BOX = (100.0, 50.0, 180.0, 150.0)
DEADLINE_S = 20.0


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def refusals_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "REFUSAL_S", 0.0)


@contextmanager
def serving(
    token: str | None = None, most_viewers: int = 4, allow_hosts: tuple[str, ...] = (), **options: Any
) -> Iterator[tuple[Broadcaster, Server, Controls]]:
    controls = Controls(0.5, 320)
    board = Broadcaster(SOURCE, controls, **options)
    routes = Page(board, controls, most_viewers=most_viewers).routes()
    server = Server(routes, bind="127.0.0.1", port=0, token=token, allow_hosts=allow_hosts, on_start=board.attach)
    try:
        yield board, server, controls
    finally:
        board.close()
        server.close()


def get(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    got = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return got


def live(server: Server, query: str = "", **headers: str) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/live{query}", open_timeout=DEADLINE_S, additional_headers=headers)


def taken(message: str | bytes) -> tuple[dict[str, Any], bytes]:
    assert isinstance(message, bytes)
    (length,) = struct.unpack("<I", message[:4])
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_viewer_gets_the_picture_and_what_was_found_in_it(picture: NDArray[np.uint8]) -> None:
    with serving() as (board, server, _), live(server) as viewer:
        viewer.send('{"more": 1}')
        board.status(status())
        board.put(shot(picture, 7), result([BOX]))
        header, jpeg = taken(viewer.recv(DEADLINE_S))
        while header["frame"] is None:
            viewer.send('{"more": 1}')
            header, jpeg = taken(viewer.recv(DEADLINE_S))
        assert header["frame"]["frame"] == 7
        assert header["frame"]["faces"][0]["box"] == list(BOX)
        assert header["frame"]["faces"][0]["track"] == 1
        assert header["axes"] == [[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]
        assert header["state"]["settings"] == {"score": 0.5, "size_px": 320}
        assert header["state"]["status"]["state"] == "online"
        decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == picture.shape
        status_code, _, body = get(server, "/faces.json")
        assert status_code == 200
        assert json.loads(body) == header["frame"]


def test_a_viewer_that_does_not_ask_holds_up_nobody_and_then_gets_the_newest(picture: NDArray[np.uint8]) -> None:
    with serving() as (board, server, _), live(server) as slow, live(server) as quick:
        until(lambda: board.viewers == 2)
        for number in range(20):
            board.put(shot(picture, number), result([]))
            quick.send('{"more": 1}')
            header, _ = taken(quick.recv(DEADLINE_S))
            assert header["frame"]["frame"] == number
        slow.send('{"more": 1}')
        header, _ = taken(slow.recv(DEADLINE_S))
        assert header["frame"]["frame"] == 19


def test_nothing_is_compressed_while_nobody_looks(picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *a: (calls.append(1), encode(*a))[1])
    with serving() as (board, server, _):
        for number in range(5):
            board.put(shot(picture, number), result([]))
            time.sleep(0.02)
        assert not calls
        assert json.loads(get(server, "/faces.json")[2])["frame"] == 4
        with live(server) as viewer:
            viewer.send('{"more": 1}')
            assert taken(viewer.recv(DEADLINE_S))[0]["frame"]["frame"] == 4
        assert calls


def test_settings_change_and_wrong_ones_are_answered(picture: NDArray[np.uint8]) -> None:
    with serving() as (_, server, controls), live(server) as viewer:
        viewer.send('{"score": 0.8, "size_px": 416}')
        until(lambda: controls.settings == (0.8, 416))
        viewer.send('{"size_px": 999999}')
        assert "size 999999 cannot work" in json.loads(viewer.recv(DEADLINE_S))["error"]
        assert controls.settings == (0.8, 416)


@pytest.mark.parametrize("nonsense", ["{", '{"rm": 1}', '{"score": "high"}', "[]"])
def test_nonsense_ends_the_connection_and_nothing_else(nonsense: str, picture: NDArray[np.uint8]) -> None:
    with serving() as (_, server, _), live(server) as viewer:
        viewer.send(nonsense)
        with pytest.raises(ConnectionClosed):
            viewer.recv(DEADLINE_S)
        assert get(server, "/")[0] == 200


def test_one_viewer_too_many_is_told_so() -> None:
    with serving(most_viewers=1) as (board, server, _), live(server):
        until(lambda: board.viewers == 1)
        with live(server) as second, pytest.raises(ConnectionClosed) as closed:
            second.recv(DEADLINE_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, "1 viewers are the most")
        assert board.viewers == 1


def test_asking_again_and_again_brings_no_more_than_two_at_a_time(picture: NDArray[np.uint8]) -> None:
    with serving() as (board, server, _), live(server) as viewer:
        for _ in range(50):
            viewer.send('{"more": 2}')
        viewer.send('{"more": -5}')
        viewer.send('{"size_px": 0}')
        while isinstance(viewer.recv(DEADLINE_S), bytes):
            pass        # the answer to the wrong size comes after all that was asked for before it was read
        got = 0
        for number in range(6):
            board.put(shot(picture, number), result([]))
            with suppress(TimeoutError):
                viewer.recv(0.3)
                got += 1
        assert got <= 2


def test_a_viewer_that_takes_nothing_is_let_go(picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_SEND_S", 0.2)
    noise = np.random.default_rng(1).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    with serving() as (board, server, _), socket.create_connection(("127.0.0.1", server.port)) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(
            f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        until(lambda: board.viewers == 1)
        asked = b'{"more": 2}'
        deadline = time.monotonic() + DEADLINE_S
        number = 0
        with suppress(OSError):
            while board.viewers:
                assert time.monotonic() < deadline
                line.sendall(bytes([0x81, 0x80 | len(asked), 0, 0, 0, 0]) + asked)      # a masked frame of text
                board.put(shot(noise, number), result([]))
                number += 1
                time.sleep(0.05)
        until(lambda: board.viewers == 0)


def test_a_connection_on_which_nothing_is_asked_for_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 0.2)
    with serving() as (_, server, _), ExitStack() as stack:
        for said in (b"", b"GET / HT", b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT"):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE_S))
            line.sendall(said)
            with suppress(ConnectionResetError):
                while line.recv(4096):
                    pass
        with live(server) as viewer:        # what is a WebSocket by now may be silent
            time.sleep(0.6)
            viewer.send('{"size_px": 0}')
            assert "error" in str(viewer.recv(DEADLINE_S))


def test_times_of_results_are_not_kept_while_nobody_looks(
    picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcaster_module, "RATE_WINDOW_S", 0.05)
    board = Broadcaster(SOURCE, None)
    for number in range(5):
        board.put(shot(picture, number), result([]))
    time.sleep(0.06)
    board.put(shot(picture, 5), result([]))
    assert len(board._moments) == 1
    board.close()


def test_a_number_that_is_none_is_null(picture: NDArray[np.uint8]) -> None:
    with serving() as (board, server, _):
        lost = result([BOX])
        assert lost.faces.landmarks is not None
        lost.faces.landmarks[0, 2] = np.nan
        board.put(shot(picture, 0), lost)
        code, _, body = get(server, "/faces.json")
        assert code == 200
        assert json.loads(body)["faces"][0]["landmarks"][2] == [None, None]


def test_viewers_that_leave_are_forgotten(picture: NDArray[np.uint8]) -> None:
    with serving() as (board, server, _):
        for _ in range(6):
            with live(server) as viewer:
                viewer.send('{"more": 2}')
        until(lambda: board.viewers == 0)
        threads = threading.active_count()
        assert threads < 12


@pytest.mark.parametrize("path", ["/", "/start.js", "/page.js", "/overlay.js", "/page.css", "/faces.json"])
def test_a_wrong_or_missing_token_gets_in_nowhere(path: str) -> None:
    with serving(TOKEN) as (_, server, _):
        assert get(server, path)[0] == 401
        assert get(server, f"{path}?token=wrong")[0] == 401
        assert get(server, path, Cookie="edgeface_token=wrong")[0] == 401
        for query in ("", "?token=wrong"):
            with pytest.raises((InvalidStatus, ConnectionClosed)), live(server, query) as viewer:
                viewer.recv(DEADLINE_S)


def test_the_right_token_becomes_a_cookie_and_leaves_the_address() -> None:
    with serving(TOKEN) as (board, server, _):
        code, headers, _ = get(server, f"/?token={TOKEN}")
        assert (code, headers["location"]) == (303, "./")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=lax" in cookie.lower()
        kept = cookie.split(";")[0]
        assert str(server.port) in kept     # another camera on this machine does not take its place
        assert get(server, "/", Cookie=f'other={{"a": 1}}; {kept}')[0] == 200
        assert get(server, "/", Cookie=kept)[0] == 200
        assert get(server, "/faces.json", Cookie=kept)[0] == 200
        with live(server, Cookie=kept):
            until(lambda: board.viewers == 1)


def test_a_program_may_send_the_token_as_a_bearer() -> None:
    with serving(TOKEN) as (_, server, _):
        assert get(server, "/faces.json", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert get(server, "/faces.json", Authorization="Bearer wrong")[0] == 401
        assert get(server, "/faces.json", Authorization=f"Basic {TOKEN}")[0] == 401


def test_another_sites_name_and_another_sites_page_are_refused() -> None:
    with serving() as (_, server, _):
        assert get(server, "/", Host="evil.example")[0] == 403
        for origin in ("http://evil.example", "null", "http://[", f"http://127.0.0.1:{server.port + 1}"):
            assert get(server, "/", Origin=origin)[0] == 403
        assert get(server, "/", Host="[")[0] == 403
        assert get(server, "/", Host=f"[::1]:{server.port}")[0] == 200
        assert get(server, "/", Host=f"{socket.gethostname()}.local:{server.port}")[0] == 200
        assert get(server, "/", Host=f"localhost:{server.port}")[0] == 200
        assert get(server, "/", Host=f"127.0.0.1:{server.port}", Origin=f"http://127.0.0.1:{server.port}")[0] == 200
        with pytest.raises((InvalidStatus, ConnectionClosed)), live(server, Origin="http://evil.example") as viewer:
            viewer.recv(DEADLINE_S)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    with serving() as (_, server, _):
        for path in ("/", "/start.js", "/page.js", "/overlay.js", "/page.css"):
            code, headers, body = get(server, path)
            assert code == 200
            assert "default-src 'self'" in headers["content-security-policy"]
            assert b"http://" not in body
            assert b"https://" not in body


def test_hidden_faces_never_leave(astronaut: NDArray[np.uint8]) -> None:
    with serving(hide_faces=True, jpeg_quality=95) as (board, server, _), live(server) as viewer:
        viewer.send('{"more": 1}')
        board.put(shot(astronaut, 0), result([(180, 60, 270, 180)]))
        _, jpeg = taken(viewer.recv(DEADLINE_S))
        sent = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert sent is not None
        parts = (image[70:170, 190:260].astype(int) for image in (sent, astronaut))
        sent_detail, detail = (np.abs(np.diff(part, axis=1)).mean() for part in parts)
        assert sent_detail < 0.4 * detail


def test_a_port_in_use_is_one_line() -> None:
    with serving() as (_, server, _), pytest.raises(OutputError) as raised:
        Server([], bind="127.0.0.1", port=server.port, token=None)
    assert str(raised.value).startswith(f"127.0.0.1:{server.port}: ")
    assert str(raised.value).endswith("choose another --port or --bind")


def test_a_closed_server_lets_viewers_go_and_frees_its_port() -> None:
    with serving() as (board, server, _):
        with live(server) as viewer:
            viewer.send('{"more": 1}')
            board.close()
            server.close()
            with pytest.raises(ConnectionClosed):
                viewer.recv(DEADLINE_S)
        port = server.port
    Server([], bind="127.0.0.1", port=port, token=None).close()


def test_tokens() -> None:
    assert choose_token("127.0.0.1", None) is None
    assert choose_token("::1", None) is None
    made = choose_token("0.0.0.0", None)
    assert made is not None
    assert len(made) >= 32
    assert made != choose_token("0.0.0.0", None)
    assert choose_token("0.0.0.0", TOKEN) == TOKEN
    for weak in ("short", "with spaces in the middle", "ends-with-a-slash-/////"):
        with pytest.raises(OptionError, match="the token must be"):
            choose_token("0.0.0.0", weak)


def test_what_is_loopback() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.3.2.1", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.2", "robot1", "localhost.evil.example"))
