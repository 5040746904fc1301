"""What the C decoders inside OpenCV write to standard error, kept from the terminal and read for signs of damage."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeface.errors import InputError

# libjpeg decodes such pictures to the end and fills what is missing with grey; this is all it says of it.
_DAMAGE = re.compile(rb"premature end|bad huffman code|instead of RST", re.IGNORECASE)
_STDERR = 2


@contextmanager
def decoder_notes() -> Iterator[Callable[[], bytes]]:
    """Standard error goes to memory while the block runs; the value gives what was written so far.

    Of this process as a whole, hence a matter of the command line and not of the library.
    """
    try:
        terminal = os.dup(_STDERR)
    except OSError:
        # Standard error is closed: nothing can be seen there, nor kept from it.
        yield lambda: b""
        return
    sys.stderr.flush()
    memory = os.memfd_create("edgeface-decoder-notes")
    try:
        os.dup2(memory, _STDERR)
        yield lambda: os.pread(memory, 1 << 16, 0)
    finally:
        os.dup2(terminal, _STDERR)
        os.close(terminal)
        os.close(memory)


def check_notes(path: Path, notes: bytes) -> None:
    """Raise InputError when the decoder's notes say that picture data were missing."""
    if _DAMAGE.search(notes):
        raise InputError(f"{path}: the file is damaged (part of the picture is missing): copy it again")
