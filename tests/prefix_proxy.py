"""A proxy as people put before the page: it serves the page under a path of its own and asks for it under a name."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress


class PrefixProxy:
    """``/NAME/...`` here is ``/...`` at ``port``, asked for with ``host`` as the Host header.

    ``strips``: the path loses the name on its way, as usual. ``tells``: X-Forwarded-Prefix says it.
    """

    def __init__(self, port: int, host: str, *, name: str = "cam", strips: bool = True, tells: bool = True) -> None:
        self._target = port
        self._host = host
        self._name = name
        self._strips = strips
        self._tells = tells
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/{name}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                browser, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(browser,), daemon=True).start()

    def _serve(self, browser: socket.socket) -> None:
        with browser, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                some = browser.recv(4096)
                if not some:
                    return
                head += some
            head, _, body = head.partition(b"\r\n\r\n")
            if not re.match(rf"GET /{self._name}/".encode(), head):
                browser.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            if self._strips:
                head = head.replace(f" /{self._name}/".encode(), b" /", 1)
            head = re.sub(rb"(?im)^host: .*?$", f"Host: {self._host}\r".encode(), head)
            if b"upgrade: websocket" not in head.lower():
                head = re.sub(rb"(?im)^connection: .*?$", b"Connection: close\r", head)
            if self._tells:
                head += f"\r\nX-Forwarded-Prefix: /{self._name}".encode()
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                server.sendall(head + b"\r\n\r\n" + body)
                back = threading.Thread(target=_pass_on, args=(server, browser), daemon=True)
                back.start()
                _pass_on(browser, server)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(65536):
            target.sendall(some)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
