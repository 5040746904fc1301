"""What boards are: one TOML a board, those that ship and a user's own.

A user's own lie in ``$XDG_CONFIG_HOME/edgeface/devices`` (by default ``~/.config/edgeface/devices``), and the file's
name is the board's. A file says everything, or starts from a board that ships: ``robot1.toml`` with
``extends = "rk3399"`` and ``address = "pi@robot1"`` is an RK3399 that is reached by ssh, and a file with a shipped
board's own name changes that board. Keys of the file take the place of the shipped ones whole, but for ``best``, which
does so model by model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgeface.errors import DeviceError, UnknownDeviceError, UnknownEngineError
from edgeface.registry import unknown_name
from edgeface.regular_files import LARGEST_SETTINGS_BYTES, is_there, read_regular
from edgeface.toml_reasons import NOT_TOML
from edgeface.user_folders import devices_directory

from .cores import Cluster, Index, Text
from .estimate.calibration import OwnCalibration
from .machine import machine

Count = Annotated[int, Meta(ge=1)]
Throttling = Literal["cpufreq", "cooling", "raspberrypi"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Neither may look like an option to ssh, nor hold what a shell on the board would read as more than one word.
_ADDRESS = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9._:%-]*")
_PYTHON = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./+~-]*")


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One board.

    ``emulated_cpus``: QEMU's names of the processors that stand for it without a board. ``thermal_zones``: the types,
    under /sys/class/thermal, of those that matter. ``throttling``: what tells that it runs slower than it could.
    ``threads`` and ``affinity`` (Linux's numbers of processors) are what nets run best with, and ``engine`` is the one
    that serves it best; ``best`` says it by model, as bundles' names, the best one first, and is written by ``edgeface
    bench MODEL --all``. ``calibration``: what ``edgeface bench --calibrate`` found by timing networks on it.
    ``address`` is what ssh takes (user@host, or a name from its configuration), ``port`` ssh's where it is not its own
    choice, ``ssh_config`` a configuration to use instead of the user's, and ``python`` the interpreter there: by
    default that of the environment which ``edgeface devices setup`` makes. ``local``: it is this machine.
    """

    name: Text
    title: Text
    memory_mb: Count
    clusters: Annotated[list[Cluster], Meta(min_length=1)]
    threads: Count
    affinity: list[Index]
    engine: Text
    best: dict[Text, Annotated[list[Text], Meta(min_length=1)]] = {}
    calibration: OwnCalibration | None = None
    emulated_cpus: list[Text] = []
    thermal_zones: list[Text] = []
    throttling: list[Throttling] = []
    address: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    ssh_config: Text | None = None
    python: str | None = None
    local: bool = False

    @property
    def link(self) -> str:
        """How it is reached: the name of a link. An address counts for more than an emulated processor."""
        if self.local:
            return "local"
        return "emulated" if self.address is None else "ssh"

    @property
    def fastest(self) -> Cluster:
        """The cluster whose cores are fastest."""
        return max(self.clusters, key=lambda cluster: (cluster.capacity, cluster.mhz))

    def by_cpu(self) -> list[tuple[int, Cluster]]:
        """Every processor by Linux's number, with its cluster."""
        return sorted(((cpu, cluster) for cluster in self.clusters for cpu in cluster.cpus), key=lambda pair: pair[0])


def shipped_directory() -> Path:
    """Where the boards that come with the package are described."""
    return Path(__file__).parent / "boards"


def names() -> list[str]:
    """The names of all boards, shipped and own."""
    return sorted({path.stem for path in (*_files(shipped_directory()), *_files(devices_directory()))})


def find(name: str) -> Board:
    """The board of that name.

    Raises UnknownDeviceError with the choices, and DeviceError for a description that is wrong: file, key and what.
    """
    own, shipped = own_description(name), shipped_directory() / f"{name}.toml"
    if name not in names():
        raise UnknownDeviceError(unknown_name("device", name, names()) + f" Your own: {devices_directory()}/NAME.toml.")
    if not is_own(name):
        return find_shipped(name)
    content = _read(own)
    base = content.pop("extends", name if shipped.is_file() else None)
    if base is not None:
        known = sorted(path.stem for path in _files(shipped_directory()))
        if base not in known:
            raise DeviceError(f"{own}: extends: {unknown_name('shipped device', str(base), known)}")
        started = _read(shipped_directory() / f"{base}.toml")
        if isinstance(started.get("best"), dict) and isinstance(content.get("best"), dict):
            content["best"] = started["best"] | content["best"]
        content = started | content
    return _board(name, content, own)


