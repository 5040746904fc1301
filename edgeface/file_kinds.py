"""What a file is, from what the system says of it and from its content."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO, Literal

from edgeface import regular_files
from edgeface.errors import InputError, SourceError
from edgeface.image_headers import is_heif, is_picture
from edgeface.mjpeg import JPEG_START, PictureSplitter

Kind = Literal["picture", "video"]

_CONTROLS = frozenset(map(chr, (*range(0x20), 0x7F))) - frozenset("\t\n\f\r\x1b")
# Texts that would have OpenCV open what they name, whatever follows.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")
_START_BYTES = 256
_CHUNK_BYTES = 1 << 16
# What a camera may pad a picture with, up to the next one.
_MOST_PADDING_BYTES = 1 << 12
# A JPEG's directory of the pictures that follow it: of two lenses, or of what makes it brighter on some screens.
_MULTI_PICTURE = b"MPF\0"


def open_regular(path: Path) -> BinaryIO:
    """A file's content, from its start. It never waits, as for the writer of a pipe.

    Raises InputError when the file is not there, may not be read, or is a pipe, a socket, a device or a folder.
    """
    try:
        return regular_files.open_regular(path)
    except regular_files.IrregularFileError as error:
        raise InputError(f"{path}: {error.strerror}: give a picture or a video") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}: check the file") from None


def file_kind(path: Path) -> Kind:
    """Whether a file is to be read as a picture or, if it is none known here, as a video by OpenCV.

    Decided by its content, whatever its name. Raises InputError as ``open_regular`` does, and for a text.
    """
    with open_regular(path) as stream:
        try:
            start = stream.read(_START_BYTES)
            if start.startswith(JPEG_START):
                return "video" if is_motion_jpeg(stream) else "picture"
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}: check the file") from None
    if not start or is_picture(start) or is_heif(start):
        return "picture"
    if is_text(start):
        # A playlist, too: it would have OpenCV open what it names.
        raise InputError(
            f"{path}: a text, not a picture and not a video: give JPEG, PNG, WebP, TIFF, BMP, GIF or PNM, or a video"
        )
    return "video"


def is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a text, such as a web page or a playlist; no bytes are none."""
    start = start.removeprefix(codecs.BOM_UTF8)
    if start.lstrip().startswith(_PLAYLISTS):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)    # which may end within a letter
    except UnicodeDecodeError:
        return False
    return bool(start) and _CONTROLS.isdisjoint(text)


def is_motion_jpeg(stream: BinaryIO) -> bool:
    """Whether one JPEG follows the other: a recording, and no picture with others that belong to it."""
    stream.seek(0)
    splitter = PictureSplitter()
    while data := stream.read(_CHUNK_BYTES):
        try:
            found = splitter.feed(data)
        except SourceError:
            # Larger than what a camera sends: if it is a picture after all, its reader says so.
            return False
        if found:
            stream.seek(len(found[0]))
            following = stream.read(_MOST_PADDING_BYTES).lstrip(b"\0")
            return following.startswith(JPEG_START) and _MULTI_PICTURE not in found[0][:_CHUNK_BYTES]
    return False
