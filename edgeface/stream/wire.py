"""What the capture process and its supervisor say to each other, and the memory that they share.

They talk over a socket pair of packets, one JSON message each. Pixels lie in slots, each a memfd of its own: memory
without a name, which the system takes back when both processes are gone, however they end. Three slots are enough for
the newest frame only: one handed out, one ready, one being written.
"""

from __future__ import annotations

import mmap
import os
import socket
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.frames import Frame
from edgeface.stream.sources import SourceSpec

SLOTS = 3
MAX_MESSAGE_BYTES = 1 << 16
# Of one frame: 8192 x 8192 pixels of 3 bytes.
MAX_FRAME_BYTES = 3 * 8192 * 8192


class Open(msgspec.Struct, frozen=True, tag=True):
    """To the process, first of all: the opener's module and name there, and what to open.

    ``address`` is the spec's, which lacks it: a file's name need not be text, and JSON is.
    """

    module: str
    opener: str
    spec: SourceSpec
    address: bytes


class Next(msgspec.Struct, frozen=True, tag=True):
    """To the process: the frame handed out before is copied; hand out the newest that was not, now or when it comes."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """Python runs and is about to open the source."""


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The source is open and announces this rate."""

    fps: float | None


class Taken(msgspec.Struct, frozen=True, tag=True):
    """A frame lies in ``slot`` until Next: its shape, its format (frames.py), and when it was taken.

    ``number`` counts the frames of this process from 0.
    """

    slot: int
    shape: tuple[int, ...]
    format: str
    number: int
    taken_monotonic_ns: int
    taken_unix_ns: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The source is at its end."""


def as_text(text: str) -> str:
    """The text with what is no Unicode in it, such as in a file's name, as U+FFFD."""
    return os.fsencode(text).decode("utf-8", "replace")


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The source raised: the name of the class in edgeface.errors, and its text."""

    error: str
    text: str


class Noted(msgspec.Struct, frozen=True, tag=True):
    """A line for the log, with a level of the module logging."""

    level: int
    text: str


def received(connection: socket.socket) -> bytes:
    """The next packet; b"" when the other side is gone and nothing of it is left. Raises OSError.

    A process that ends without having read all that it was sent resets the connection, and the system says so once
    before it hands out what the process had still sent: that the source is at its end, for one.
    """
    try:
        return connection.recv(MAX_MESSAGE_BYTES)
    except ConnectionError:
        pass
    try:
        return connection.recv(MAX_MESSAGE_BYTES)
    except (ConnectionError, BlockingIOError):
        return b""


ToProcess = Open | Next
FromProcess = Started | Opened | Taken | Ended | Failed | Noted


class Slot:
    """A frame's memory, seen by one of the two processes; ``descriptor`` is its memfd, which this does not close."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Copy the pixels in, making room first where they need more than any frame before."""
        if self._map is None or len(self._map) < pixels.nbytes:
            self.close()
            # Never smaller: the other side may have mapped what there was.
            if os.fstat(self._descriptor).st_size < pixels.nbytes:
                os.ftruncate(self._descriptor, pixels.nbytes)
            self._map = mmap.mmap(self._descriptor, 0)
        np.frombuffer(self._map, np.uint8, pixels.nbytes).reshape(pixels.shape)[...] = pixels

    def read(self, taken: Taken) -> Frame:
        """A copy of the frame that lies here. Raises ValueError when the message does not fit the memory."""
        nbytes = 1
        for side in taken.shape:
            nbytes *= side
        if self._map is None or len(self._map) < nbytes:
            self.close()
            self._map = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
        pixels = np.frombuffer(self._map, np.uint8, nbytes).reshape(taken.shape).copy()
        return Frame(pixels, taken.format)  # type: ignore[arg-type]  # Frame checks it

    def close(self) -> None:
        """Unmap."""
        if self._map is not None:
            self._map.close()
            self._map = None


class Counter:
    """Frames taken and damaged ones left out, with CLOCK_MONOTONIC of the last one of each, in shared memory that one
    process writes and one reads."""

    NBYTES = 32

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, self.NBYTES)
        self._values: NDArray[np.int64] = np.frombuffer(self._map, np.int64)

    @property
    def frames(self) -> int:
        """Frames taken by this process."""
        return int(self._values[0])

    @property
    def last_ns(self) -> int:
        """When the last of them came, 0 before the first."""
        return int(self._values[1])

    @property
    def damaged(self) -> int:
        """Frames that this process left out since they were damaged."""
        return int(self._values[2])

    @property
    def last_heard_ns(self) -> int:
        """When the last frame came, whole or damaged; 0 before the first."""
        return int(max(self._values[1], self._values[3]))

    def count_damaged(self, now_ns: int) -> None:
        """One damaged frame more, at ``now_ns``."""
        self._values[3] = now_ns
        self._values[2] += 1

    def count(self, now_ns: int) -> None:
        """One frame more, at ``now_ns``."""
        self._values[1] = now_ns
        self._values[0] += 1

    def close(self) -> None:
        """Unmap."""
        del self._values
        self._map.close()


def encode(message: ToProcess | FromProcess) -> bytes:
    """One packet."""
    return msgspec.json.encode(message)


def decode(packet: bytes, kind: Any) -> Any:
    """The message in a packet, of the union ``kind``; raises msgspec.MsgspecError."""
    return msgspec.json.decode(packet, type=kind)
