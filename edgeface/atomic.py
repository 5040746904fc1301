"""Files that appear whole or not at all: written under a temporary name beside their place, then put there."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgeface.errors import OutputError

_READER_WAIT_S = 10.0
_NEXT_STEP = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EFBIG: "choose another place",
    errno.ENOENT: "make its folder first, or choose another place",
}
_TEMPORARY = re.compile(r"\.edgeface-(\d{1,10})-[0-9a-f]{12}(\.|$)")


def refused(path: Path | str, error: OSError) -> OutputError:
    """The OutputError that says what the system refused, for which file, and what to do."""
    step = _NEXT_STEP.get(error.errno or 0, "choose another place")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}: {step}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are not there; raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty temporary file beside ``path``, of the same suffix, that takes its place when the block ends.

    After an exception the temporary file is gone and ``path`` is what it was. A link stays, and what it leads to is
    replaced; what is there and is no file, such as a device or a pipe, stays as well and is given what was written.
    Raises OutputError when the folder refuses; what the block itself writes, the block reports.
    """
    path = followed(path)
    if is_special(path):
        with _passed_on(path) as temporary:
            yield temporary
        return
    sweep(path.parent)
    temporary = temporary_name(path.parent, path.suffix)
    try:
        # Not tempfile.mkstemp: its files are for their owner alone, whatever the umask says.
        held = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise refused(path, error) from None
    try:
        _hold(held)
        yield temporary
        try:
            temporary.replace(path)
        except OSError as error:
            raise refused(path, error) from None
    finally:
        os.close(held)
        temporary.unlink(missing_ok=True)


def followed(path: Path) -> Path:
    """Where links lead from ``path``, which itself need not be there; raises OutputError for links in a circle."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except FileNotFoundError:
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    except OSError as error:
        raise refused(path, error) from None


def is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder: a device, a pipe, a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_special(path: Path) -> BinaryIO:
    """Open a device or pipe to write to it; waits some seconds for a pipe's reader. Raises OutputError."""
    deadline_s = time.monotonic() + _READER_WAIT_S
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise refused(path, error) from None
            if time.monotonic() > deadline_s:
                raise OutputError(f"{path}: nobody reads from this pipe: start its reader first") from None
            time.sleep(0.05)
            continue
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "wb")


@contextmanager
def _passed_on(path: Path) -> Iterator[Path]:
    """A temporary file whose content goes to the device or pipe ``path`` when the block ends without an error."""
    descriptor, name = tempfile.mkstemp(prefix=".edgeface-", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        try:
            with temporary.open("rb") as content, open_special(path) as target:
                shutil.copyfileobj(content, target)
        except OSError as error:
            raise refused(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """A new folder in ``folder``, for its owner alone, that is gone when the block ends, unless it was moved away.

    Raises OSError.
    """
    sweep(folder)
    work = temporary_name(folder, "")
    work.mkdir(0o700)
    held = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _hold(held)
        yield work
    finally:
        os.close(held)
        shutil.rmtree(work, ignore_errors=True)


def temporary_name(folder: Path, suffix: str) -> Path:
    """A name in ``folder`` that nothing has, of which ``sweep`` can tell whose it is."""
    return folder / f".edgeface-{os.getpid()}-{secrets.token_hex(6)}{suffix}"


def sweep(folder: Path) -> None:
    """Remove from ``folder`` what runs left there that were killed: of names that no process here holds, and that no
    other machine or container holds a lock on. What cannot be removed stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.match(entry.name)
            if match is not None and not Path(f"/proc/{match.group(1)}").exists():
                with suppress(OSError):
                    _remove(Path(entry.path), is_folder=entry.is_dir(follow_symlinks=False))


def _hold(descriptor: int) -> None:
    # For those who do not see this process. Not every file system has locks.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path, *, is_folder: bool) -> None:
    # Without waiting for the other end of a pipe that somebody put there.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises OutputError."""
    with replacing(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise refused(path, error) from None
