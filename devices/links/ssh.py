"""A real board, by the system's ssh and rsync."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeface.atomic import replacing
from edgeface.errors import DeviceError, DeviceUnreachableError, EdgefaceError

from ..boards import Board
from ..progress import Progress
from ..ssh import SshHost, environment, from_home
from ..ssh_failures import NOT_FOUND, way_failure
from .registry import Command, Link, link

# Where ``edgeface devices setup`` makes an environment.
SETUP_PYTHON = "~/.local/share/edgeface/venv/bin/python"
_SHORT_S = 60.0
_NO_EDGEFACE = re.compile(r"No module named '?edgeface")

# Beside the target, so that what is complete can be moved to its place, and what was there back if that fails.
_MAKE_ROOM = """
mkdir -p -- "$(dirname -- "$1")" && mktemp -d -- "$(dirname -- "$1")/.$(basename -- "$1").XXXXXX"
"""
_PUT_IN_PLACE = """
target=$1 work=$2
if test -e "$target"; then mv -T -- "$target" "$work/old" || exit; fi
if mv -T -- "$work/new" "$target"; then rm -rf -- "$work"; exit 0; fi
test ! -e "$work/old" || mv -T -- "$work/old" "$target"
exit 1
"""


@dataclass(frozen=True)
class SshLink:
    """``interpreter`` is the Python there that has edgeface.

    A worker uses all processors, or those of ``affinity``; it is taken to run on the fastest cores.
    """

    board: Board
    interpreter: str
    affinity: Sequence[int] = ()

    @property
    def core(self) -> str:
        return self.board.fastest.core

    @property
    def host(self) -> SshHost:
        """The way there."""
        return SshHost(self.board)

    def describe(self) -> str:
        return f"board at {self.board.address}"

    def python(self, arguments: Sequence[str]) -> Command:
        return Command(self.host.command([self.interpreter, *arguments]), environment())

    def run(self, words: Sequence[str], *, timeout_s: float) -> list[str]:
        return self.host.run(words, timeout_s=timeout_s)

    def put(self, source: Path, target: str, *, timeout_s: float) -> None:
        if not source.exists():
            raise DeviceError(f"{source}: no such file or folder: give another")
        place = from_home(target)
        work = self._sh(_MAKE_ROOM, place)[-1]
        try:
            self.host.copy(source, f"{work}/new", timeout_s=timeout_s)
            self._sh(_PUT_IN_PLACE, place, work)
        except BaseException:
            # When the connection is lost, so is this.
            with suppress(EdgefaceError):
                self.host.run(["rm", "-rf", "--", work], timeout_s=_SHORT_S)
            raise

    def get(self, source: str, target: Path, *, timeout_s: float) -> None:
        with replacing(target) as temporary:
            self.host.fetch(source, temporary, timeout_s=timeout_s)

    def failure(self, returncode: int, stderr: str) -> EdgefaceError | None:
        setup = f"edgeface devices setup {self.board.name}"
        if returncode == NOT_FOUND and self.interpreter == SETUP_PYTHON:
            return DeviceUnreachableError(f"{self.host.reached}: edgeface is not installed there: {setup}")
        if _NO_EDGEFACE.search(stderr):
            return DeviceUnreachableError(
                f"{self.host.reached}: {self.interpreter} there has no edgeface: {setup}"
            )
        return way_failure(self.host.reached, self.interpreter, returncode, stderr)

    def _sh(self, script: str, *arguments: str) -> list[str]:
        return self.host.run(["sh", "-c", script, "sh", *arguments], timeout_s=_SHORT_S)


@link("ssh")
def open_ssh(board: Board, _progress: Progress) -> Sequence[Link]:
    """The one link to a board with an address. Nothing is connected before something runs there."""
    return [SshLink(board, board.python or SETUP_PYTHON)]
