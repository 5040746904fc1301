"""edgeface on a real board: its wheel copied there and installed beside what is there, tried, and put in its place."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from edgeface.errors import DeviceError, DeviceUnreachableError, EdgefaceError

from .boards import Board
from .client import Client
from .emulation.project import choose
from .links.ssh import SETUP_PYTHON, SshLink
from .progress import Progress, silent
from .protocol import Hello
from .ssh import SshHost

OLDEST = (3, 10)
_SHORT_S = 60.0
# Everything from PyPI to a slow card over a slow line; pip's own lines show that it goes on.
_INSTALL_S = 3600.0
_COPY_S = 900.0
# Sent before it is known which Python it is, so it is written for all of them.
_LOOK = (
    "import json, platform, struct, sys; print(json.dumps({"
    "'version': list(sys.version_info[:3]), 'bits': 8 * struct.calcsize('P'), "
    "'machine': platform.machine(), 'libc': platform.libc_ver()[1]}))"
)
_PLATFORM = re.compile(r"(?:manylinux_(\d+)_(\d+)|linux)_(\w+)")
_OLD_NAMES = {"manylinux2014_": "manylinux_2_17_", "manylinux2010_": "manylinux_2_12_", "manylinux1_": "manylinux_2_5_"}


class Python(msgspec.Struct, frozen=True):
    """A board's Python: its version, 32 or 64 ``bits``, the processor's architecture and the version of its glibc."""

    version: tuple[int, int, int]
    bits: int
    machine: str
    libc: str


class Installed(msgspec.Struct, frozen=True):
    """edgeface on a board: the Python that has it, the wheel it came from, and what its worker says of itself."""

    device: str
    where: str
    python: str
    wheel: str
    worker: Hello


def install_on_board(board: Board, *, wheel: Path | None = None, progress: Progress = silent) -> Installed:
    """Install edgeface on a board with an address: into an environment of its own, or into that of the Python which
    the board's description names. The old one works until the new one was started there and did.

    ``wheel`` None: a clone builds the one for aarch64, an installed package downloads it. ``progress`` gets a line for
    each step, and pip's lines.

    Raises DeviceError and its branches, InstallError when this machine lacks a program, and OutputError when the wheel
    cannot be made here. The board is then as it was.
    """
    host = SshHost(board)
    base = board.python or "python3"
    there = _look(host, base)
    with _wheel(wheel, there, host) as path:
        _check_wheel(path.name, there, host)
        into = board.python or ""
        room = _step(host, base, ["prepare"])["directory"]
        try:
            progress(f"copying {path.name} to {host.reached}")
            host.copy(path, f"{room}/{path.name}", timeout_s=_COPY_S)
            progress("installing it there; the first time takes minutes")
            fresh = _step(host, base, ["install", room, path.name, into], timeout_s=_INSTALL_S, watch=progress)
            progress("trying it there")
            _hello(SshLink(board, fresh["python"]))
            _step(host, base, ["commit", room, path.name, into], timeout_s=_INSTALL_S, watch=progress)
        except BaseException:
            # When the connection is lost so is this, and the next setup removes what it finds.
            with suppress(EdgefaceError):
                _step(host, base, ["discard", room])
            raise
        python = board.python or SETUP_PYTHON
        link = SshLink(board, python)
        return Installed(board.name, link.describe(), python, path.name, _hello(link))


def _look(host: SshHost, python: str) -> Python:
    lines = host.run([python, "-c", _LOOK], timeout_s=_SHORT_S)
    try:
        there = msgspec.json.decode(lines[-1] if lines else "", type=Python)
    except msgspec.DecodeError:
        raise DeviceUnreachableError(
            f"{host.reached}: {python} there is no Python: name another as python in {host.board.name}.toml"
        ) from None
    version = ".".join(map(str, there.version))
    if there.version[:2] < OLDEST:
        raise DeviceUnreachableError(
            f"{host.reached}: {python} there is Python {version}, edgeface needs 3.10 or newer: install a newer "
            f"system, or name another as python in {host.board.name}.toml"
        )
    if there.bits != 64:
        raise DeviceUnreachableError(
            f"{host.reached}: its system is a {there.bits}-bit one, for which engines have no wheels: install the "
            "64-bit system"
        )
    return there


@contextmanager
def _wheel(given: Path | None, there: Python, host: SshHost) -> Iterator[Path]:
    if given is not None:
        if given.suffix != ".whl" or not given.is_file():
            raise DeviceError(f"{given}: no such wheel: make one with python cross/build_wheel.py")
        yield given
        return
    if there.machine != "aarch64":
        raise DeviceError(
            f"{host.reached}: it is {there.machine}, and only wheels for aarch64 are made here: give one with --wheel "
            "(pip wheel --no-deps . makes it, in a clone on such a machine)"
        )
    with tempfile.TemporaryDirectory(prefix="edgeface-wheel-") as folder:
        yield choose(None).provide(Path(folder))


def _check_wheel(name: str, there: Python, host: SshHost) -> None:
    """The platforms in a wheel's name against the board, so that nothing is copied that cannot work."""
    tags = name.removesuffix(".whl").split("-")[-1]
    for old, new in _OLD_NAMES.items():
        tags = tags.replace(old, new)
    if tags == "any":
        return
    platforms = [found for found in map(_PLATFORM.fullmatch, tags.split(".")) if found]
    machines = {found[3] for found in platforms}
    if there.machine not in machines:
        raise DeviceError(
            f"{host.reached}: it is {there.machine}, and {name} is for {', '.join(sorted(machines)) or tags}: give a "
            "wheel for it with --wheel"
        )
    needed = [(int(f[1]), int(f[2])) for f in platforms if f[3] == there.machine and f[1]]
    libc = tuple(int(part) for part in there.libc.split(".")[:2] if part.isdigit())
    if needed and libc and min(needed) > libc:
        raise DeviceError(
            f"{host.reached}: its system has glibc {there.libc}, and {name} needs {'.'.join(map(str, min(needed)))}: "
            "install a newer system"
        )


def _step(
    host: SshHost, python: str, arguments: list[str], *, timeout_s: float = _SHORT_S, watch: Progress = silent
) -> dict[str, str]:
    """Run a step of install_script.py there; its result. Raises DeviceError with the line of its error."""
    outcome: dict[str, Any] = {}

    def one(line: str) -> None:
        # What a board's Python prints of its own accord is no answer.
        with suppress(ValueError):
            said = json.loads(line)
            outcome.update(said)
            if "say" in said:
                watch(said["say"])

    script = Path(__file__).with_name("install_script.py").read_bytes()
    host.run([python, "-", *arguments], stdin=script, timeout_s=timeout_s, watch=one)
    if "result" not in outcome:
        raise DeviceError(f"{host.reached}: {outcome.get('error', 'the installation gave no answer: try again')}")
    result: dict[str, str] = outcome["result"]
    return result


def _hello(link: SshLink) -> Hello:
    with Client(link) as client:
        return client.hello
