"""What a link is to everything that uses a board, and the registry that finds one by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeface.errors import EdgefaceError, UnknownLinkError
from edgeface.registry import Registry

from ..boards import Board
from ..progress import Progress, silent


@dataclass(frozen=True)
class Command:
    """A program of this machine to start: its arguments, and all of its environment, None for that of this process."""

    argv: Sequence[str]
    environment: Mapping[str, str] | None = None


class Link(Protocol):
    """A way to one board. Paths there are texts: absolute, or from the home folder as ``~/...``.

    ``core`` is the kind of core that a worker runs on ("cortex-a53"), and ``affinity`` the processors there that it is
    to keep to, empty where it may use all.
    """

    @property
    def board(self) -> Board: ...

    @property
    def core(self) -> str: ...

    @property
    def affinity(self) -> Sequence[int]: ...

    def describe(self) -> str:
        """Where it leads, in words: "emulated cortex-a72", "board at pi@robot1", "this machine"."""
        ...

    def python(self, arguments: Sequence[str]) -> Command:
        """The program here that runs the board's Python there with ``arguments``, its standard streams connected.

        Raises InstallError when this machine lacks a program for that.
        """
        ...

    def run(self, words: Sequence[str], *, timeout_s: float) -> list[str]:
        """The lines of standard output of a program there that ends with 0.

        Raises DeviceError when it does not, DeviceUnreachableError when it cannot be started, and DeviceLostError when
        it does not end in time.
        """
        ...

    def put(self, source: Path, target: str, *, timeout_s: float) -> None:
        """Copy a file to the file ``target`` there, or a folder to the folder ``target``, which appears whole or not at
        all and takes the place of what was there. Errors as in ``run``."""
        ...

    def get(self, source: str, target: Path, *, timeout_s: float) -> None:
        """Copy the file ``source`` there to the file ``target``, whole or not at all. Errors as in ``run``."""
        ...

    def failure(self, returncode: int, stderr: str) -> EdgefaceError | None:
        """What it means when what ``python`` started ended so, where that says more about the way than about the
        program: an unreachable board, no Python there. None where it does not."""
        ...


Opener = Callable[[Board, Progress], Sequence[Link]]

link: Registry[Opener] = Registry("link", UnknownLinkError)


def open_links(board: Board, progress: Progress = silent) -> Sequence[Link]:
    """Every way that ``board`` is to be tried: one for each emulated processor where there is no board, otherwise one.

    What the way needs is made first, with a line to ``progress`` for each step that takes a while. Raises DeviceError,
    InstallError and OutputError when that fails.
    """
    return link.get(board.link)(board, progress)


def open_link(board: Board, progress: Progress = silent) -> Link:
    """The first of ``open_links``: what a board means where one way is enough."""
    return open_links(board, progress)[0]
