"""``--exec COMMAND``: a command for every event, which reads JSON on its standard input."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgeface.errors import OptionError
from edgeface.stream.notify.queued_outlet import DeliveryError

TIMEOUT_S = 10.0
_SAID = 200


def split_command(text: str | Sequence[str]) -> tuple[str, ...]:
    """A command's arguments: a list as it is, a text as a shell would split it. Raises OptionError."""
    if not isinstance(text, str):
        return tuple(text)
    try:
        arguments = tuple(shlex.split(text))
    except ValueError as error:
        raise OptionError(f"--exec {text}: {error}: quote it as a shell wants it") from None
    if not arguments:
        raise OptionError("--exec: the command is empty: give one, or leave the option out")
    return arguments


class Execute:
    """Runs ``arguments`` once an event, without a shell, one at a time; what takes over 10 seconds is killed with all
    that it started. Raises OptionError for a command that is not there."""

    def __init__(self, arguments: Sequence[str]) -> None:
        program = shutil.which(arguments[0]) if arguments and arguments[0] else None
        if program is None:
            raise OptionError(f"--exec {arguments[0] if arguments else ''}: no such command, or it may not be run")
        self.name = f"exec {Path(arguments[0]).name}"
        # Where it lies now, whatever becomes of the current folder.
        self._arguments = [str(Path(program).absolute()), *arguments[1:]]
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, content: bytes) -> None:
        """Raises DeliveryError where it fails or hangs."""
        try:
            process = subprocess.Popen(
                self._arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise DeliveryError(f"cannot be run: {error.strerror or error}") from None
        self._process = process
        try:
            _, said = process.communicate(content + b"\n", timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise DeliveryError(f"was killed after {TIMEOUT_S:g} s") from None
        finally:
            self._process = None
            if process.poll() is None:
                _kill(process)
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=1.0)
        if process.returncode:
            lines = said.decode("utf-8", "replace").strip().splitlines()
            why = f": {lines[-1][:_SAID]}" if lines else ""
            raise DeliveryError(f"ended with {process.returncode}{why}")

    def abandon(self) -> None:
        """Kill what runs now, if anything."""
        process = self._process
        if process is not None:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The group is the command's own, and all that it started is in it.
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
