"""The sink ``video``: what was found drawn into videos that browsers play."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import numpy as np

from edgeface.drawing import draw_faces
from edgeface.errors import EdgefaceError, OutputError
from edgeface.stream.blur import blurred
from edgeface.stream.recordings import Recordings
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext, sink
from edgeface.stream.sinks.queued import CLOSE_S, Queued

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEFAULT_FPS = 25.0
_CAPACITY = 8
_LONGEST_STILL_S = 2.0
_LOSSLESS_CLOSE_S = 60.0
# Of a file in a folder of them.
PIECE_S = 600.0

_log = logging.getLogger("edgeface.stream")


class VideoFile:
    """Draws and writes results, one frame each at ``fps``; with ``in_time`` each is shown as long as it lasted: it is
    repeated until the next one was taken, for 2 seconds at most, and left out where more come than ``fps``.

    A file has its name when the run ends; in a folder a new one begins after PIECE_S seconds and where frames have
    another size, and the oldest go then, which a line says at the start. In one file a frame of another size is
    brought into the first one's, and the log says so. A disk that takes no more is logged; nothing is written from then
    on, the run goes on, and its end says it once more.
    """

    def __init__(
        self, recordings: Recordings, fps: float, *, in_time: bool = False, hide_faces: bool = False
    ) -> None:
        """Raises OutputError when the folder does not take the file."""
        recordings.prepare()
        self._recordings = recordings
        self._hide_faces = hide_faces
        self._fps = fps
        self._in_time = in_time
        self._error: EdgefaceError | None = None
        self._piece: _Piece | None = _Piece(recordings, fps)
        _log.info("%s: %s", f"{recordings.path}/" if recordings.is_folder else recordings.path, recordings.encoding)
        if recordings.is_folder:
            _log.info("%s/: recordings are deleted that are %s", recordings.path, recordings.limits.text)
            recordings.trim()

    def put(self, shot: Shot, result: Result) -> None:
        if self._piece is None:
            return
        try:
            if self._recordings.is_folder and self._piece.is_over(shot):
                self._piece.end()
                self._recordings.trim()
                self._piece = _Piece(self._recordings, self._fps)
            due = self._piece.frames_due(shot) if self._in_time else 1
            if due >= 1:
                image = blurred(shot.image, result.boxes_to_hide) if self._hide_faces else shot.image
                self._piece.add(draw_faces(image, result.faces), due)
        except OutputError as error:
            _log.warning("%s; the run goes on without it", error)
            self._piece.give_up(error)
            self._piece, self._error = None, error

    def status(self, status: Status) -> None:
        """The picture does not say it."""

    def close(self) -> None:
        """Let the file have its name. Raises OutputError when it could not be written whole, once."""
        error, self._error = self._error, None
        piece, self._piece = self._piece, None
        if error is not None:
            raise error
        if piece is not None:
            piece.end()


class _Piece:
    """One file."""

    def __init__(self, recordings: Recordings, fps: float) -> None:
        self._fps = fps
        self._start_s = 0.0
        self._written = 0
        self._last: NDArray[np.uint8] | None = None
        self._said = 0
        self._stack = ExitStack()
        self._writer = self._stack.enter_context(recordings.recording(fps))

    def is_over(self, shot: Shot) -> bool:
        """Whether this shot begins the next one."""
        return self._last is not None and (
            self._last.shape != shot.image.shape or self._written >= PIECE_S * self._fps
        )

    def frames_due(self, shot: Shot) -> int:
        """How many frames the file lacks up to this shot, itself among them."""
        now_s = shot.taken_monotonic_ns / 1e9
        if not self._written:
            self._start_s = now_s
        due = round((now_s - self._start_s) * self._fps) - self._written + 1
        most = math.ceil(_LONGEST_STILL_S * self._fps)
        if due > most:
            self._start_s += (due - most) / self._fps
        return min(due, most)

    def add(self, drawn: NDArray[np.uint8], frames: int) -> None:
        """The picture before once more for all of the ``frames`` but the last, which is this one."""
        before = drawn if self._last is None else self._last
        for frame in [before] * (frames - 1) + [drawn]:
            self._writer.write(frame)
        for remark in self._writer.remarks[self._said :]:
            _log.warning("%s: %s", self._writer.path, remark)
        self._said = len(self._writer.remarks)
        self._last = drawn
        self._written += frames

    def end(self) -> None:
        """Give it its name; one without a frame is gone."""
        if self._last is None:
            self.give_up(OutputError("no frame"))
        else:
            self._stack.close()

    def give_up(self, error: OutputError) -> None:
        """Leave it as it is."""
        with suppress(EdgefaceError):
            self._stack.__exit__(type(error), error, None)


@sink("video")
def open_video(target: str, context: SinkContext) -> Queued:
    """A recording at ``target``, a file or a folder. Raises OptionError for another suffix and OutputError."""
    video = VideoFile(
        context.recordings or Recordings(target), context.fps or _DEFAULT_FPS, in_time=not context.lossless,
        hide_faces=context.hide_faces,
    )
    # Where every frame counts, the end waits for the encoder; Ctrl-C does not.
    close_s = _LOSSLESS_CLOSE_S if context.lossless else CLOSE_S
    return Queued(video, "video", capacity=_CAPACITY, lossless=context.lossless, close_s=close_s)
