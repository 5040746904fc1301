"""Reading video files frame by frame, and writing them whole."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import replacing
from edgeface.errors import ImageTooLargeError, InputError, OutputError
from edgeface.image_headers import MAX_MEGAPIXELS

_FALLBACK_FPS = 25.0
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
_MAGICS = re.compile(
    rb".{4}ftyp(?!heic|heix|mif1|msf1|avif|avis)|.{4}moov|RIFF.{4}AVI |\x1a\x45\xdf\xa3"
    rb"|\x47.{187}\x47|\0\0\x01\xba|FLV\x01|OggS|\x30\x26\xb2\x75",
    re.DOTALL,
)
SNIFF_BYTES = 256


@dataclass(frozen=True)
class Frame:
    """One frame of a video: uint8 (H, W, 3) BGR, its index from 0 and its time from the start in seconds."""

    index: int
    time_s: float
    image: NDArray[np.uint8]


class Video:
    """A video file that is known to be whole as far as its container says.

    ``fps`` is what the container says (25 when it says nothing); ``frames_claimed`` too, and it may be wrong: edit
    lists and unfinished recordings make it so.
    """

    def __init__(self, path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> None:
        """Raises InputError when the file cannot be opened as a video or is cut short, ImageTooLargeError when a frame
        has more than ``max_megapixels`` million pixels."""
        self.path = path
        _check_whole(path)
        # An absolute path, so that no file name is taken for a protocol.
        self._capture = cv2.VideoCapture(str(path.resolve()))
        if not self._capture.isOpened():
            raise InputError(f"{path}: cannot be read as a video: damaged, or of an unknown kind: convert it to MP4")
        width_px, height_px = (
            int(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width_px * height_px > max_megapixels * 1e6:
            raise ImageTooLargeError(
                f"{path}: frames of {width_px} x {height_px} are more than {max_megapixels:.4g} megapixels: "
                "shrink it, or raise --max-megapixels"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and fps > 0 else _FALLBACK_FPS
        self.frames_claimed = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[Frame]:
        """Every frame in order, once; raises InputError when there is none."""
        index = 0
        try:
            while True:
                done, image = self._capture.read()
                if not done:
                    break
                time_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                yield Frame(index, time_ms / 1e3 if time_ms > 0 else index / self.fps, _as_pixels(image))
                index += 1
        finally:
            self._capture.release()
        if not index:
            raise InputError(f"{self.path}: not one frame can be read: the video is damaged: convert it to MP4")


class VideoSink:
    """Takes frames of one size; made by writing_video()."""

    def __init__(self, path: Path, temporary: Path, fps: float) -> None:
        self._path = path
        self._temporary = temporary
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._frames = 0

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append uint8 (H, W, 3) BGR; raises OutputError when the encoder refuses the size."""
        height_px, width_px = image.shape[:2]
        if self._writer is None:
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary.resolve()), fourcc, self._fps, (width_px, height_px))
        if not self._writer.isOpened():
            raise OutputError(
                f"{self._path}: OpenCV cannot write {width_px} x {height_px} pixels as MP4, or the disk is full: "
                "use --no-draw, or free some space"
            )
        self._writer.write(image)
        self._frames += 1

    def finish(self) -> None:
        """Close the file and read back that it is complete, since OpenCV's writer reports no error of the disk."""
        if self._writer is None:
            raise OutputError(f"{self._path}: no frame was written")
        self._writer.release()
        check = cv2.VideoCapture(str(self._temporary.resolve()))
        complete = check.isOpened() and int(check.get(cv2.CAP_PROP_FRAME_COUNT)) == self._frames
        check.release()
        if not complete:
            raise OutputError(f"{self._path}: cannot be written whole: free some space, or choose another place")

    def close(self) -> None:
        """Let go of the encoder, after an error too."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def writing_video(path: Path, fps: float) -> Iterator[VideoSink]:
    """An MP4 (``mp4v``, no sound) that appears at ``path`` when the block ends without an error; raises OutputError."""
    with replacing(path) as temporary:
        sink = VideoSink(path, temporary, fps)
        try:
            yield sink
            sink.finish()
        finally:
            sink.close()


def is_video(start: bytes) -> bool:
    """Whether the first SNIFF_BYTES of a file are those of a video container."""
    return _MAGICS.match(start) is not None


def _as_pixels(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image, dtype=np.uint8)


def _check_whole(path: Path) -> None:
    """Raise InputError when the container announces more bytes than the file has; streams that announce none pass."""
    try:
        with path.open("rb") as stream:
            cut_short = _ends_early(stream, path.stat().st_size)
    except struct.error:
        cut_short = True
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}: check the file") from None
    if cut_short:
        raise InputError(f"{path}: the video is cut short: copy it again, or repair it with a video tool")


def _ends_early(stream: BinaryIO, size_bytes: int) -> bool:
    start = stream.read(4096)
    if start[:4] == b"RIFF":
        return bool(struct.unpack_from("<I", start, 4)[0] > size_bytes)
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_end(start) > size_bytes
    if start[4:8] not in (b"ftyp", b"moov"):
        return False
    at, has_index = 0, False
    while at < size_bytes:
        stream.seek(at)
        box = stream.read(16)
        length, name = struct.unpack_from(">I4s", box)
        if length == 1:
            (length,) = struct.unpack_from(">Q", box, 8)
        has_index = has_index or name == b"moov"
        if not length:
            break
        at += length
        if length < 8 or at > size_bytes:
            return True
    return not has_index


def _matroska_end(start: bytes) -> int:
    """Where the segment must end, 0 when it does not say."""
    at = start.find(_MATROSKA_SEGMENT) + len(_MATROSKA_SEGMENT)
    if at < len(_MATROSKA_SEGMENT) or at >= len(start) or not start[at]:
        return 0
    width = 9 - start[at].bit_length()
    length = int.from_bytes(start[at : at + width], "big") & ((1 << 7 * width) - 1)
    return 0 if length == (1 << 7 * width) - 1 else at + width + length
