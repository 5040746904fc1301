"""How many can look at ``edgeface camera --show``: pictures a second that each viewer gets, and what they cost.

    python benchmarks/viewers.py clip.mp4                            # one viewer, forty, and forty beside a slow one
    python benchmarks/viewers.py demo --viewers 1 --viewers 64 --fps 10

The real command runs in a process of its own, its viewers in another one, which does no more with a picture than to
read it: a browser has a machine of its own. The slow one takes 20 kB a second. "ms" is the command's processor time for
each frame, detection included. Exit code 1 where one of many gets less than 90 % of what one alone gets.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
from camera import camera, family

_HANDSHAKE = (
    "GET /live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_SLOW_BYTES_A_S = 20_000
_WARM_UP_S = 4.0
_KEPT = 0.9


def asking(pictures: int) -> bytes:
    """The page's request for so many, as a client's masked frame; a mask of zeros changes nothing."""
    content = b'{"more": %d}' % pictures
    return bytes((0x81, 0x80 | len(content))) + bytes(4) + content


@dataclass
class Viewer:
    """One line, read as it comes; ``pictures`` are whole messages since ``reset``."""

    line: socket.socket
    is_slow: bool
    pictures: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _left: int = 0          # bytes of the message that is being read

    def read(self, room: memoryview) -> None:
        most = 4096 if self.is_slow else len(room)
        count = self.line.recv_into(room[:most])
        if not count:
            raise SystemExit("a viewer was sent away")
        at = 0
        while at < count:
            if self._left:
                step = min(self._left, count - at)
                self._left -= step
                at += step
                if not self._left:
                    self.pictures += 1
                    self.line.send(asking(1))
                continue
            self._head += room[at : at + 1]
            at += 1
            self._left = _length(self._head)
            if self._left:
                self._head.clear()


def _length(head: bytearray) -> int:
    """Of the message that a server's frame head announces; 0 while it is not whole."""
    if len(head) < 2 or head[1] < 126:
        return head[1] if len(head) == 2 else 0
    kind, size = ("!H", 2) if head[1] == 126 else ("!Q", 8)
    return struct.unpack(kind, head[2 : 2 + size])[0] if len(head) == 2 + size else 0


def look(port: int, count: int, slow: int, seconds: float) -> None:
    """What the viewers' process does: a line of pictures a second for each, the slow ones last."""
    waiting = selectors.DefaultSelector()
    viewers = []
    for number in range(count + slow):
        line = socket.create_connection(("127.0.0.1", port))
        if number >= count:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        line.sendall(_HANDSHAKE.format(port=port).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += line.recv(1)
        line.send(asking(2))
        viewers.append(Viewer(line, number >= count))
        waiting.register(line, selectors.EVENT_READ, viewers[-1])
    room = memoryview(bytearray(1 << 20))
    resting: dict[socket.socket, tuple[float, Viewer]] = {}
    started, ends = time.monotonic() + _WARM_UP_S, time.monotonic() + _WARM_UP_S + seconds
    is_warm = False
    while (now := time.monotonic()) < ends:
        if not is_warm and now >= started:
            is_warm = True
            for viewer in viewers:
                viewer.pictures = 0
        for key, _ in waiting.select(0.02):
            key.data.read(room)
            if key.data.is_slow:
                waiting.unregister(key.fileobj)
                resting[key.data.line] = (now + 4096 / _SLOW_BYTES_A_S, key.data)
        for line, (until, viewer) in list(resting.items()):
            if now >= until:
                del resting[line]
                waiting.register(line, selectors.EVENT_READ, viewer)
    click.echo(" ".join(f"{viewer.pictures / seconds:.2f}" for viewer in viewers))


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and its children so far."""
    ticks = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(source: str, count: int, slow: int, seconds: float, fps: float, size: int) -> list[float]:
    """Pictures a second of each viewer, the slow ones last; prints a row."""
    arguments = [source, "--size", str(size), "--threads", "1", "--fps", str(fps), "--viewers", str(count + slow)]
    with camera(*arguments, *([] if source == "demo" else ["--loop"])) as (process, port):
        time.sleep(_WARM_UP_S)
        command = [sys.executable, __file__, source, "--look", f"{port},{count},{slow},{seconds}"]
        before, started = cpu_s(process.pid), time.monotonic()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        used_s = (cpu_s(process.pid) - before) / (time.monotonic() - started)
    rates = [float(word) for word in said]
    fast = sorted(rates[:count])
    click.echo(
        f"{count:>8}{slow:>6}{fast[0]:>9.1f}{fast[len(fast) // 2]:>9.1f}{'' if not slow else f'{rates[-1]:.1f}':>9}"
        f"{1000 * used_s / max(fast):>8.1f}"
    )
    return rates


@click.command(help=__doc__)
@click.argument("source")
@click.option("--viewers", "counts", multiple=True, type=int, default=(1, 40), show_default=True)
@click.option("--seconds", default=15.0, show_default=True)
@click.option("--fps", default=15.0, show_default=True)
@click.option("--size", default=320, show_default=True)
@click.option("--look", "looking", hidden=True)
def main(source: str, counts: tuple[int, ...], seconds: float, fps: float, size: int, looking: str | None) -> None:
    if looking is not None:
        port, count, slow, span = looking.split(",")
        look(int(port), int(count), int(slow), float(span))
        return
    click.echo(f"{'viewers':>8}{'slow':>6}{'least/s':>9}{'median/s':>9}{'slow/s':>9}{'ms':>8}")
    one = measured(source, 1, 0, seconds, fps, size)[0]
    missed = False
    for count in counts:
        for slow in (0, 1) if count > 1 else ():
            rates = measured(source, count, slow, seconds, fps, size)[:count]
            share = min(rates) / one
            missed = missed or share < _KEPT
            click.echo(f"{'':>8}the one of {count} that gets least gets {share:.0%} of what one alone gets")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
