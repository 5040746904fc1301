"""Writing videos whole: drawn ones that appear when they are done, with every frame in them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import refused, replacing
from edgeface.errors import OutputError
from edgeface.opencv_files import open_name
from edgeface.video_encoders import MP4, Encoder, Encoding, Plan

# What is kept for the end of a file, the index, and what encoders hold back.
_LEAST_FREE_BYTES = 128 * 1024
_FRAMES_A_LOOK = 8
# A recording is given to the disk so often, so that no more is lost when the power goes.
_FRAMES_A_FLUSH = 64


class VideoSink:
    """Takes frames; made by writing_video(). The video has the first one's size: ``remarks`` say, for people, where
    that is not the size of all, or one that videos do not have."""

    def __init__(self, path: Path, temporary: Path, fps: float, encoding: Encoding, *, live: bool = False) -> None:
        self.remarks: list[str] = []
        self.encoding = encoding
        self.frames = 0
        self.path = path
        self._temporary = temporary
        self._fps = fps
        self._live = live
        self._encoder: Encoder | None = None
        self._size_px = 0, 0
        self._last_px = 0, 0

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append uint8 (H, W, 3) BGR: of another size than the first, it is brought into it, with black bars.

        Raises OutputError when the encoder refuses the size, ends or hangs, and when the disk is full.
        """
        height_px, width_px = image.shape[:2]
        if self._encoder is None:
            self._encoder = self._started(width_px, height_px)
        if self._last_px != (width_px, height_px):
            self._last_px = width_px, height_px
            self.remarks.append(
                f"frames from number {self.frames} on have {width_px} x {height_px} pixels: they are brought into the "
                f"{self._size_px[0]} x {self._size_px[1]} of the first"
            )
        fitted = _letterboxed(image, self._size_px)
        odd = self._size_px[0] % 2, self._size_px[1] % 2
        if any(odd):
            fitted = np.asarray(cv2.copyMakeBorder(fitted, 0, odd[1], 0, odd[0], cv2.BORDER_REPLICATE), np.uint8)
        if self.frames % _FRAMES_A_LOOK == 0:
            self._check_space()
        self._encoder.write(fitted)
        self.frames += 1
        if self._live and self.frames % _FRAMES_A_FLUSH == 0:
            self._flush()

    def end(self) -> None:
        """No frame follows: a ``live`` file, which is whole at any time, may have its name from now on."""
        if self._encoder is not None:
            self._encoder.end()

    def finish(self) -> None:
        """Close the file and read back that it is complete, where its encoder would not say; raises OutputError."""
        if self._encoder is None:
            raise OutputError(f"{self.path}: no frame was written")
        self._encoder.finish()
        if self._live and self.encoding.reports:
            return
        try:
            written = (self.path if self._live else self._temporary).open("rb")
        except OSError as error:
            raise refused(self.path, error) from None
        with written:
            check = cv2.VideoCapture(open_name(written), cv2.CAP_FFMPEG)
            missing = self.frames - int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else self.frames
            check.release()
        # WebM has no count: it says how long it is, in whole milliseconds.
        if abs(missing) > (self.encoding.suffix != MP4):
            raise OutputError(f"{self.path}: cannot be written whole: free some space, or choose another place")

    def close(self) -> None:
        """Let go of the encoder, after an error too."""
        if self._encoder is not None:
            self._encoder.close()

    def _started(self, width_px: int, height_px: int) -> Encoder:
        self._size_px = self._last_px = width_px, height_px
        even_px = width_px + width_px % 2, height_px + height_px % 2
        if even_px != self._size_px:
            self.remarks.append(
                f"has {even_px[0]} x {even_px[1]} pixels for {width_px} x {height_px}: videos have even sizes alone, "
                "so the last column or row stands there twice"
            )
        return self.encoding.open(Plan(self._temporary, self.path, self._fps, even_px, self._live))

    def _check_space(self) -> None:
        """Raise OutputError when the disk takes no more: OpenCV goes on then as if it did."""
        try:
            disk = os.statvfs(self._temporary.parent)
        except OSError:
            return
        # Root may use what is kept back for it.
        if (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) * disk.f_frsize < _LEAST_FREE_BYTES:
            raise refused(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _flush(self) -> None:
        """Have the system begin to write, without waiting for the disk."""
        try:
            descriptor = os.open(self._temporary, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def writing_video(path: Path, fps: float, encoding: Encoding) -> Iterator[VideoSink]:
    """A video without sound that appears at ``path`` when the block ends without an error; raises OutputError.

    ``path`` has the suffix of ``encoding``.
    """
    with replacing(path) as temporary:
        sink = VideoSink(path, temporary, fps, encoding)
        try:
            yield sink
            sink.finish()
        finally:
            sink.close()


def _letterboxed(image: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture as large as it fits into (width, height), in the middle of it, on black."""
    height_px, width_px = image.shape[:2]
    if (width_px, height_px) == size_px:
        return image
    scale = min(size_px[0] / width_px, size_px[1] / height_px)
    inner_px = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (size_px[0] - inner_px[0]) // 2, (size_px[1] - inner_px[1]) // 2
    canvas = np.zeros((size_px[1], size_px[0], 3), np.uint8)
    canvas[top : top + inner_px[1], left : left + inner_px[0]] = cv2.resize(image, inner_px, interpolation=method)
    return canvas