def find_shipped(name: str) -> Board:
    """The board of that name that comes with the package, whatever a user's own description says."""
    path = shipped_directory() / f"{name}.toml"
    return _board(name, _read(path), path)


def is_own(name: str) -> bool:
    """Whether the user has a description of that name."""
    return is_there(own_description(name))


def own_description(name: str) -> Path:
    """Where the user's own description of a board lies, which need not be there."""
    return devices_directory() / f"{name}.toml"


def with_table(text: str, name: str, lines: Iterable[str]) -> str:
    """A description's TOML with ``lines`` in the place of what it said in the table ``name`` and in those below it, and
    all else as it was."""
    table = rf"\n*^\[\[?{re.escape(name)}(?:\.[^\n\]]*)?\]\]?[^\n]*\n(?:(?!\[).*\n?)*"
    rest = re.sub(table, "\n", text, flags=re.MULTILINE).rstrip("\n")
    return "\n".join([*([rest, ""] if rest else []), *lines]) + "\n"


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers as people write them: "0-3, 6"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _files(directory: Path) -> Iterator[Path]:
    found = directory.glob("*.toml") if is_there(directory) else ()
    return (path for path in found if _NAME.fullmatch(path.stem))


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = msgspec.toml.decode(
            read_regular(path, LARGEST_SETTINGS_BYTES), type=dict[str, Any]
        )
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}: make it readable, or remove it") from None
    except NOT_TOML as error:
        raise DeviceError(f"{path}: not TOML: {error}: mend it, or remove it") from None
    return content


def _board(name: str, content: dict[str, Any], path: Path) -> Board:
    if "name" in content:
        raise DeviceError(f"{path}: name: the file's name is the board's: leave it out")
    if content.get("local") is True:
        content = machine().for_board() | content
    try:
        board = msgspec.convert({"name": name, **content}, Board)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        if where.startswith("best[...]"):
            where = where.replace("[...]", f".{_wrong_key(name, content, 'best')}", 1)
        raise DeviceError(f"{path}: {where.rstrip('`') + ': ' if where else ''}{what}: mend it") from None
    problem = _problem(board)
    if problem:
        raise DeviceError(f"{path}: {problem}")
    return board


def _wrong_key(name: str, content: dict[str, Any], table: str) -> str:
    """The first key of ``table`` whose value does not fit: msgspec says of a table's keys only that one is wrong."""
    for key, value in content[table].items():
        try:
            msgspec.convert({"name": name, **content, table: {key: value}}, Board)
        except msgspec.ValidationError:
            return str(key)
    return "..."


def _problem(board: Board) -> str | None:
    """What cannot be in a description of the right shape, with its key and the next step; None when nothing is."""
    cpus = [cpu for cluster in board.clusters for cpu in cluster.cpus]
    if len(set(cpus)) < len(cpus):
        return f"clusters: CPU {max(cpus, key=cpus.count)} is in it twice: give each to one cluster"
    strange = sorted(set(board.affinity) - set(cpus))
    if strange:
        return f"affinity: there is no CPU {strange[0]}, only {', '.join(map(str, sorted(cpus)))}: choose of them"
    if board.local and board.address is not None:
        return "address: a board that is local has none: leave one of the two out"
    if not board.local and board.address is None and not board.emulated_cpus:
        return "address: neither it nor emulated_cpus is there: say how ssh reaches the board"
    if board.address is not None and not _ADDRESS.fullmatch(board.address):
        return f"address: {board.address!r} is none that ssh takes: write host, user@host or a name of your ssh config"
    if board.python is not None and not _PYTHON.fullmatch(board.python):
        return f"python: {board.python!r} is no program's path: write python3 or /path/to/python3"
    return _unknown_engine(board.engine)


def _unknown_engine(name: str) -> str | None:
    from edgeface.runtime.engines import engine

    try:
        engine.get(name)
    except UnknownEngineError as error:
        return f"engine: {error}"
    return None
