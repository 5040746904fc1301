"""An arm64 root for each board in the user's cache, in which programs run emulated by qemu-user.

Three parts a board, each made whole or not at all: ``root``, Debian's Python with the board's own /proc/cpuinfo;
``site``, the wheels that edgeface needs; and edgeface itself. No root, no binfmt_misc, no change to the host.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from edgeface.devices.boards import Board
from edgeface.devices.emulation import debian, project, wheels
from edgeface.devices.emulation.identity import identity_files, write_identity
from edgeface.devices.emulation.parts import Part, sha256
from edgeface.devices.emulation.programs import find_program, locked, run
from edgeface.devices.progress import Progress, silent

from edgeface import user_folders
from edgeface.errors import DeviceError, OutputError

# Everything below the cache is remade when this changes.
_FORMAT = 1
_PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgomp1")
_NEEDED_MB = 1000
_COMPILE_TIMEOUT_S = 900.0
# Workers that still run import from the edgeface of before.
_KEPT_PROJECTS = 3
_KEPT_S = 2 * 3600.0
_SCRATCH = ".wheel-"
_QEMU = ("qemu-aarch64", "qemu-aarch64-static")
_PASSED_ON = ("HOME", "TMPDIR", "TERM", "OMP_NUM_THREADS", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@dataclass(frozen=True)
class EmulatedRoot:
    """A root that is ready: Debian's userland in ``directory``, wheels in ``site``, edgeface in ``project``."""

    board: str
    directory: Path
    site: Path
    project: Path
    qemu: Path

    @property
    def python(self) -> Path:
        """The arm64 interpreter, which only QEMU can run."""
        return self.directory / "usr" / "bin" / "python3.11"

    @property
    def environment(self) -> dict[str, str]:
        """All environment variables for an emulated program.

        Not the host's: LD_PRELOAD and PYTHONPATH would bring x86 libraries in. Nothing emulated writes into the root,
        and the current folder, which may be a clone, is not imported from.
        """
        return {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            # Bundles that are deployed to an emulated board are not to lie among this machine's own.
            "XDG_DATA_HOME": str(self.directory.parent / "data"),
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": f"{self.project}:{self.site}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONSAFEPATH": "1",
        }

    def command(self, cpu: str, argv: Sequence[str | Path], qemu_options: Sequence[str] = ()) -> list[str]:
        """The arguments that run the root's Python with ``argv`` as its own, on a processor as QEMU names it.

        To be started with ``environment``: ``["-m", "edgeface", "detect", "photo.jpg"]`` on "cortex-a53".
        """
        return [
            str(self.qemu), "-L", str(self.directory), "-cpu", cpu, *qemu_options, str(self.python), *map(str, argv),
        ]


def cache_directory() -> Path:
    """Where roots and downloads lie."""
    return user_folders.cache_directory() / "devices"


def find_qemu() -> Path:
    """QEMU's emulator of programs. Raises InstallError with the line for apt."""
    return find_program(_QEMU, "a board is emulated by it: sudo apt-get install qemu-user")


def ensure_root(board: Board, *, wheel: Path | None = None, progress: Progress = silent) -> EmulatedRoot:
    """A root for ``board``, made now or found as it was left; what is missing, outdated or changed is remade.

    ``wheel`` is edgeface's own for aarch64; without one, a clone's is built from its sources and follows them, and an
    installed package downloads that of its version. ``progress`` gets a line for each step that takes a while.

    Raises InstallError for a program that must be installed first, DeviceError for a step that fails or a wheel of
    another processor, OutputError for a full disk.
    """
    qemu = find_qemu()
    if wheel is not None:
        # Before there is a folder for the board.
        wheels.check_wheel(wheel)
    home = cache_directory() / board.name
    with locked(home / "lock", progress):
        for left in home.glob(f"{_SCRATCH}*"):
            # Of a process that was killed: this one holds the lock.
            shutil.rmtree(left, ignore_errors=True)
        making = _Making(board, home, qemu, progress)
        making.ensure_userland()
        own = making.ensure_project(wheel)
        making.ensure_site(own)
        _forget_old_projects(home, own)
    return EmulatedRoot(board.name, making.root.directory, making.site.directory, own.directory, qemu)


def verify_root(board: Board) -> None:
    """Read every file of a board's root again and compare its hash.

    Raises DeviceError when there is no root, or naming what was changed; the next ``ensure_root`` makes that part anew.
    """
    home = cache_directory() / board.name
    with locked(home / "lock"):
        parts = [Part(path.with_suffix("")) for path in sorted(home.glob("*.json"))]
        if {"root", "site"} - {part.directory.name for part in parts}:
            raise DeviceError(f"{home}: holds no finished root: make one with edgeface devices setup {board.name}")
        wrong = [f"{part.directory.name}/{name}" for part in parts for name in part.damaged()]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DeviceError(
            f"{home}: {wrong[0]}{more} changed since the root was made: edgeface devices setup {board.name} mends it"
        )


