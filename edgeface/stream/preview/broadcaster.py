"""The newest picture with all that belongs to it, for any number of viewers; a slow one sees fewer, never old ones."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import cv2
import msgspec

from edgeface.drawing import head_axes
from edgeface.stream.blur import blurred
from edgeface.stream.controls import Controls
from edgeface.stream.results import Result, frame_record, status_record
from edgeface.stream.shots import Shot, Status
from edgeface.stream.thermometer import Thermometer

RATE_WINDOW_S = 3.0


@dataclass(frozen=True)
class Picture:
    """``number`` rises from 1; ``message`` is 4 bytes with the header's length (little endian), the header as JSON,
    and the picture as a JPEG.

    In the header ``frame`` is the record of one frame as in docs/camera.md, ``axes`` the ends of each head's three axes
    (see ``drawing.head_axes``) or null, and ``state`` the broadcaster's. When only that has changed, ``frame`` is null
    and there is no JPEG.
    """

    number: int
    message: bytes


class Broadcaster:
    """Takes results from the loop's thread and hands pictures to coroutines of one event loop.

    ``jpeg_quality`` is OpenCV's, 0 to 100; ``hide_faces`` blurs every face before the picture is compressed;
    ``thermometer`` is asked how warm it is. Nothing is compressed while nobody looks.
    """

    def __init__(
        self,
        source: str,
        controls: Controls | None,
        *,
        jpeg_quality: int = 80,
        hide_faces: bool = False,
        thermometer: Thermometer | None = None,
    ) -> None:
        self.viewers = 0
        self._source = source
        self._controls = controls
        self._jpeg_quality = jpeg_quality
        self._hide_faces = hide_faces
        self._thermometer = thermometer
        self._status: dict[str, Any] | None = None
        self._moments: deque[float] = deque()
        self._latest: tuple[Shot, Result] | None = None
        self._has_picture = False   # ``_latest`` was not compressed yet
        self._is_shown = True       # there is nothing new to tell viewers
        self._newest: Picture | None = None
        self._lock = threading.Condition()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._compress, name="edgeface-preview-jpeg", daemon=True)
        self._thread.start()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand pictures to the coroutines of ``loop`` from now on; called in it, once."""
        self._arrived = asyncio.Event()
        self._loop = loop

    def put(self, shot: Shot, result: Result) -> None:
        """Take the newest result; an older one that nobody has taken up is replaced."""
        with self._lock:
            self._recent_moments().append(monotonic())
            self._latest, self._has_picture = (shot, result), True
            self._is_shown = False
            self._lock.notify()

    def status(self, status: Status) -> None:
        """Take the source's state; viewers get it at once."""
        with self._lock:
            self._status = status_record(self._source, status)
            self._is_shown = False
            self._lock.notify()

    async def newer(self, than: int) -> Picture | None:
        """The newest picture once its number is over ``than``; None when the broadcaster closes."""
        assert self._arrived is not None
        while not self._closing:
            with self._lock:
                newest = self._newest
            if newest is not None and newest.number > than:
                return newest
            await self._arrived.wait()
        return None

    def record(self) -> dict[str, Any] | None:
        """The record of the newest frame, whether anybody looks or not; None before the first."""
        with self._lock:
            latest = self._latest
        return None if latest is None else frame_record(*latest)

    def state(self) -> dict[str, Any]:
        """What holds whatever the picture: source, rate, settings, machine, viewers, and the time here."""
        with self._lock:
            moments = self._recent_moments()
            rate = (len(moments) - 1) / (monotonic() - moments[0]) if len(moments) > 1 else 0.0
            status = self._status
        settings = None if self._controls is None else self._controls.settings._asdict()
        return {
            "source": self._source, "status": status, "fps": round(rate, 1), "settings": settings,
            "machine": None if self._thermometer is None else self._thermometer.look().record(),
            "viewers": self.viewers, "now": time(),
        }

    def close(self) -> None:
        """Let every waiting coroutine and the thread end; safe to call twice."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._wake()
        self._thread.join(1.0)

    def _recent_moments(self) -> deque[float]:
        """When results came, without those that no longer count; with the lock held. Nobody may be looking for days.
        """
        oldest_s = monotonic() - RATE_WINDOW_S
        while self._moments and self._moments[0] < oldest_s:
            self._moments.popleft()
        return self._moments

    def _compress(self) -> None:
        while True:
            with self._lock:
                while not self._closing and (self._is_shown or not self.viewers):
                    # Not for ever: that the first viewer has come is seen here, and nowhere called.
                    self._lock.wait(0.1)
                if self._closing:
                    return
                latest = self._latest if self._has_picture else None
                self._has_picture, self._is_shown = False, True
            header: dict[str, Any] = {"frame": None, "axes": None, "state": self.state()}
            jpeg = b""
            if latest is not None:
                pose = latest[1].faces.pose
                header["frame"] = frame_record(*latest)
                header["axes"] = None if pose is None else [head_axes(angles).tolist() for angles in pose]
                jpeg = self._jpeg(*latest)
            encoded = msgspec.json.encode(header)
            with self._lock:
                number = 1 if self._newest is None else self._newest.number + 1
                self._newest = Picture(number, struct.pack("<I", len(encoded)) + encoded + jpeg)
            self._wake()

    def _jpeg(self, shot: Shot, result: Result) -> bytes:
        image = blurred(shot.image, result.boxes_to_hide) if self._hide_faces else shot.image
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality])
        content: bytes = jpeg.tobytes()
        return content

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):    # the server is closed, and its event loop with it
                self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        assert self._arrived is not None
        # All who wait wake up and look; whoever comes later waits on a new one.
        self._arrived.set()
        self._arrived = asyncio.Event()
