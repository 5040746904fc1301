"""Files that appear whole or not at all: written under a temporary name beside their place, then put there."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeface.errors import OutputError

_NEXT_STEP = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EFBIG: "choose another place",
}


def refused(path: Path | str, error: OSError) -> OutputError:
    """The OutputError that says what the system refused, for which file, and what to do."""
    step = _NEXT_STEP.get(error.errno or 0, "choose another place")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}: {step}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty temporary file beside ``path``, of the same suffix, that takes its place when the block ends.

    After an exception the temporary file is gone and ``path`` is what it was. Raises OutputError when the folder
    refuses; what the block itself writes, the block reports.
    """
    temporary = path.parent / f".edgeface-{secrets.token_hex(6)}{path.suffix}"
    try:
        # Not tempfile.mkstemp: its files are for their owner alone, whatever the umask says.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        raise refused(path, error) from None
    try:
        yield temporary
        try:
            temporary.replace(path)
        except OSError as error:
            raise refused(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises OutputError."""
    with replacing(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise refused(path, error) from None
