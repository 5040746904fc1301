"""Recordings whose H.264 or H.265 changes its size on the way, as when a phone is turned or a stream adapts.

OpenCV brings every frame to the size of the first and tells nobody. The coded stream says it, in its sequence
parameter sets (ITU-T H.264, 7.3.2.1; H.265, 7.3.2.2), which stand before the first picture that they are for. So the
packets are looked at beside the decoding, a little ahead of it; where other parameter sets come, what follows is
decoded by itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.opencv_files import open_name

# Decoders give frames out of order, by at most 16 of them (H.264, A.3.1).
_AHEAD = 32
# Parameter sets stand at a packet's start, before its picture.
_LOOKED_AT_BYTES = 1 << 14
_START_CODE = b"\0\0\1"
_H264, _H265 = "h264", "hevc"
_NAMES = {"h264": _H264, "avc1": _H264, "x264": _H264, "hevc": _H265, "hev1": _H265, "hvc1": _H265}


class SizeChanges:
    """Where the parameter sets of a video change, and what comes then. Of other codecs nothing is known."""

    def __init__(self, stream: BinaryIO, size_px: tuple[int, int]) -> None:
        """``stream`` need not stay open; ``size_px``: width and height of the frames that come of it, before they are
        turned."""
        self._packets = cv2.VideoCapture(open_name(stream), cv2.CAP_FFMPEG, (cv2.CAP_PROP_FORMAT, -1))
        letters = int(self._packets.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
        self._codec = _NAMES.get(letters.lower())
        self._is_over = self._codec is None or not self._packets.isOpened()
        self._sets: list[bytes] = []
        self._looked_at = 0
        self._next: NDArray[np.uint8] | None = None     # the first packet after the change
        first = self._read()
        if first is not None:
            self._looked_at = 1
            self._changes(first)
            # FFmpeg looks at seconds of a video before it gives a frame, and takes the last size that it saw.
            if _size_px(first) not in (None, size_px):
                self._looked_at, self._next = 0, first

    def reached(self, frame: int) -> bool:
        """Whether frame number ``frame``, from 0, is of another size than those before it, or may be."""
        while self._next is None and not self._is_over and self._looked_at <= frame + _AHEAD:
            packet = self._read()
            if packet is None:
                break
            if self._changes(packet):
                self._next = packet
            else:
                self._looked_at += 1
        return self._next is not None and frame >= self._looked_at

    def parts(self) -> Iterator[BinaryIO]:
        """What follows, as coded streams of one size each; a part is there until the next one is asked for."""
        while self._next is not None:
            packet: NDArray[np.uint8] | None = self._next
            self._next = None
            with tempfile.TemporaryFile(prefix="edgeface-") as part:
                while packet is not None:
                    part.write(packet.data)
                    packet = self._read()
                    if packet is not None and self._changes(packet):
                        self._next, packet = packet, None
                part.flush()
                yield part

    def close(self) -> None:
        """Let go of the file."""
        self._is_over = True
        self._packets.release()

    def _read(self) -> NDArray[np.uint8] | None:
        done, packet = (False, None) if self._is_over else self._packets.read()
        if not done or packet is None:
            self.close()
            return None
        return np.ascontiguousarray(packet, np.uint8).reshape(-1)

    def _changes(self, packet: NDArray[np.uint8]) -> bool:
        """Whether the packet brings other parameter sets than there were."""
        sets = parameter_sets(packet[:_LOOKED_AT_BYTES].tobytes(), is_h265=self._codec == _H265)
        if not sets or sets == self._sets:
            return False
        is_first = not self._sets
        self._sets = sets
        return not is_first


def _size_px(packet: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Width and height of the picture in a packet; None where it cannot be told."""
    with os.fdopen(os.memfd_create("edgeface-packet"), "w+b") as alone:
        alone.write(packet.data)
        alone.flush()
        capture = cv2.VideoCapture(open_name(alone), cv2.CAP_FFMPEG)
        width_px, height_px = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        capture.release()
    return (width_px, height_px) if width_px > 0 and height_px > 0 else None


def parameter_sets(packet: bytes, *, is_h265: bool) -> list[bytes]:
    """The sequence parameter sets before the first picture of a packet that is a byte stream (H.264, annex B)."""
    found: list[bytes] = []
    at = packet.find(_START_CODE)
    while at >= 0 and at + 3 < len(packet):
        start = at + 3
        at = packet.find(_START_CODE, start)
        kind = packet[start] >> 1 & 0x3F if is_h265 else packet[start] & 0x1F
        if kind < 32 if is_h265 else 1 <= kind <= 5:
            break
        if kind == (33 if is_h265 else 7):
            found.append(packet[start : at if at >= 0 else None].rstrip(b"\0"))
    return found
