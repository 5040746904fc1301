"""The frame rate of ``edgeface camera --show`` while its page is attacked, against that of just before.

    python benchmarks/page_attacks.py clip.mp4                       # every attack, in turns with quiet
    python benchmarks/page_attacks.py clip.mp4 --kind idle --kind flood --seconds 20

The command runs in a process of its own with a token and one viewer that has it; the attacker in another, and has the
token only for the floods, which are a viewer's. It takes processor time too, so the camera runs with one thread: two
cores are enough where nothing else runs. Prints for each attack the frames a second before and under it, the seconds of
a processor that the camera's process took a second, without its capture process, which is what an attack costs also
where other work makes the rates worthless, and the slowest answer that the viewer's page got meanwhile, and how many it
did not get. Exits with 1 where a rate fell below ``--least`` of the one before, or an answer did not come.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from camera import START_S, camera
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

TOKEN = "of-the-benchmark"
GET = b"GET /?token=wrong HTTP/1.1\r\nHost: localhost\r\n"


def _each_in_a_thread(count: int, attack: Callable[[], None]) -> None:
    def again() -> None:
        while True:
            with suppress(OSError):
                attack()

    threads = [threading.Thread(target=again, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _idle(port: int) -> None:
    """128 connections that say nothing; each is opened again once it was closed."""

    def wait() -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as line:
            line.recv(1)
        time.sleep(0.05)

    _each_in_a_thread(128, wait)


def _headers(port: int) -> None:
    """16 connections that pour 10 MB of headers each."""
    header = b"X-%d: " + b"a" * 65536 + b"\r\n"

    def pour() -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as line:
            line.sendall(GET)
            for n in range(160):
                line.sendall(header % n)
        time.sleep(0.05)

    _each_in_a_thread(16, pour)


def _chunks(port: int) -> None:
    """16 connections whose chunks are none."""

    def send() -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as line:
            line.sendall(GET.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\nbad\r\n")
            while line.recv(4096):
                pass
        time.sleep(0.05)

    _each_in_a_thread(16, send)


def _guesses(port: int) -> None:
    """16 connections that guess the token."""

    def guess() -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as line:
            line.sendall(GET + b"Connection: close\r\n\r\n")
            while line.recv(4096):
                pass

    _each_in_a_thread(16, guess)


def _flood_of(frame: bytes) -> Callable[[int], None]:
    def flood(port: int) -> None:
        with connect(f"ws://127.0.0.1:{port}/live", additional_headers=_bearer()) as viewer:
            while True:
                viewer.socket.sendall(frame * 500)

    return flood


ATTACKS: dict[str, Callable[[int], None]] = {
    "idle": _idle,
    "headers": _headers,
    "chunks": _chunks,
    "guesses": _guesses,
    # Masked by zeros, as a client's frames have to be masked.
    "flood": _flood_of(b'\x81\x8b\0\0\0\0{"more": 1}'),
    "pings": _flood_of(b"\x89\x84\0\0\0\0abcd"),
}


def _bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


class Page:
    """Asks for the page every half second, as its viewer would, and keeps how long the slowest answer took."""

    def __init__(self, port: int) -> None:
        self._request = urllib.request.Request(f"http://127.0.0.1:{port}/faces.json", headers=_bearer())
        self.slowest_s = 0.0
        self.failed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.wait(0.5):
            started_s = time.monotonic()
            try:
                with urllib.request.urlopen(self._request, timeout=START_S) as answer:
                    answer.read()
                self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
            except (OSError, HTTPException):
                self.failed += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def watch(port: int) -> None:
    """A viewer with the token that takes every picture, until the camera ends."""
    with suppress(ConnectionClosed), connect(
        f"ws://127.0.0.1:{port}/live", additional_headers=_bearer(), max_size=None
    ) as line:
        line.send('{"more": 2}')
        while True:
            line.recv()
            line.send('{"more": 1}')


def rates(lines: Path, pid: int, seconds: float) -> tuple[float, float]:
    """Of the next ``seconds``: frames a second by the camera's own JSON lines, and processor seconds a second."""
    begin, taken_s = time.time(), processor_s(pid)
    time.sleep(seconds)
    end = time.time()
    took_s = processor_s(pid) - taken_s
    records = map(json.loads, lines.read_text().splitlines())
    frames = sum(r["type"] == "frame" and begin <= r["time"] < end for r in records)
    return frames / (end - begin), took_s / (end - begin)


def processor_s(pid: int) -> float:
    """Of a process so far, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@click.command()
@click.argument("video", type=click.Path(exists=True, dir_okay=False))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(ATTACKS)), help="Of attack.  [default: all]")
@click.option("--seconds", default=10.0, show_default=True, help="Of quiet and of attack, each round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--size", default=320, show_default=True)
@click.option("--least", default=0.95, show_default=True, help="Share of the rate before.")
@click.option("--attack", "attacker", type=(click.Choice(list(ATTACKS)), int), hidden=True)
def main(
    video: str, kinds: tuple[str, ...], seconds: float, rounds: int, size: int, least: float,
    attacker: tuple[str, int] | None,
) -> None:
    """See the head of this file."""
    if attacker is not None:
        ATTACKS[attacker[0]](attacker[1])
        return
    os.environ["EDGEFACE_TOKEN"] = TOKEN
    worst = 1.0
    failed = 0
    click.echo(f"{'attack':<9}{'frames/s':>9}{'under':>8}{'share':>8}{'processor':>11}{'under':>8}"
               f"{'slowest answer s':>18}{'failed':>8}")
    for kind in kinds or ATTACKS:
        with TemporaryDirectory() as folder, ExitStack() as stack:
            lines = Path(folder) / "lines.jsonl"
            process, port = stack.enter_context(
                camera(video, "--loop", "--size", str(size), "--threads", "1", "--json", str(lines))
            )
            threading.Thread(target=watch, args=(port,), daemon=True).start()
            while not lines.exists() or '"frame"' not in lines.read_text():
                time.sleep(0.1)
            time.sleep(3.0)     # a cold start
            before, under = [], []      # frames and processor seconds a second
            page = Page(port)
            for _ in range(rounds):
                before.append(rates(lines, process.pid, seconds))
                command = [sys.executable, __file__, video, "--attack", kind, str(port)]
                attack = subprocess.Popen(command, stderr=subprocess.DEVNULL)
                time.sleep(1.5)     # Python's start, and the burst that everybody has
                under.append(rates(lines, process.pid, seconds))
                attack.kill()
                attack.wait()
                time.sleep(1.0)
            page.stop()
        (frames, taken), (frames_under, taken_under) = np.median(before, axis=0), np.median(under, axis=0)
        share = float(frames_under / frames)
        worst, failed = min(worst, share), failed + page.failed
        click.echo(f"{kind:<9}{frames:>9.1f}{frames_under:>8.1f}{share:>8.2f}{taken:>11.3f}{taken_under:>8.3f}"
                   f"{page.slowest_s:>18.2f}{page.failed:>8}")
    if worst < least or failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
