"""``edgeface camera --show`` under load: rate, latency, viewers, and what an hour costs.

    python benchmarks/camera.py rate clip.mp4                    # one viewer, then ten: frames a second, latency, drops
    python benchmarks/camera.py soak clip.mp4 --minutes 60       # memory, file handles and threads over time
    python benchmarks/camera.py unplug photo.jpg                 # a stream's server killed and stopped, again and again
    python benchmarks/camera.py outages photo.jpg                # its server away for 1 to 60 s, 20 times

All run the real command in a process of its own and look at it from outside: /proc, the JSON lines, and viewers that
speak to the page's WebSocket as a browser does.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

START_S = 60.0
_SERVER = """
import cv2, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

jpeg = cv2.imencode(".jpg", cv2.resize(cv2.imread(sys.argv[1]), (640, 480)))[1].tobytes()

class Camera(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        while True:
            self.wfile.write(b"--frame\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(jpeg))
            self.wfile.write(jpeg + b"\\r\\n")
            time.sleep(0.04)

class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

Server(("127.0.0.1", int(sys.argv[2])), Camera).serve_forever()
"""


@dataclass
class Viewer:
    """Asks for pictures as the page does, two at a time, until it is stopped; counts them."""

    port: int
    pictures: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        try:
            with connect(f"ws://127.0.0.1:{self.port}/live", open_timeout=START_S, max_size=None) as line:
                line.send('{"more": 2}')
                while not self._stop.is_set():
                    line.recv(timeout=30)
                    self.pictures += 1
                    line.send('{"more": 1}')
        except (ConnectionClosed, TimeoutError, OSError):
            return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(2.0)


@contextmanager
def camera(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command with the page on a free port; its process and that port."""
    command = [sys.executable, "-m", "edgeface", "camera", *arguments, "--show", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+)/", line)
    if found is None:
        process.kill()
        raise click.ClickException(f"edgeface camera did not start: {line.strip()}")
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    drain.start()
    try:
        yield process, int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def family(pid: int) -> list[int]:
    """A process and all that it has started, by /proc."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def measured(pid: int) -> dict[str, float]:
    """Resident megabytes of its own (shared memory not counted), file handles and threads of a process's family."""
    total = {"rss_mb": 0.0, "handles": 0.0, "threads": 0.0, "processes": 0.0}
    for one in family(pid):
        lines = Path(f"/proc/{one}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        total["rss_mb"] += int(status["RssAnon"].split()[0]) / 1024
        total["handles"] += len(list(Path(f"/proc/{one}/fd").iterdir()))
        total["threads"] += int(status["Threads"])
        total["processes"] += 1
    return total


@click.group()
def main() -> None:
    """See the head of this file."""


@main.command()
@click.argument("video", type=click.Path(exists=True, dir_okay=False))
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--size", default=320, show_default=True)
@click.option("--viewers", "counts", multiple=True, type=int, default=(0, 1, 10), show_default=True)
@click.option("--rounds", default=2, show_default=True, help="Of all numbers of viewers, in turns.")
def rate(video: str, seconds: float, size: int, counts: tuple[int, ...], rounds: int) -> None:
    """Frames a second and latency with each number of viewers, the file played at its own rate."""
    click.echo(f"{'viewers':>8}{'frames/s':>10}{'dropped':>9}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}{'first 5 s':>11}"
               f"{'last 5 s':>10}{'network p50':>13}{'seen/s':>8}")
    for _ in range(rounds):
        for count in counts:
            with TemporaryDirectory() as folder, ExitStack() as stack:
                lines = Path(folder) / "lines.jsonl"
                _, port = stack.enter_context(
                    camera(video, "--loop", "--size", str(size), "--json", str(lines), "--threads", "1")
                )
                watching = [Viewer(port) for _ in range(count)]
                time.sleep(seconds + 3)
                for viewer in watching:
                    viewer.stop()
                frames = [r for r in map(json.loads, lines.read_text().splitlines()) if r["type"] == "frame"]
                # The first three seconds are those of a cold start.
                frames = [f for f in frames if f["time"] >= frames[0]["time"] + 3]
                latency = np.array([f["latency_ms"] for f in frames])
                times = np.array([f["time"] for f in frames])
                span = times[-1] - times[0]
                early, late = latency[times < times[0] + 5], latency[times > times[-1] - 5]
                seen = np.mean([v.pictures for v in watching]) / (seconds + 3) if watching else 0.0
                p50, p95, p99 = np.percentile(latency, (50, 95, 99))
                network = np.median([f["ms"]["network"] for f in frames])
                click.echo(
                    f"{count:>8}{(len(frames) - 1) / span:>10.1f}{frames[-1]['dropped'] - frames[0]['dropped']:>9}"
                    f"{p50:>8.1f}{p95:>8.1f}{p99:>8.1f}{np.median(early):>11.1f}{np.median(late):>10.1f}"
                    f"{network:>13.2f}{seen:>8.1f}"
                )


@main.command()
@click.argument("video", type=click.Path(exists=True, dir_okay=False))
@click.option("--minutes", default=60.0, show_default=True, type=click.FloatRange(min=1.5))
@click.option("--size", default=320, show_default=True)
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Every sample, as JSON lines.")
def soak(video: str, minutes: float, size: int, report: Path | None) -> None:
    """Memory, file handles and threads of a looped video with one viewer; growth is counted after the first minute."""
    samples: list[dict[str, float]] = []
    with camera(video, "--loop", "--size", str(size), "--threads", "1") as (process, port):
        viewer = Viewer(port)
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < minutes * 60:
            samples.append({"seconds": round(elapsed, 1), "pictures": viewer.pictures, **measured(process.pid)})
            if report is not None:
                with report.open("a") as out:
                    out.write(json.dumps(samples[-1]) + "\n")
            time.sleep(5)
        viewer.stop()
    after = [s for s in samples if s["seconds"] >= 60]
    for name in ("rss_mb", "handles", "threads", "processes"):
        values = [s[name] for s in after]
        click.echo(f"{name:<10} at 1 min {values[0]:8.1f}  end {values[-1]:8.1f}  least {min(values):8.1f}  "
                   f"most {max(values):8.1f}")
    click.echo(f"pictures seen: {samples[-1]['pictures']:.0f} in {samples[-1]['seconds'] / 60:.1f} minutes")


@main.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--times", default=20, show_default=True)
def unplug(picture: Path, times: int) -> None:
    """How soon frames come again after an MJPEG server was killed and started anew, or stopped and let go on."""
    back_s: dict[str, list[float]] = {"killed": [], "hung": []}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        lines = Path(folder) / "lines.jsonl"
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = free.getsockname()[1]
        server = _serve(picture, address)
        process, _ = stack.enter_context(
            camera(f"http://127.0.0.1:{address}/", "--size", "320", "--threads", "1", "--json", str(lines))
        )
        _next_frame(lines, time.time())
        before = measured(process.pid)
        for number in range(times):
            kind = "killed" if number % 2 == 0 else "hung"
            if kind == "killed":
                server.kill()
                server.wait()
                time.sleep(1.5)
                server = _serve(picture, address)
            else:
                server.send_signal(signal.SIGSTOP)
                time.sleep(4.0)     # longer than the read deadline, so that the capture process is killed
                server.send_signal(signal.SIGCONT)
            there = time.time()
            back_s[kind].append(_next_frame(lines, there) - there)
        after = measured(process.pid)
        server.kill()
        server.wait()
    for kind, times_s in back_s.items():
        click.echo(f"{kind:<7} {len(times_s):>3} times: back after {np.median(times_s):.2f} s (median), "
                   f"{max(times_s):.2f} s at most")
    for name, value in after.items():
        click.echo(f"{name:<10} before {before[name]:.1f}  after {value:.1f}")


@main.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--times", default=20, show_default=True, type=click.IntRange(min=2))
@click.option("--longest", "longest_s", default=60.0, show_default=True, type=click.FloatRange(min=1))
@click.option("--limit", "limit_s", default=5.0, show_default=True, help="Exit with 1 when one took longer.")
def outages(picture: Path, times: int, longest_s: float, limit_s: float) -> None:
    """How soon frames come again after an MJPEG server was away for 1 second to --longest, each outage longer."""
    back_s: list[float] = []
    with TemporaryDirectory() as folder, ExitStack() as stack:
        lines = Path(folder) / "lines.jsonl"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = _serve(picture, port)
        stack.enter_context(
            camera(f"http://127.0.0.1:{port}/", "--size", "320", "--threads", "1", "--json", str(lines))
        )
        _next_frame(lines, time.time())
        for away_s in np.geomspace(1.0, longest_s, times):
            server.kill()
            server.wait()
            time.sleep(away_s)
            server = _serve(picture, port)
            while not _answers(port):
                time.sleep(0.02)
            there = time.time()
            back_s.append(_next_frame(lines, there) - there)
            click.echo(f"away for {away_s:5.1f} s: back after {back_s[-1]:.2f} s")
        server.kill()
        server.wait()
    late = sum(seconds > limit_s for seconds in back_s)
    click.echo(f"{times} outages of 1 to {longest_s:g} s: back after {np.median(back_s):.2f} s (median), "
               f"{max(back_s):.2f} s at most; {late} later than {limit_s:g} s")
    if late:
        raise SystemExit(1)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _serve(picture: Path, port: int) -> subprocess.Popen[bytes]:
    """An MJPEG server of one picture, 25 times a second, in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", _SERVER, str(picture), str(port)], stderr=subprocess.DEVNULL)


def _next_frame(lines: Path, since: float) -> float:
    """When the first frame after ``since`` (seconds since 1970) was taken."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for line in reversed(lines.read_text().splitlines() if lines.exists() else []):
            record = json.loads(line)
            if record["type"] == "frame" and record["time"] > since:
                first = [r for r in map(json.loads, lines.read_text().splitlines())
                         if r["type"] == "frame" and r["time"] > since]
                return float(first[0]["time"])
            if record["time"] <= since:
                break
        time.sleep(0.05)
    raise click.ClickException(f"no frame within {START_S:g} s")


if __name__ == "__main__":
    main()
