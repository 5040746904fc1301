"""Files for OpenCV's readers and writers of videos, whatever their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# OpenCV ends the process when a name is not UTF-8, and FFmpeg takes a colon or a % in one for more than a name. So a
# file is named by its descriptor, and a new one by that of its folder.


def open_name(stream: BinaryIO) -> str:
    """A name for an open file, good for as long as it is open."""
    return f"/proc/self/fd/{stream.fileno()}"


@contextmanager
def folder_name(folder: Path) -> Iterator[str]:
    """A name for a folder while the block runs; raises OSError."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
