"""A camera on the network, as far as tests need one: MJPEG over HTTP, with a password or without; it can be killed."""

from __future__ import annotations

import argparse
import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PASSWORD = "secret"


class _Camera(BaseHTTPRequestHandler):
    jpeg = b""
    frozen_after = 0

    def do_GET(self) -> None:
        login = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        if self.path.startswith("/private") and self.headers.get("Authorization") != login:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        if not self.path.endswith(".mjpeg"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        sent = 0
        try:
            while True:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(self.jpeg)}\r\n\r\n".encode()
                self.wfile.write(head + self.jpeg + b"\r\n")
                sent += 1
                time.sleep(0.03)
                while self.frozen_after and sent >= self.frozen_after:
                    time.sleep(1)
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:  # the name it has there
        pass


@contextmanager
def serving(jpeg: Path, port: int = 0, *, frozen_after: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server in a process of its own, and its port; it is killed when the block ends."""
    command = [sys.executable, __file__, str(jpeg), "--port", str(port), "--frozen-after", str(frozen_after)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server, int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("jpeg", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--frozen-after", type=int)
    arguments = parser.parse_args()
    _Camera.jpeg = arguments.jpeg.read_bytes()
    _Camera.frozen_after = arguments.frozen_after
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), _Camera)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
