"""Child processes: the Python that runs one, and what becomes of one when this process is killed."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

# The command that runs Python where sys.executable is none, as in a program that embeds it or under an emulator.
PYTHON_VARIABLE = "EDGEFACE_PYTHON"
_PR_SET_PDEATHSIG = 1
# Before the program, in its process: between fork and exec a process with threads may run nothing in Python.
_WAKE = f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGCONT)}, 0, 0, 0); " \
    "os.execv(sys.argv[1], sys.argv[1:])"


def python_command() -> list[str]:
    """The words that start this Python; none where it is not known what does.

    Raises ValueError where the variable is no command line.
    """
    given = shlex.split(os.environ.get(PYTHON_VARIABLE, ""))
    return given or ([sys.executable] if sys.executable and not getattr(sys, "frozen", False) else [])


def end_with_parent() -> None:
    """Have the system kill this process with the thread that started it: one that is stopped, or hangs in a driver,
    does not notice otherwise when its parent was killed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def woken_with_parent(command: Sequence[str]) -> list[str]:
    """``command``, a program's path and its arguments, in a process that goes on when the one that starts it ends.

    A program that reads from its parent sees the end of its input then, and ends in order; one that is stopped would
    stay for ever. Where it is not known what starts Python, this is ``command``.
    """
    python = python_command()
    return [*python, "-I", "-S", "-c", _WAKE, *command] if python else list(command)
