"""The sources ``file`` and ``folder``: videos and pictures, played at their own rate or as asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import InputError
from edgeface.file_kinds import file_kind
from edgeface.media_files import PICTURE_SUFFIXES, expand
from edgeface.stream.sources import Grab, Source, SourceSpec, check_options, source
from edgeface.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIBRARIES = ("cv2", "edgeface.videos", "edgeface.images")
FOLDER_FPS = 1.0
# A player that fell behind by more starts counting anew instead of racing to catch up.
_MOST_BEHIND_S = 0.5

_log = logging.getLogger("edgeface.stream")


class Pace:
    """Waits until a frame is due; the first is due at once."""

    def __init__(self) -> None:
        self._started_s: float | None = None

    def wait(self, time_s: float) -> None:
        """Sleep until ``time_s`` of the recording; times that go back start it again."""
        now_s = time.monotonic()
        if self._started_s is None or now_s - self._started_s - time_s > _MOST_BEHIND_S:
            self._started_s = now_s - time_s
        time.sleep(max(0.0, self._started_s + time_s - now_s))

    def restart(self) -> None:
        """Count from the next frame on."""
        self._started_s = None


class _Played:
    """Frames with their times in seconds, from ``frames``, each when it is due or as soon as it is asked for."""

    def __init__(self, frames: Iterator[tuple[float, NDArray[np.uint8]]], fps: float, *, paced: bool) -> None:
        self.fps: float | None = fps if paced else None
        self._frames = frames
        self._pace = Pace() if paced else None

    def read(self) -> Grab | None:
        from edgeface.frames import Frame

        time_s, image = next(self._frames, (0.0, None))
        if image is None:
            return None
        if self._pace is not None:
            self._pace.wait(time_s)
        return Grab(Frame(image, "bgr"), time.monotonic_ns())

    def close(self) -> None:
        self._frames = iter(())


@source("file")
def open_file(spec: SourceSpec) -> Source:
    """A video at its own rate or ``fps``, or a single picture as a folder of one.

    Raises InputError for what is no file, no video or cut short, and at its end when not one frame could be read.
    """
    from edgeface.videos import Video

    check_options(spec, "fps", "loop", "every_frame")
    path = Path(spec.address)
    if file_kind(path) == "picture":
        return open_folder(spec)
    video = Video(path)
    rate = spec.fps or video.fps

    def frames() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        playing, offset_s = video, 0.0
        while True:
            shown = 0
            for frame in playing.frames():
                yield offset_s + (frame.index / rate if spec.fps else frame.time_s), frame.image
                shown += 1
            if shown < playing.frames_claimed:
                _log.warning("%s: ends after %d of %d frames: the file is damaged", path, shown, playing.frames_claimed)
            if playing.damaged:
                _log.warning("%s: %s left out", path, counted(playing.damaged, "damaged frame"))
            if not spec.loop:
                return
            offset_s += shown / rate
            playing = Video(path)

    return _Played(frames(), rate, paced=not spec.every_frame)


@source("folder")
def open_folder(spec: SourceSpec) -> Source:
    """The pictures of a folder or pattern in order of name, one a second or ``fps`` of them.

    A picture that cannot be used is logged and left out. Raises InputError when there is none that can.
    """
    from edgeface.images import read_image

    check_options(spec, "fps", "loop", "every_frame")
    found = expand(spec.address)
    paths = [path for path in found if len(found) == 1 or path.suffix.lower() in PICTURE_SUFFIXES]
    fps = spec.fps or FOLDER_FPS

    def frames() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        shown = 0
        while True:
            before = shown
            for path in paths:
                try:
                    image = read_image(path)
                except InputError as error:
                    _log.warning("%s", error)
                    continue
                yield shown / fps, image
                shown += 1
            if shown == before:
                raise InputError(f"{spec.address}: no picture here can be used: check the folder")
            if not spec.loop:
                return

    return _Played(frames(), fps, paced=not spec.every_frame)
