"""The source ``http``: a camera's MJPEG or its newest picture, and videos, over HTTP."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from edgeface.errors import DamagedFrameError, SourceError
from edgeface.file_kinds import is_text
from edgeface.image_headers import is_picture
from edgeface.mjpeg import JPEG_START, MAX_PICTURE_BYTES, PictureSplitter
from edgeface.stream.sources import Grab, Source, SourceSpec, check_options, live_frame, source
from edgeface.stream.sources.network import open_body
from edgeface.stream.sources.pictures import Damage, PictureDecoder

if TYPE_CHECKING:
    from edgeface.frames import Frame
    from edgeface.stream.sources.http_client import Answer, HttpClient

LIBRARIES = ("cv2", "edgeface.stream.sources.http_client", "edgeface.image_headers")
# Pictures a second of an address that gives one each time.
STILL_FPS = 5.0
# From the connection to the first picture; a little less than the supervisor's deadline, so that our word comes first.
OPEN_S = 8.0
_SNIFF_BYTES = 256
# Containers that hold a video themselves: a playlist would name addresses that nobody gave.
_VIDEO_FORMATS = "mpegts,mpeg,flv,live_flv,mov,matroska,ogg,asf,avi,h264,hevc,m4v,ivf,mpegvideo"
_FFMPEG_OPTIONS = f"format_whitelist;{_VIDEO_FORMATS}|flags;low_delay"


class HttpCamera:
    """Pictures as they come, decoded here; where an answer holds a single one, the address is asked again and again."""

    def __init__(self, spec: SourceSpec, client: HttpClient, answer: Answer, start: bytes, asked_s: float) -> None:
        """``start``: what was read of the answer already, ``asked_s``: when it was asked for, by time.monotonic().

        Raises SourceError when no picture comes of it.
        """
        self.damage = Damage()
        self.fps: float | None = None
        self._shown = spec.shown
        self._client = client
        self._decoder = PictureDecoder(spec.shown)
        self._period_s = 1 / (spec.fps or STILL_FPS)
        self._asked_s = asked_s
        self._gives_up_s: float | None = asked_s + OPEN_S
        self._take(answer, start)
        self._first: Grab | None = self._next()
        self._gives_up_s = None
        if answer.content_type.startswith("image/") and answer.length is not None:
            # What takes its time is given it: the supervisor's patience counts from what is announced.
            self.fps = 1 / max(self._period_s, time.monotonic() - self._asked_s)

    def read(self) -> Grab | None:
        first, self._first = self._first, None
        return first or self._next()

    def close(self) -> None:
        self._answer.close()
        self._client.close()

    def _take(self, answer: Answer, start: bytes = b"") -> None:
        """Go on with a new answer."""
        self._answer = answer
        # A picture that is no JPEG ends where its answer does.
        is_whole = not answer.boundary and is_picture_file(start)
        self._splitter = None if is_whole else PictureSplitter(answer.boundary)
        self._file = bytearray()
        self._pictures: list[bytes] = []
        self._count = 0
        self._feed(start)

    def _next(self) -> Grab:
        while True:
            while not self._pictures:
                self._more()
            taken_ns = time.monotonic_ns()
            pictures, self._pictures = self._pictures, []
            frame = self._newest(pictures)
            if frame is not None:
                self.damage.end()
                return Grab(frame, taken_ns)

    def _newest(self, pictures: list[bytes]) -> Frame | None:
        """The last of those that came at once that is whole; the others are left out."""
        frame: Frame | None = None
        for data in reversed(pictures):
            try:
                if frame is None:
                    frame = live_frame(self._decoder.decode(data), "bgr", self._shown)
                else:
                    self._decoder.check(data)
            except DamagedFrameError as error:
                self.damage.count(error)
        return frame

    def _more(self) -> None:
        """Read on, and ask again at the end of an answer that was one picture."""
        if self._gives_up_s is not None and time.monotonic() > self._gives_up_s:
            if self.damage.last is not None:
                raise SourceError(f"{self.damage.last}: none in {OPEN_S:g} s that can be used")
            raise SourceError(
                f"{self._shown}: it answers, but no picture came in {OPEN_S:g} s: check the path in the address"
            )
        data = self._answer.read()
        if data:
            self._feed(data)
        else:
            self._end()

    def _feed(self, data: bytes) -> None:
        if self._splitter is not None:
            try:
                self._pictures = self._splitter.feed(data)
            except SourceError as error:
                raise SourceError(f"{self._shown}: {error}") from None
            self._count += len(self._pictures)
            return
        self._file += data
        if len(self._file) > MAX_PICTURE_BYTES:
            raise SourceError(f"{self._shown}: a picture of more than {MAX_PICTURE_BYTES >> 20} MiB is too large")

    def _end(self) -> None:
        """The answer is over: what is left of it, or else the next one."""
        self._pictures = [bytes(self._file)] if self._file else self._splitter.flush() if self._splitter else []
        self._file.clear()
        self._count += len(self._pictures)
        if self._pictures:
            return
        self._answer.close()
        if self._count != 1:
            what = "the stream stopped" if self._count else "it sends nothing: check the path in the address"
            raise SourceError(f"{self._shown}: {what}")
        time.sleep(max(0.0, self._asked_s + self._period_s - time.monotonic()))
        self._asked_s = time.monotonic()
        answer = self._client.get()
        self._take(answer, begin(answer))


class Body(io.BufferedIOBase):
    """An answer's content as a file that cannot go back, for OpenCV."""

    def __init__(self, answer: Answer, start: bytes) -> None:
        super().__init__()
        self._answer = answer
        self._start = start

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """What has come, at most ``size`` bytes."""
        try:
            data = self._start or self._answer.read()
        except SourceError:
            return b""
        most = len(data) if size is None or size < 0 else size
        self._start = data[most:]
        return data[:most]

    def seek(self, _offset: int, _whence: int = 0, /) -> int:
        return -1


