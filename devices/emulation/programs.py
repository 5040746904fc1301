"""Other programs, each with a deadline, and the locks that keep two of them from the same folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeface.atomic import refused
from edgeface.errors import DeviceError, InstallError, OutputError

from ..progress import Progress, silent

# Longer than any step takes that holds a lock, with a slow network.
LOCK_TIMEOUT_S = 1800.0
_POLL_S = 0.2
_SPEAKING = ("E: ", "ERROR: ", "error: ", "CMake Error", "fatal: ")


def find_program(names: Sequence[str], install: str) -> Path:
    """The first of ``names`` that is on the PATH. Raises InstallError, whose text ends with ``install``: what to do."""
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise InstallError(f"{names[0]} is not installed: {install}")


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    timeout_s: float,
    next_step: str,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    successes: Sequence[int] = (0,),
) -> str:
    """The standard output of a program that ends in time and with one of ``successes``; its standard input is empty.

    ``what`` it does begins the line of an error, as in "Debian's packages cannot be downloaded", and ``next_step``
    ends it. Raises DeviceError, InstallError when the program is not there, and OutputError when the disk is full.
    """
    guarded = [str(word) for word in argv]
    # It is not to outlive this process, whose lock would be free again: whoever comes next shares its folders.
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        guarded = [setpriv, "--pdeathsig", "KILL", "--", *guarded]
    try:
        done = subprocess.run(
            guarded, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, cwd=directory,
            env=None if environment is None else dict(environment), check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{what}: {Path(argv[0]).name} did not end within {timeout_s:.0f} s: {next_step}") from None
    except OSError as error:
        raise InstallError(f"{what}: {argv[0]}: {error.strerror}: {next_step}") from None
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode in successes:
        return output
    said = done.stderr.decode("utf-8", "replace")
    if "No space left on device" in said + output:
        raise OutputError(f"{what}: no space left on the disk: free some, or choose another place with XDG_CACHE_HOME")
    raise DeviceError(f"{what}: {_reason(said) or _reason(output) or f'exit code {done.returncode}'}: {next_step}")


def _reason(text: str) -> str:
    """The line of a program's output that says best what went wrong: the first that is marked so, or the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = next((line for line in lines if line.startswith(_SPEAKING) or " error: " in line), "")
    return (marked or (lines[-1] if lines else ""))[:300].rstrip(".:")


@contextmanager
def locked(path: Path, progress: Progress = silent, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; the system lets go of it when the process ends, however.

    Raises DeviceError when another process holds it for longer than ``timeout_s``, and OutputError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise refused(path, error) from None
    try:
        deadline = time.monotonic() + timeout_s
        waiting = False
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise DeviceError(f"{path}: another edgeface has held it for {timeout_s:.0f} s: see that it ends")
            if not waiting:
                progress("waiting for another edgeface that prepares the same")
            waiting = True
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
