"""Decoded pictures in one memory-mapped file a set: training reads crops of them thousands of times."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import refused, replacing
from edgeface.data.annotations import Picture
from edgeface.errors import DataError, OutputError
from edgeface.regular_files import is_there
from edgeface.user_folders import cache_directory

_LOG = logging.getLogger(__name__)
ProgressBar = Callable[[Iterable[int], str, int], Iterable[int]]
"""Wraps a loop to show how far it is: (items, label, total) -> the same items."""


class PixelIndex(msgspec.Struct, frozen=True):
    """Where each picture lies in the cache file: ``offsets`` in bytes, ``sizes`` (width, height)."""

    offsets: list[int]
    sizes: list[tuple[int, int]]


class Pixels:
    """Read-only pixels of a list of pictures, uint8 BGR, mapped and not held in memory."""

    def __init__(self, path: Path, index: PixelIndex) -> None:
        self._index = index
        self._path = path
        self._map: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self._index.offsets)

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        """Picture i as uint8 (H, W, 3) BGR, a view of the file."""
        if self._map is None:       # mapped on first use, so that each loader process maps for itself
            self._map = np.memmap(self._path, np.uint8, "r")
        width, height = self._index.sizes[i]
        start = self._index.offsets[i]
        return self._map[start : start + width * height * 3].reshape(height, width, 3)


def pixels_directory() -> Path:
    """Where decoded pictures are kept by default."""
    return cache_directory() / "pixels"


def open_pixels(
    pictures: Sequence[Picture],
    cache: Path,
    progress: ProgressBar = lambda items, _label, _total: items,
) -> Pixels:
    """Map the decoded pictures, decoding them into ``cache`` the first time.

    The file is named by the pictures' paths, sizes and times, so that a changed set is decoded anew. Raises DataError
    for a picture that cannot be decoded or is not of its annotated size, OutputError when the cache cannot be written.
    """
    digest = hashlib.sha256()
    try:
        for p in pictures:
            digest.update(f"{p.path}|{p.width}|{p.height}|{p.path.stat().st_mtime_ns}\n".encode())
    except OSError as error:
        raise DataError(f"{p.path}: {error.strerror}: the annotations name it") from None
    sizes = [(p.width, p.height) for p in pictures]
    offsets = np.concatenate(([0], np.cumsum([w * h * 3 for w, h in sizes]))).tolist()
    index = PixelIndex(offsets[:-1], sizes)
    path = cache / f"{digest.hexdigest()[:24]}.u8"
    if is_there(path) and path.stat().st_size == offsets[-1]:
        return Pixels(path, index)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(cache, error) from None
    _say_or_refuse(cache, offsets[-1], len(pictures))
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as stream:
                for i in progress(range(len(pictures)), "decoding", len(pictures)):
                    stream.write(read_pixels(pictures[i]).data)
        except OSError as error:
            raise refused(path, error) from None
    return Pixels(path, index)


def _say_or_refuse(cache: Path, size_bytes: int, pictures: int) -> None:
    """Say where how much goes; raises OutputError where the disk has no room for it."""
    free_bytes = shutil.disk_usage(cache).free
    if size_bytes > free_bytes:
        raise OutputError(
            f"{cache}: {pictures} decoded pictures need {_megabytes(size_bytes)}, {_megabytes(free_bytes)} are free: "
            "free some space, or choose another --cache"
        )
    _LOG.warning("decodes %d pictures once into %s: %s (--cache moves it)", pictures, cache, _megabytes(size_bytes))


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.0f} kB"


def read_pixels(picture: Picture) -> NDArray[np.uint8]:
    """One picture, uint8 (H, W, 3) BGR; raises DataError when it cannot be decoded or is not of its annotated size."""
    # Not imread, which ends the process where a name is not UTF-8.
    try:
        data = np.fromfile(picture.path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except OSError:
        image = None
    if image is None:
        raise DataError(f"{picture.path}: not a picture that OpenCV can decode: copy the data again")
    if image.shape[:2] != (picture.height, picture.width):
        raise DataError(
            f"{picture.path}: is {image.shape[1]}x{image.shape[0]}, annotated as {picture.width}x{picture.height}"
        )
    return image.astype(np.uint8, copy=False)
