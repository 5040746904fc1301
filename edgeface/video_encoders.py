"""How videos are written here: H.264 that every browser plays where ffmpeg or PyAV is there, else VP8.

OpenCV's wheels hold no encoder for H.264, and browsers play nothing else of what its MP4 writer makes. What is there
is chosen anew for each video, so that an ffmpeg that is installed meanwhile counts.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import refused
from edgeface.children import woken_with_parent
from edgeface.errors import OutputError
from edgeface.opencv_files import folder_name

MP4, WEBM = ".mp4", ".webm"
_X264 = "libx264"
_ADVICE = "for H.264, in less time: sudo apt install ffmpeg, or pip install \"edgeface[video]\""
_ASK_S = 10.0
# An encoder that takes no byte of a picture, or whose file does not change at the end, for so long hangs.
HANG_S = 30.0
_LAST_S = 0.8
_PIPE_BYTES = 1 << 20
_STDERR = 2
_QUALITY = {"crf": "23"}
# To be sought in, the index stands first. Written to the disk while it lasts, so one frame after the other and in
# pieces that stand for themselves, each from a whole picture on: what is there plays when the power goes.
_FILED = {"preset": "veryfast"}
_FILED_FLAGS = "+faststart"
_LIVE = {"preset": "ultrafast", "tune": "zerolatency"}
_LIVE_FLAGS = "+frag_keyframe+empty_moov+default_base_moof"
_PIECE_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What an encoder is to write: to the file ``temporary``, which errors call ``shown``, at ``fps`` frames a second
    of ``size_px`` (width, height), both even. ``live``: what is written so far can be played at any time."""

    temporary: Path
    shown: Path
    fps: float
    size_px: tuple[int, int]
    live: bool

    @property
    def rate(self) -> Fraction:
        """``fps`` as containers hold it."""
        return max(Fraction(self.fps).limit_denominator(1001), Fraction(1, 1001))

    @property
    def settings(self) -> dict[str, str]:
        """What x264 is told."""
        group = {"g": str(max(1, round(_PIECE_S * self.fps)))} if self.live else {}
        return {**(_LIVE if self.live else _FILED), **_QUALITY, **group}

    @property
    def flags(self) -> str:
        """What FFmpeg's MP4 writer is told."""
        return _LIVE_FLAGS if self.live else _FILED_FLAGS


class Encoder(Protocol):
    """Writes one video. Every call raises OutputError where it cannot go on."""

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append uint8 (H, W, 3) BGR of the plan's size."""

    def end(self) -> None:
        """Begin to finish: no picture follows."""

    def finish(self) -> None:
        """Write what is left and the index; nothing can be written from then on."""

    def close(self) -> None:
        """Let go of everything at once, whatever state it is in."""


@dataclass(frozen=True)
class Encoding:
    """One way to write videos: ``codec`` and ``by`` whom, the ``suffix`` of its files, and what would be better.
    ``reports``: it says so itself when the disk takes no more."""

    codec: str
    by: str
    suffix: str
    open: Callable[[Plan], Encoder]
    advice: str = ""
    reports: bool = True

    def __str__(self) -> str:
        return f"{self.codec} by {self.by}" + (f" ({self.advice})" if self.advice else "")


def video_encoding(suffix: str = MP4) -> Encoding:
    """The best way that is there to write a video for a name with ``suffix``: for .mp4 H.264, else VP8 in a .webm."""
    if suffix != WEBM:
        program = shutil.which("ffmpeg")
        if program is not None and _has_x264(program):
            return Encoding("H.264", "ffmpeg", MP4, lambda plan: _Ffmpeg(program, plan))
        if find_spec("av") is not None and _pyav_has_x264():
            return Encoding("H.264", "PyAV", MP4, _Pyav)
    return Encoding("VP8", "OpenCV", WEBM, _Vp8, "" if suffix == WEBM else _ADVICE, reports=False)


@cache
def _has_x264(program: str) -> bool:
    with suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            [program, "-hide_banner", "-h", f"encoder={_X264}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=_ASK_S, check=False,
        )
        return f"Encoder {_X264}".encode() in asked.stdout
    return False


@cache
def _pyav_has_x264() -> bool:
    with suppress(Exception):   # a PyAV that does not load is none
        import av

        return _X264 in av.codecs_available
    return False


