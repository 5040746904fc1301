"""The sink ``video``: an MP4 with what was found drawn into it."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeface.drawing import draw_faces
from edgeface.errors import EdgefaceError, OptionError, OutputError
from edgeface.stream.blur import blurred
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext, sink
from edgeface.stream.sinks.queued import Queued
from edgeface.videos import VideoSink, writing_video

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUFFIX = ".mp4"
_DEFAULT_FPS = 25.0
_CAPACITY = 8
_LONGEST_STILL_S = 2.0

_log = logging.getLogger("edgeface.stream")


class VideoFile:
    """Draws and writes results, one frame each at ``fps``; with ``in_time`` each is shown as long as it lasted: it is
    repeated until the next one was taken, for 2 seconds at most, and left out where more come than ``fps``.

    The file appears when the run ends. A frame of another size is brought into the first one's, and the log says so. A
    disk that takes no more is logged; nothing is written from then on, the run goes on, and its end says it once more.
    """

    def __init__(self, path: Path, fps: float, *, in_time: bool = False, hide_faces: bool = False) -> None:
        """Raises OutputError when the folder does not take the file."""
        self._path = path
        self._hide_faces = hide_faces
        self._stack = ExitStack()
        self._writer: VideoSink | None = self._stack.enter_context(writing_video(path, fps))
        self._error: EdgefaceError | None = None
        self._said = 0
        self._fps = fps
        self._in_time = in_time
        self._start_s = 0.0
        self._written = 0
        self._last: NDArray[np.uint8] | None = None

    def put(self, shot: Shot, result: Result) -> None:
        due = self._frames_due(shot)
        if self._writer is None or due < 1:
            return
        image = blurred(shot.image, result.boxes_to_hide) if self._hide_faces else shot.image
        drawn = draw_faces(image, result.faces)
        before = drawn if self._last is None else self._last
        try:
            for frame in [before] * (due - 1) + [drawn]:
                self._writer.write(frame)
            for remark in self._writer.remarks[self._said :]:
                _log.warning("%s: %s", self._path, remark)
            self._said = len(self._writer.remarks)
        except OutputError as error:
            self._give_up(error)
        self._last = drawn
        self._written += due

    def status(self, status: Status) -> None:
        """The picture does not say it."""

    def close(self) -> None:
        """Let the file appear. Raises OutputError when it could not be written whole, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._writer is None:
            return
        is_empty, self._writer = self._last is None, None
        if is_empty:
            self._stack.__exit__(OutputError, OutputError("no frame"), None)
            return
        self._stack.close()

    def _frames_due(self, shot: Shot) -> int:
        """How many frames the file lacks up to this shot, itself among them."""
        if not self._in_time:
            return 1
        now_s = shot.taken_monotonic_ns / 1e9
        if not self._written:
            self._start_s = now_s
        due = round((now_s - self._start_s) * self._fps) - self._written + 1
        most = math.ceil(_LONGEST_STILL_S * self._fps)
        if due > most:
            self._start_s += (due - most) / self._fps
        return min(due, most)

    def _give_up(self, error: EdgefaceError) -> None:
        _log.warning("%s; the run goes on without it", error)
        self._writer, self._error = None, error
        with suppress(EdgefaceError):
            self._stack.__exit__(type(error), error, None)


def video_path(target: str) -> Path:
    """The file that ``target`` names; raises OptionError for a suffix that it cannot have."""
    path = Path(target)
    if path.suffix.lower() != _SUFFIX:
        raise OptionError(f"{target}: videos are written as {_SUFFIX}: name it so")
    return path


@sink("video")
def open_video(target: str, context: SinkContext) -> Queued:
    """An MP4 at ``target``. Raises OptionError for another suffix and OutputError."""
    video = VideoFile(
        video_path(target), context.fps or _DEFAULT_FPS, in_time=not context.lossless, hide_faces=context.hide_faces
    )
    return Queued(video, "video", capacity=_CAPACITY, lossless=context.lossless)
