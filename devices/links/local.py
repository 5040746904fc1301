"""This machine, by the Python that runs now."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeface.atomic import refused, replacing
from edgeface.errors import DeviceError, DeviceLostError, DeviceUnreachableError, EdgefaceError

from ..boards import Board
from ..progress import Progress
from .registry import Command, Link, link


@dataclass(frozen=True)
class LocalLink:
    """Nothing in between: paths there are paths here."""

    board: Board
    affinity: Sequence[int] = ()

    @property
    def core(self) -> str:
        return self.board.fastest.core

    def describe(self) -> str:
        return "this machine"

    def python(self, arguments: Sequence[str]) -> Command:
        return Command([sys.executable, *arguments])

    def run(self, words: Sequence[str], *, timeout_s: float) -> list[str]:
        return run_here(self.board.name, Command(words), timeout_s)

    def put(self, source: Path, target: str, *, timeout_s: float) -> None:
        copy_here(source, Path(target).expanduser())

    def get(self, source: str, target: Path, *, timeout_s: float) -> None:
        copy_here(Path(source).expanduser(), target)

    def failure(self, returncode: int, stderr: str) -> EdgefaceError | None:
        return None


@link("local")
def open_local(board: Board, _progress: Progress) -> Sequence[Link]:
    """The one link to this machine."""
    return [LocalLink(board)]


def run_here(name: str, command: Command, timeout_s: float) -> list[str]:
    """The lines of standard output of a program of this machine; errors as in ``Link.run``, for the board ``name``."""
    program = Path(command.argv[0]).name
    try:
        done = subprocess.run(
            command.argv, env=command.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceLostError(f"{name}: {program} was not done within {timeout_s:g} s: try again") from None
    except OSError as error:
        raise DeviceUnreachableError(f"{name}: {command.argv[0]}: {error.strerror}: install it") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason was given"]
        raise DeviceError(f"{name}: {program} failed with {done.returncode}: {said[-1]}")
    return done.stdout.decode(errors="replace").splitlines()


def copy_here(source: Path, target: Path) -> None:
    """As ``Link.put`` within this machine; raises OutputError when it refuses, DeviceError when there is no ``source``.
    """
    if not source.exists():
        raise DeviceError(f"{source}: no such file or folder: give another")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            _copy_folder(source, target)
            return
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise refused(target, error) from None


def _copy_folder(source: Path, target: Path) -> None:
    # A folder that is not empty cannot be replaced in one step, so the old one is moved here first.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        new, old = work / "new", work / "old"
        shutil.copytree(source, new)
        with suppress(FileNotFoundError):
            target.replace(old)
        try:
            new.replace(target)
        except BaseException:
            if old.exists():
                old.replace(target)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
