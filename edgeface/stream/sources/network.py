"""The source ``rtsp``: streams by OpenCV's FFmpeg, which gives up a connection after a time."""

from __future__ import annotations

import io
import os
import re
import time
from typing import TYPE_CHECKING, Any

from edgeface.errors import SourceError
from edgeface.stream.sources import Grab, SourceSpec, check_options, live_frame, source

if TYPE_CHECKING:
    import cv2

LIBRARIES = ("cv2",)

# A little less than the supervisor's deadline (supervision.py), so that FFmpeg's own word comes first.
OPEN_TIMEOUT_MS = 8_000
# For reading the supervisor's patience counts, which users can choose; this is for a connection that nobody minds.
READ_TIMEOUT_MS = 120_000
_OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# TCP, since a lost packet is a grey picture otherwise; no buffer of FFmpeg's own, since only the newest frame counts.
_FFMPEG_OPTIONS = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
# FFmpeg tells of a new size in no other way: of H.264 which one, of H.265 and others that a decoder was set up anew.
_AV_LOG_DEBUG = "48"
_CODED_SIZE = re.compile(rb"Reinit context to (\d+)x(\d+)")
_SET_UP = re.compile(rb"Format \w+ chosen by get_format")
_STDERR = 2

# What FFmpeg writes of a refusal, and what to say of it.
_REASONS = (
    (rb"401 \(?Unauthorized|authorization failed", "the name or password is wrong: check both in the address"),
    (rb"403 \(?Forbidden", "this user may not see the stream: check the camera's settings"),
    (rb"404 \(?(Stream )?Not Found", "the server has no such stream: check the path in the address"),
    (rb"Connection refused", "nothing listens there: check address and port, and that the camera is on"),
    (rb"No route to host|Network is unreachable", "the network does not lead there: check the address and the network"),
    (rb"Failed to resolve hostname|Name or service not known", "no such host: check its name"),
    (rb"timed out|Immediate exit requested", "no answer in time: check the address, and that the camera is on"),
    (rb"Invalid data found|Failed reading RTSP", "what answers there sends no video: check port and path"),
)


class Stream:
    """An opened stream; its frames are stamped when they arrive, since few cameras say when they were taken."""

    def __init__(self, shown: str, capture: cv2.VideoCapture, said_before: int) -> None:
        """``said_before``: what standard error held before the stream was opened, in bytes."""
        import cv2

        self._shown = shown
        self._capture = capture
        self._read_to = said_before
        self._coded_size: tuple[bytes, ...] | None = None
        self._has_frame = False
        fps = capture.get(cv2.CAP_PROP_FPS)
        # FFmpeg makes up 25 for MJPEG, and anything for a broken header.
        self.fps: float | None = fps if 0 < fps <= 240 else None

    def read(self) -> Grab | None:
        import numpy as np

        done, image = self._capture.read()
        if not done:
            raise SourceError(f"{self._shown}: the stream stopped")
        self._check_size()
        self._has_frame = True
        return Grab(live_frame(np.asarray(image, np.uint8), "bgr", self._shown), time.monotonic_ns())

    def close(self) -> None:
        self._capture.release()

    def _check_size(self) -> None:
        """Raise SourceError when the size changed: OpenCV would bring every further picture to the first one's size."""
        length = _stderr_length()
        if length == self._read_to:
            return
        # Shorter than before: the capture process has cleared it.
        said = _stderr_since(self._read_to if length > self._read_to else 0)
        self._read_to = length
        for size in _CODED_SIZE.findall(said):
            before, self._coded_size = self._coded_size or size, size
            if size != before:
                raise SourceError(f"{self._shown}: its pictures have another size now: it is opened anew")
        if self._has_frame and self._coded_size is None and _SET_UP.search(said):
            raise SourceError(f"{self._shown}: its pictures are coded in another way now: it is opened anew")


@source("rtsp")
def open_stream(spec: SourceSpec) -> Stream:
    """Connect; raises SourceError with the reason as far as FFmpeg tells it."""
    check_options(spec)
    os.environ.setdefault(_OPTIONS_VARIABLE, _FFMPEG_OPTIONS)
    # Whatever the parent asked for: why a stream fails is read from what FFmpeg says.
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = _AV_LOG_DEBUG
    import cv2

    said_before = _stderr_length()
    capture = cv2.VideoCapture(spec.address, cv2.CAP_FFMPEG, [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS,
        # With more, FFmpeg holds back a frame for each thread.
        cv2.CAP_PROP_N_THREADS, 1,
    ])
    if not capture.isOpened():
        raise SourceError(f"{spec.shown}: {reason(_stderr_since(said_before))}")
    return Stream(spec.shown, capture, said_before)


def open_body(spec: SourceSpec, body: io.BufferedIOBase, ffmpeg_options: str) -> Stream:
    """A video that is read from ``body`` as it comes; raises SourceError when it is none that OpenCV reads."""
    import cv2

    # OpenCV's stubs name a class of its own, which files of Python need not be.
    stream: Any = body
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = _AV_LOG_DEBUG
    said_before = _stderr_length()
    own = os.environ.get(_OPTIONS_VARIABLE)
    os.environ[_OPTIONS_VARIABLE] = "|".join(filter(None, (own, ffmpeg_options)))
    try:
        capture = cv2.VideoCapture(stream, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    finally:
        if own is None:
            del os.environ[_OPTIONS_VARIABLE]
        else:
            os.environ[_OPTIONS_VARIABLE] = own
    if not capture.isOpened():
        raise SourceError(f"{spec.shown}: what it sends is no picture and no video: check the path in the address")
    return Stream(spec.shown, capture, said_before)


def reason(said: bytes) -> str:
    """Why FFmpeg could not open a stream, from what it wrote on standard error."""
    for pattern, text in _REASONS:
        if re.search(pattern, said, re.IGNORECASE):
            return text
    return "the stream cannot be opened: check the address, and that the camera is on"


def _stderr_length() -> int:
    # In the capture process standard error, and standard output with it, is a file in memory (process.py).
    try:
        return os.fstat(_STDERR).st_size
    except OSError:
        return 0


def _stderr_since(start: int) -> bytes:
    try:
        return os.pread(_STDERR, 1 << 16, start)
    except OSError:
        return b""
