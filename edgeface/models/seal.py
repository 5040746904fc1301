"""A hash in a ``.pt``: the archive's comment, which readers of zip files pass over, holds the sha256 of the rest.

torch does not compare the archive's own checksums when it reads, so a flipped byte would be used as a weight. Files
that have no such comment, those of before and of others, are held against these checksums instead.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

_PREFIX = b"edgeface sha256 "
_COMMENT_BYTES = len(_PREFIX) + 64
_END = b"PK\x05\x06"
_END_BYTES = 22         # of the archive's last record, which ends with the comment's length
_LENGTH_BYTES = 2
_ZIP = b"PK\x03\x04"
_BLOCK_BYTES = 1 << 20


class SealError(ValueError):
    """The file is not what was written."""


def seal(path: Path) -> None:
    """Append the hash to a zip archive without a comment. Raises OSError, and SealError for anything else."""
    with path.open("r+b") as stream:
        stream.seek(-_END_BYTES, os.SEEK_END)
        if stream.read(4) != _END:
            raise SealError("not a zip archive without a comment")
        stream.seek(-_LENGTH_BYTES, os.SEEK_END)
        stream.write(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little"))
        stream.write(_PREFIX + _sha256(stream, stream.tell()))


def check_seal(stream: BinaryIO) -> None:
    """Hold an open ``.pt`` against its hash or, where it has none, a zip archive against its checksums; SealError.

    What is no zip archive, as torch wrote before 1.6, passes. The stream is at its start afterwards.
    """
    size_bytes = stream.seek(0, os.SEEK_END)
    end = _read(stream, size_bytes - _COMMENT_BYTES - _END_BYTES, _COMMENT_BYTES + _END_BYTES)
    stream.seek(0)
    is_zip = stream.read(4) == _ZIP
    if end[:4] == _END and end[_END_BYTES:].startswith(_PREFIX):
        hashed_bytes = size_bytes - _COMMENT_BYTES
        if _sha256(stream, hashed_bytes) != end[-64:]:
            raise SealError("its sha256 is not the one that it was written with")
    elif end[-_END_BYTES:][:4] == _END:
        _check_sums(stream, size_bytes)
    elif is_zip:
        raise SealError("its archive has no end")
    stream.seek(0)


def _check_sums(stream: BinaryIO, size_bytes: int) -> None:
    try:
        with zipfile.ZipFile(stream) as archive:
            # torch stores without compression: what would grow by reading is not torch's.
            if sum(entry.file_size for entry in archive.infolist()) > size_bytes:
                raise SealError("its archive holds more than the file does")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise SealError(str(error)) from None
    if damaged is not None:
        raise SealError(f"the checksum of its part {damaged} is wrong")


def _sha256(stream: BinaryIO, count_bytes: int) -> bytes:
    digest = hashlib.sha256()
    stream.seek(0)
    left = count_bytes
    while left and (block := stream.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _read(stream: BinaryIO, start: int, count_bytes: int) -> bytes:
    stream.seek(max(0, start))
    return stream.read(count_bytes + min(0, start))
