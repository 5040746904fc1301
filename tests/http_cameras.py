"""Cameras on the network that write HTTP as real ones do, each kind under a path of its own."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

MULTIPART = "multipart/x-mixed-replace; boundary="
PERIOD_S = 0.02


def jpeg(image: NDArray[np.uint8]) -> bytes:
    return np.asarray(cv2.imencode(".jpg", image)[1], np.uint8).tobytes()


def picture(value: int, width_px: int = 64, height_px: int = 48) -> NDArray[np.uint8]:
    """A picture of noise round one grey value: its data are longer than its header."""
    noise = np.random.default_rng(value).integers(-30, 30, (height_px, width_px, 3))
    return np.clip(noise + value, 0, 255).astype(np.uint8)


def part(
    body: bytes, *, boundary: bytes = b"--frame", kind: bytes = b"image/jpeg", length: int | None = -1,
    end: bytes = b"\r\n",
) -> bytes:
    """A part of a multipart answer; ``length`` -1 is the right one, None is none; b"" leaves ``kind`` or ``boundary``
    out."""
    lines = [boundary] if boundary else []
    lines += [b"Content-Type: " + kind] if kind else []
    lines += [] if length is None else [b"Content-Length: %d" % (len(body) if length < 0 else length)]
    return end.join([*lines, b"", body + end])


class HttpCameras:
    """Serves what ``answers`` say: a path's type of content and its pieces, one each PERIOD_S, then nothing more."""

    def __init__(self, answers: dict[str, tuple[str, list[bytes]]], certificate: Path | None = None) -> None:
        self.asked: list[str] = []
        self.redirects: dict[str, str] = {}
        self.refusals: dict[str, int] = {}
        self.logins: dict[str, tuple[str, str]] = {}
        cameras = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cameras.asked.append(self.path)
                cameras.answer(self, answers)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}/{path}"

    def answer(self, to: BaseHTTPRequestHandler, answers: dict[str, tuple[str, list[bytes]]]) -> None:
        name = to.path.strip("/")
        if name in self.redirects:
            to.send_response(302)
            to.send_header("Location", self.redirects[name])
            to.end_headers()
        elif name in self.refusals:
            to.send_response(self.refusals[name])
            to.end_headers()
        elif name in self.logins and (challenge := _challenge(to, *self.logins[name])):
            to.send_response(401)
            to.send_header("WWW-Authenticate", challenge)
            to.end_headers()
        else:
            kind, pieces = answers[name]
            to.send_response(200)
            to.send_header("Content-Type", kind)
            if len(pieces) == 1:
                to.send_header("Content-Length", str(len(pieces[0])))
            to.end_headers()
            try:
                for piece in pieces:
                    to.wfile.write(piece)
                    time.sleep(PERIOD_S if len(pieces) > 1 else 0)
            except OSError:
                pass


def _challenge(request: BaseHTTPRequestHandler, kind: str, login: str) -> str:
    """What to ask of who has not logged in; empty: it has."""
    given = request.headers.get("Authorization", "")
    if kind == "Basic":
        right = given == "Basic " + base64.b64encode(login.encode()).decode()
        return "" if right else 'Basic realm="camera"'
    said = dict(re.findall(r'(\w+)="?([^",]+)"?', given))
    if {"nonce", "uri", "response", "nc", "cnonce"} <= set(said):
        name, _, password = login.partition(":")
        one, two = (
            hashlib.md5(text.encode()).hexdigest() for text in (f"{name}:camera:{password}", f"GET:{said['uri']}")
        )
        right_text = f"{one}:{said['nonce']}:{said['nc']}:{said['cnonce']}:auth:{two}"
        if said["response"] == hashlib.md5(right_text.encode()).hexdigest():
            return ""
    return 'Digest realm="camera", nonce="abc", qop="auth"'


@contextmanager
def serving(
    answers: dict[str, tuple[str, list[bytes]]], certificate: Path | None = None
) -> Iterator[HttpCameras]:
    cameras = HttpCameras(answers, certificate)
    try:
        yield cameras
    finally:
        cameras.server.shutdown()
        cameras.server.server_close()


@contextmanager
def socket_that(answer: Callable[[object], None]) -> Iterator[int]:
    """A listener on a port of this machine that does with every connection what ``answer`` does."""
    import socket

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
