"""``edgeface camera --show`` under load: rate, latency, viewers, and what an hour costs.

    python benchmarks/camera.py rate clip.mp4                    # one viewer, then ten: frames a second, latency, drops
    python benchmarks/camera.py soak clip.mp4 --minutes 60       # memory, file handles and threads over time

Both run the real command in a process of its own and look at it from outside: /proc, the JSON lines, and viewers that
speak to the page's WebSocket as a browser does.
"""

from __future__ import annotations

import json
import re
import signal
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
@click.option("--minutes", default=60.0, show_default=True)
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


if __name__ == "__main__":
    main()