def _planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Y, U and V by BT.601, limited range, as one array (H * 3 / 2, W)."""
    return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)


class _Ffmpeg:
    """The program ``ffmpeg``, which gets raw frames on its standard input."""

    def __init__(self, program: str, plan: Plan) -> None:
        self._plan = plan
        width_px, height_px = plan.size_px
        colours = ["-color_range", "tv", "-colorspace", "smpte170m"]
        told: list[str] = []
        for name, value in plan.settings.items():
            told += [f"-{name}", value]
        command = [
            program, "-nostdin", "-hide_banner", "-loglevel", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", f"{width_px}x{height_px}",
            "-framerate", str(plan.rate), *colours, "-i", "pipe:0",
            # One thread: the others are the detector's.
            "-c:v", _X264, *told, "-threads", "1", "-pix_fmt", "yuv420p", *colours,
            "-movflags", plan.flags, "-flush_packets", "1", "-f", "mp4",
        ]
        with ExitStack() as stack:
            self._notes = stack.enter_context(tempfile.TemporaryFile())
            try:
                # By its number: it may have its last name before ffmpeg has come to open it.
                target = os.open(plan.temporary, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, target)
                # A session of its own: the terminal's Ctrl-C is ours, and the frames up to there are to be kept.
                self._process = subprocess.Popen(
                    woken_with_parent([*command, f"file:/proc/self/fd/{target}"]), stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=self._notes, bufsize=0, start_new_session=True,
                    pass_fds=(target,),
                )
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise OutputError(f"{plan.shown}: {program} does not start: {reason}") from None
            os.close(target)
            stack.pop_all()
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)
        with suppress(OSError):     # beyond what the system allows a user
            fcntl(self._pipe.fileno(), F_SETPIPE_SZ, _PIPE_BYTES)
        self._room = select.poll()
        self._room.register(self._pipe.fileno(), select.POLLOUT)

    def write(self, image: NDArray[np.uint8]) -> None:
        left = memoryview(_planes(image).tobytes())
        while left:
            if not self._room.poll(HANG_S * 1e3):
                self._process.kill()
                raise self._failed(f"took no picture for {HANG_S:.0f} s")
            try:
                left = left[os.write(self._pipe.fileno(), left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self._wait()
                raise self._failed(f"ended with code {self._process.returncode}") from None

    def end(self) -> None:
        self._pipe.close()

    def finish(self) -> None:
        self.end()
        self._wait()
        if self._process.returncode:
            raise self._failed(f"ended with code {self._process.returncode}")

    def close(self) -> None:
        with suppress(OSError):
            self._pipe.close()
        # What a recording has is to stay, a moment's last frames among it.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_S if self._plan.live else 0)
        self._process.kill()
        self._process.wait()
        self._notes.close()

    def _wait(self) -> None:
        """Wait for its end as long as its file changes: moving a long video's index to its start takes a while."""
        before, since_s = self._look(), monotonic()
        while True:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
                return
            now = self._look()
            if now != before:
                before, since_s = now, monotonic()
            elif monotonic() - since_s > HANG_S:
                self._process.kill()
                self._process.wait()
                raise self._failed(f"wrote nothing for {HANG_S:.0f} s and did not end")

    def _look(self) -> tuple[int, int]:
        with suppress(OSError):
            seen = self._plan.temporary.stat()
            return seen.st_size, seen.st_mtime_ns
        return 0, 0

    def _failed(self, what: str) -> OutputError:
        """The error for what it did, with the last that it said; a full disk is called so."""
        self._notes.seek(0)
        lines = [line.strip() for line in self._notes.read().decode("utf-8", "replace").splitlines() if line.strip()]
        for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            if any(os.strerror(number) in line for line in lines):
                return refused(self._plan.shown, OSError(number, os.strerror(number)))
        if self._process.poll() == -signal.SIGXFSZ:
            return refused(self._plan.shown, OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
        said = f" ({lines[-1]})" if lines else ""
        return OutputError(f"{self._plan.shown}: ffmpeg {what}{said}: try again, or see whether 'ffmpeg' works here")


class _Pyav:
    """The package PyAV, which holds FFmpeg."""

    def __init__(self, plan: Plan) -> None:
        import av

        self._plan = plan
        self._error: type[Exception] = av.FFmpegError
        self._frame: Any = av.VideoFrame
        with ExitStack() as stack, self._checked():
            folder = stack.enter_context(folder_name(plan.temporary.parent))
            self._file: Any = av.open(
                f"{folder}/{plan.temporary.name}", "w", format="mp4", options={"movflags": plan.flags},
            )
            stack.callback(self._file.close)
            stream: Any = self._file.add_stream(_X264, rate=plan.rate, options=plan.settings)
            stream.width, stream.height = plan.size_px
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            # AVCOL_SPC_SMPTE170M and AVCOL_RANGE_MPEG.
            stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
            self._stream = stream
            self._held = stack.pop_all()

    def write(self, image: NDArray[np.uint8]) -> None:
        with self._checked():
            self._file.mux(self._stream.encode(self._frame.from_ndarray(_planes(image), format="yuv420p")))

    def end(self) -> None:
        """The caller's thread does it all, in finish()."""

    def finish(self) -> None:
        with self._checked():
            self._file.mux(self._stream.encode(None))
            self._held.close()

    def close(self) -> None:
        with suppress(self._error, OSError):
            self._held.close()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            number = getattr(error, "errno", None)
            text = getattr(error, "strerror", None) or str(error)
            raise refused(self._plan.shown, OSError(number or 0, f"{text} (PyAV)")) from None
        except OSError as error:
            raise refused(self._plan.shown, error) from None


class _Vp8:
    """OpenCV's own writer."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(folder_name(plan.temporary.parent))
            except OSError as error:
                raise refused(plan.shown, error) from None
            # It says there, whatever its log level, that WebM knows no such tag, and goes on.
            with _nothing_on_stderr():
                self._writer = cv2.VideoWriter(
                    f"{folder}/{plan.temporary.name}", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"VP80"), plan.fps,
                    plan.size_px,
                )
            stack.callback(self._writer.release)
            self._held = stack.pop_all()

    def write(self, image: NDArray[np.uint8]) -> None:
        if not self._writer.isOpened():
            width_px, height_px = self._plan.size_px
            raise OutputError(
                f"{self._plan.shown}: OpenCV cannot write {width_px} x {height_px} pixels as WebM, or the disk is "
                "full: use --no-draw, or free some space"
            )
        self._writer.write(image)

    def end(self) -> None:
        """The caller's thread does it all, in finish()."""

    def finish(self) -> None:
        self._held.close()

    def close(self) -> None:
        self._held.close()


@contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    """Drop what the process writes to standard error while the block runs."""
    try:
        terminal = os.dup(_STDERR)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(terminal, _STDERR)
        os.close(terminal)
        os.close(nowhere)


