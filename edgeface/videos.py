"""Reading video files frame by frame."""

from __future__ import annotations

import base64
import math
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import refused
from edgeface.errors import ImageTooLargeError, InputError
from edgeface.file_kinds import open_regular
from edgeface.image_headers import MAX_MEGAPIXELS
from edgeface.mjpeg import JPEG_START
from edgeface.motion_jpeg import jpeg_frames
from edgeface.opencv_files import open_name
from edgeface.video_sizes import SizeChanges

_FALLBACK_FPS = 25.0
# How OpenCV turns the frames of a container that says by how many degrees.
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_CONVERT = "convert it to MP4 with H.264 (ffmpeg -i IN -c:v libx264 OUT.mp4)"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
# Codecs, by their four letters in lower case, that every FFmpeg decodes: where it gives no frame, the file is damaged.
_DECODED = frozenset((
    "avc1", "h264", "x264", "hevc", "hev1", "hvc1", "mjpg", "jpeg", "mp4v", "xvid", "divx", "fmp4", "mpg1", "mpg2",
    "vp80", "vp90", "vp08", "vp09", "flv1", "wmv1", "wmv2", "wmv3", "h263", "theo", "png ", "ffv1", "i420", "yuy2",
))
_CODEC_NAMES = {"av01": "AV1", "vvc1": "H.266 (VVC)", "vvi1": "H.266 (VVC)", "evc1": "EVC", "lvc1": "LCEVC"}
# One frame of 64 x 64 grey pixels, by which an OpenCV that decodes AV1 is told from one that does not.
_AV1 = base64.b64decode(
    "REtJRgAAIABBVjAxQABAAAEAAAABAAAAAQAAAAAAAAAdAAAAAAAAAAAAAAASAAoKAAAAAq//jV8wCDINEAD6gj//HEMAAAgBEA=="
)


@dataclass(frozen=True)
class Frame:
    """One frame of a video: uint8 (H, W, 3) BGR, its index from 0 and its time from the start in seconds."""

    index: int
    time_s: float
    image: NDArray[np.uint8]


class Video:
    """A video file that is known to be whole as far as its container says.

    ``fps`` is what the container says (25 when it says nothing); ``frames_claimed`` too, and it may be wrong: edit
    lists and unfinished recordings make it so. ``damaged`` counts pictures that were left out so far, which only a
    recording of bare JPEGs tells.
    """

    def __init__(self, path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> None:
        """Raises InputError when the file cannot be opened as a video or is cut short, ImageTooLargeError when a frame
        has more than ``max_megapixels`` million pixels."""
        self.path = path
        self.damaged = 0
        with open_regular(path) as stream:
            self._max_megapixels = max_megapixels
            self._is_jpegs = stream.read(len(JPEG_START)) == JPEG_START
            stream.seek(0)
            _check_whole(path, stream)
            self._capture = _opened(stream)
            if not self._capture.isOpened():
                why = _why_not(stream) or "no picture, and cannot be read as a video: damaged, or of an unknown kind"
                raise InputError(f"{path}: {why}: {_CONVERT}")
            self._turned = int(self._capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
            self._changes = SizeChanges(stream, self._coded_px())
        self._check_pixels(self._capture)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and fps > 0 else _FALLBACK_FPS
        self.frames_claimed = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[Frame]:
        """Every frame in order, once, each of its own size; raises InputError when there is none, saying whether it is
        damaged."""
        has_any = False
        try:
            for frame in self._jpegs() if self._is_jpegs else self._decoded():
                has_any = True
                yield frame
        finally:
            self._capture.release()
            self._changes.close()
        if not has_any:
            with open_regular(self.path) as stream:
                why = _why_not(stream)
            raise InputError(f"{self.path}: {why or 'not one frame can be read: the video is damaged'}: {_CONVERT}")

    def _jpegs(self) -> Iterator[Frame]:
        # OpenCV would bring all of a recording's pictures to the size of the first.
        index = 0
        for jpeg in jpeg_frames(self.path, self._max_megapixels):
            if jpeg is None:
                self.damaged += 1
                continue
            yield Frame(index, index / self.fps, jpeg)
            index += 1

    def _decoded(self) -> Iterator[Frame]:
        index = 0
        while not self._changes.reached(index):
            done, image = self._capture.read()
            if not done:
                return
            time_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
            yield Frame(index, time_ms / 1e3 if time_ms > 0 else index / self.fps, _as_pixels(image))
            index += 1
        turn = _TURNS.get(self._turned)
        for part in self._parts():
            capture = _opened(part)
            try:
                self._check_pixels(capture)
                while True:
                    done, image = capture.read()
                    if not done:
                        break
                    upright = image if turn is None else cv2.rotate(image, turn)
                    yield Frame(index, index / self.fps, _as_pixels(upright))
                    index += 1
            finally:
                capture.release()

    def _parts(self) -> Iterator[BinaryIO]:
        try:
            yield from self._changes.parts()
        except OSError as error:
            raise refused(Path(tempfile.gettempdir()), error) from None

    def _coded_px(self) -> tuple[int, int]:
        """Width and height before the frames are turned."""
        width_px, height_px = (
            int(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        return (height_px, width_px) if self._turned in (90, 270) else (width_px, height_px)

    def _check_pixels(self, capture: cv2.VideoCapture) -> None:
        width_px, height_px = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width_px * height_px > self._max_megapixels * 1e6:
            raise ImageTooLargeError(
                f"{self.path}: frames of {width_px} x {height_px} are more than {self._max_megapixels:.4g} megapixels: "
                "shrink it, or raise --max-megapixels"
            )


def _opened(stream: BinaryIO, *settings: int) -> cv2.VideoCapture:
    # FFmpeg alone: another reader would take digits in a name for a sequence of pictures.
    return cv2.VideoCapture(open_name(stream), cv2.CAP_FFMPEG, settings)


def _why_not(stream: BinaryIO) -> str:
    """Why no frame comes of a video, where OpenCV has no decoder for it; empty where that is not the reason."""
    packets = _opened(stream, cv2.CAP_PROP_FORMAT, -1)
    if not packets.isOpened() or not packets.grab():
        return ""
    letters = int(packets.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
    packets.release()
    codec = letters.lower()
    if codec in _DECODED or (codec == "av01" and _decodes_av1()):
        return ""
    name = _CODEC_NAMES.get(codec, letters if letters.isprintable() and letters.strip() else "its codec")
    return f"OpenCV {cv2.__version__} here has no decoder for {name}"


def _decodes_av1() -> bool:
    with os.fdopen(os.memfd_create("edgeface-av1"), "w+b") as sample:
        sample.write(_AV1)
        sample.flush()
        capture = _opened(sample)
        done, _ = capture.read()
        capture.release()
    return bool(done)


def _as_pixels(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image, dtype=np.uint8)


def _check_whole(path: Path, stream: BinaryIO) -> None:
    """Raise InputError when the container announces more bytes than the file has; streams that announce none pass."""
    try:
        cut_short = _ends_early(stream, os.fstat(stream.fileno()).st_size)
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