@source("http")
def open_http(spec: SourceSpec) -> Source:
    """Connect and wait for the first picture; raises SourceError that says why there is none."""
    from edgeface.stream.sources.http_client import READ_TIMEOUT_S, HttpClient

    check_options(spec, "fps", "any_redirect", "any_certificate")
    client = HttpClient(spec, max(READ_TIMEOUT_S, spec.patience_s or 0.0))
    asked_s = time.monotonic()
    try:
        answer = client.get()
        start = begin(answer)
        if is_video_stream(answer, start):
            return open_body(spec, Body(answer, start), _FFMPEG_OPTIONS)
        check_pictures(spec, answer, start)
        return HttpCamera(spec, client, answer, start, asked_s)
    except BaseException:
        client.close()
        raise


def begin(answer: Answer) -> bytes:
    """As much of an answer as is needed to tell what it is."""
    start = b""
    while len(start) < _SNIFF_BYTES and JPEG_START not in start and (data := answer.read()):
        start += data
    return start


def is_picture_file(start: bytes) -> bool:
    """Whether an answer is a picture that is no JPEG."""
    return is_picture(start) and not start.startswith(JPEG_START)


def is_video_stream(answer: Answer, start: bytes) -> bool:
    """Whether an answer is a video for OpenCV, and neither pictures nor text."""
    if answer.content_type.startswith(("multipart/", "image/", "text/")) or JPEG_START in start or is_text(start):
        return False
    return bool(start) and not is_picture_file(start) and not start.lstrip(b"\r\n").startswith(b"--")


def check_pictures(spec: SourceSpec, answer: Answer, start: bytes) -> None:
    """Raise SourceError for an answer that holds no pictures."""
    if not start:
        raise SourceError(f"{spec.shown}: it sends nothing: check the path in the address")
    if answer.content_type.startswith(("multipart/", "image/")) or JPEG_START in start or not is_text(start):
        return
    if start.lstrip(b"\r\n").startswith(b"--"):
        return
    what = answer.content_type or "text"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        what = "a web page"
    elif start.startswith(b"#EXTM3U"):
        what = "a playlist (HLS)"
    raise SourceError(
        f"{spec.shown}: it sends {what} and no pictures: check the path in the address, and whether it wants a login"
    )
