"""A board without a board: its processor emulated by QEMU, in an arm64 root with the board's own /proc and /sys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeface.errors import DeviceUnreachableError, EdgefaceError

from ..boards import Board
from ..emulation.root import EmulatedRoot, ensure_root
from ..progress import Progress
from .local import copy_here, run_here
from .registry import Command, Link, link


@dataclass(frozen=True)
class EmulatedLink:
    """``core`` is QEMU's name of the processor; paths there are paths here. ``qemu_options`` come before the program.

    Affinity means nothing to it: an emulated program runs on this machine's processors.
    """

    board: Board
    root: EmulatedRoot
    core: str
    qemu_options: Sequence[str] = ()
    affinity: Sequence[int] = ()

    def describe(self) -> str:
        return f"emulated {self.core}"

    def with_qemu_options(self, options: Sequence[str]) -> EmulatedLink:
        """The same with other options to QEMU, such as a plugin."""
        return replace(self, qemu_options=tuple(options))

    def python(self, arguments: Sequence[str]) -> Command:
        return Command(self.root.command(self.core, arguments, self.qemu_options), self.root.environment)

    def run(self, words: Sequence[str], *, timeout_s: float) -> list[str]:
        """The root holds one program, ``python3``; DeviceUnreachableError for any other."""
        name = f"{self.board.name} ({self.describe()})"
        if words[0] != "python3":
            raise DeviceUnreachableError(f"{name}: there is no {words[0]}: an emulated board has python3 alone")
        return run_here(name, self.python(words[1:]), timeout_s)

    def put(self, source: Path, target: str, *, timeout_s: float) -> None:
        copy_here(source, Path(target).expanduser())

    def get(self, source: str, target: Path, *, timeout_s: float) -> None:
        copy_here(Path(source).expanduser(), target)

    def failure(self, returncode: int, stderr: str) -> EdgefaceError | None:
        return None


@link("emulated")
def open_emulated(board: Board, progress: Progress) -> Sequence[Link]:
    """A link for each of the board's emulated processors; they share one root."""
    return links_into(ensure_root(board, progress=progress), board)


def links_into(root: EmulatedRoot, board: Board) -> Sequence[EmulatedLink]:
    """Those links, for a root that is at hand."""
    return [EmulatedLink(board, root, cpu) for cpu in board.emulated_cpus]