class _Making:
    """The steps to a root in ``home``, whose lock is held."""

    def __init__(self, board: Board, home: Path, qemu: Path, progress: Progress) -> None:
        self.root = Part(home / "root")
        self.site = Part(home / "site")
        self._board = board
        self._home = home
        self._qemu = qemu
        self._progress = progress

    def ensure_userland(self) -> None:
        """Debian's Python, with the board's /proc and /sys, byte-compiled."""
        identity = identity_files(self._board)
        packages = sorted(_PACKAGES)
        key = _key(_FORMAT, debian.SUITE, packages, identity)

        def make(directory: Path) -> dict[str, str]:
            self._require_space()
            # One download serves every board.
            debs = debian.fetch(packages, self._home.parent / ".debian-python", self._progress)
            self._progress(f"unpacking {len(debs)} packages")
            debian.unpack(debs, directory)
            write_identity(identity, directory)
            library = directory / "usr" / "lib" / "python3.11"
            self._compile(library, self.root.directory / library.relative_to(directory), directory)
            return {package.path.name: package.sha256 for package in debs}

        self.root.ensure(key, "the userland", make, self._progress)

    def ensure_project(self, wheel: Path | None) -> Part:
        """edgeface itself, in a folder of its own for each state of its sources.

        Outside a clone a wheel that was given once serves until there is another version of edgeface.
        """
        if wheel is None and project.source_tree() is None:
            given = self._newest_project(project.version())
            if given is not None:
                return given
        own = project.choose(wheel)
        part = Part(self._home / f"edgeface-{own.key[:16]}")

        def make(directory: Path) -> dict[str, str]:
            self._progress(own.doing)
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._home) as scratch:
                built = own.provide(Path(scratch))
                wheels.install([built], directory)
                made_of = {built.name: sha256(built)}
            self._compile(directory, part.directory, self.root.directory)
            return made_of

        part.ensure(_key(_FORMAT, own.key), "edgeface", make, self._progress)
        return part

    def _newest_project(self, version: str) -> Part | None:
        """The part of that version that was made last, if it is whole."""
        for path in _by_age(self._home):
            part = Part(path.with_suffix(""))
            record = part.record()
            if record is not None and any(name.startswith(f"edgeface-{version}-") for name in record.made_of):
                return part if part.whole() else None
        return None

    def ensure_site(self, own: Part) -> None:
        """The wheels that this edgeface says it needs."""
        wanted = wheels.requirements(own.directory)

        def make(directory: Path) -> dict[str, str]:
            self._require_space()
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._home) as scratch:
                self._progress("downloading the wheels that edgeface needs, for aarch64")
                wheels.download(wanted, Path(scratch))
                found = sorted(Path(scratch).glob("*.whl"))
                self._progress(f"installing {len(found)} wheels")
                wheels.install(found, directory)
                made_of = {path.name: sha256(path) for path in found}
            self._compile(directory, self.site.directory, self.root.directory)
            return made_of

        self.site.ensure(_key(_FORMAT, wheels.PYTHON, wanted), "the wheels", make, self._progress)

    def _compile(self, directory: Path, later: Path, root: Path) -> None:
        """Byte-compile once what will lie at ``later``: nothing emulated may write, and imports take half the time."""
        options = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
                   "-s", str(directory), "-p", str(later), str(directory)]
        host = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
        if host is None:
            self._progress("byte-compiling, emulated: some minutes, which a python3.11 on this machine would spare")
        argv = [host] if host else [str(self._qemu), "-L", str(root), str(root / "usr/bin/python3.11")]
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        # compileall ends with 1 when a package holds a file that is no Python, as tests and templates do.
        run([*argv, "-S", *options], what=f"{later.name} cannot be byte-compiled", timeout_s=_COMPILE_TIMEOUT_S,
            next_step="try again", environment=environment, successes=(0, 1))

    def _require_space(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(self._home).free >> 20
        if free_mb < _NEEDED_MB:
            raise OutputError(
                f"{self._home}: {free_mb} MB are free and {_NEEDED_MB} are needed: free some, "
                "or choose another place with XDG_CACHE_HOME"
            )


def _key(*content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _by_age(home: Path) -> list[Path]:
    """The records of edgeface itself, the newest first."""
    return sorted(home.glob("edgeface-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)


def _forget_old_projects(home: Path, used: Part) -> None:
    """Keep the newest few, and any that a process which was started with it may import from still."""
    for path in _by_age(home)[_KEPT_PROJECTS:]:
        if path.stem != used.directory.name and time.time() - path.stat().st_mtime > _KEPT_S:
            Part(path.with_suffix("")).remove()
