"""Reading files that may not be what they seem: opened without waiting, looked at, and read only where they are files.

A FIFO would wait for a writer for ever, a device may never end, and a sparse file claims more than memory holds.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

# Of a file of settings, which a person wrote.
LARGEST_SETTINGS_BYTES = 1 << 20
# Of a picture or a list of annotations: more is no such thing, or was made to take all memory.
LARGEST_BYTES = 2 << 30

_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


class IrregularFileError(OSError):
    """What is there is a pipe, a socket, a device or a folder; ``strerror`` says which."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes, at once whatever it is.

    Raises IrregularFileError where it is not a regular file, OSError where it is not there or may not be read.
    """
    # A socket cannot be opened at all, and a device could do something when it is: hence the look before.
    _require_regular(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file of at most ``limit_bytes``; raises OSError for anything else, before it is read."""
    with open_regular(path) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes > limit_bytes:
            reason = f"{size_bytes} bytes are more than the {limit_bytes} that it may have"
            raise OSError(errno.EFBIG, reason, str(path))
        # A size is asked for because Python makes room for all of it at once, and a file may grow while it is read.
        return stream.read(size_bytes)


def is_there(path: Path) -> bool:
    """Whether there is something that may be looked at; of a path that no file can have, no."""
    try:
        return path.exists()
    except (OSError, ValueError):   # a folder that is closed, a name too long for the file system
        return False


def real_path(path: Path) -> Path:
    """The absolute path without links, whether it is there or not; links in a circle stay, and fail where opened."""
    # Path.resolve raises RuntimeError for them, in Python before 3.13.
    return Path(os.path.realpath(path))


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise IrregularFileError(errno.EINVAL, f"is {what} and no file", str(path))
