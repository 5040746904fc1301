"""Recordings of bare JPEGs, one after the other, as ``rpicam-vid --codec mjpeg`` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ImageTooLargeError, InputError, SourceError
from edgeface.file_kinds import open_regular
from edgeface.image_headers import read_header
from edgeface.mjpeg import PictureSplitter

_CHUNK_BYTES = 1 << 20


def jpeg_frames(path: Path, max_megapixels: float) -> Iterator[NDArray[np.uint8] | None]:
    """The pictures of a recording in order, each of its own size, uint8 (H, W, 3) BGR; None for one that is damaged.

    Raises InputError when it cannot be read, and ImageTooLargeError when a picture is above ``max_megapixels``.
    """
    splitter = PictureSplitter()
    with open_regular(path) as stream:
        while True:
            try:
                data = stream.read(_CHUNK_BYTES)
                found = splitter.feed(data) if data else splitter.flush()
            except OSError as error:
                raise InputError(f"{path}: {error.strerror or error}: check the file") from None
            except SourceError as error:
                raise InputError(f"{path}: {error}: check the file") from None
            for jpeg in found:
                yield _decoded(path, jpeg, max_megapixels)
            if not data:
                return


def _decoded(path: Path, jpeg: bytes, max_megapixels: float) -> NDArray[np.uint8] | None:
    try:
        read_header(jpeg, max_megapixels)
    except ImageTooLargeError as error:
        raise ImageTooLargeError(f"{path}: {error}") from None
    except InputError:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)
