"""Calibrating on a user's own board: a dozen of ncnn's benchmark networks timed there, and counted on an emulated core.

The factors are kept in the board's description. They take the place of those that are shipped for a board like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
from edgeface.devices import boards
from edgeface.devices.boards import Board
from edgeface.devices.client import Client
from edgeface.devices.cores import Cluster
from edgeface.devices.emulation.root import ensure_root
from edgeface.devices.estimate.calibrate import count_networks, fit_core, interpolated, threads_fit
from edgeface.devices.estimate.calibration import Calibration, CoreFit, OwnCalibration, ThreadsFit, of_own
from edgeface.devices.estimate.costing import find_tools
from edgeface.devices.estimate.kept import qemu_version, wheel_versions
from edgeface.devices.estimate.published import Column
from edgeface.devices.links.registry import Link
from edgeface.devices.progress import Progress, silent

from edgeface.atomic import write_bytes
from edgeface.errors import DeviceError

NETWORKS = (
    "squeezenet", "squeezenet_int8", "mobilenet", "mobilenet_int8", "mobilenet_v2", "mobilenet_v3", "mnasnet",
    "shufflenet", "shufflenet_v2", "blazeface", "resnet18", "resnet18_int8",
)
RUNS = 10
# The mean error up to which estimates are relied on: wider than for published times, averaged at leisure.
ACCEPTED = 0.20
_HEAD = "# Written by 'edgeface bench --calibrate': networks timed on the board, ms as published_ms."

# By core and threads, the median ms of each network.
Times = dict[tuple[str, int], dict[str, float]]


def calibrate_own(
    link: Link, *, names: Sequence[str] = NETWORKS, runs: int = RUNS, progress: Progress = silent
) -> Calibration:
    """Time the networks ``names`` on the board at the end of ``link``, one thread and several on each kind of core that
    can be emulated, count them here and fit a factor to each core. Nothing is written.

    Raises DeviceError for a board of other cores than its description has, or of none that can be emulated, and what
    ``Client`` and ``ensure_root`` raise.
    """
    board = link.board
    clusters = [cluster for cluster in board.clusters if _emulating(cluster.core) is not None]
    if not clusters:
        cores = ", ".join(sorted({cluster.core for cluster in board.clusters}))
        raise DeviceError(f"{board.name}: its cores ({cores}) cannot be emulated, so nothing can be counted for it")
    tools = find_tools()
    times = _timed(link, clusters, names, runs, progress)
    fits: list[CoreFit] = []
    versions: dict[str, str] = {}
    for cluster in clusters:
        like = _emulating(cluster.core)
        assert like is not None
        root = ensure_root(like, progress=progress)
        versions = wheel_versions(root, "ncnn") | {"qemu": qemu_version(root), "llvm": tools.version}
        counted = count_networks(root, cluster.core, names, versions, progress)
        column = Column(cluster.core, float(cluster.mhz), 1, ACCEPTED)
        fits.append(fit_core(column, times[cluster.core, 1], counted))
    own = OwnCalibration(date.today().isoformat(), runs, versions, fits, _threads(times))
    return of_own(board.name, board.title, own)


def keep_own(board: Board, calibration: Calibration) -> Path:
    """Write it into the user's description of ``board``, in the place of one that is there already; the file.

    Raises DeviceError where its error is more than is accepted or several threads are slower than one, and where the
    description is wrong now, and OutputError.
    """
    missed = calibration.missed() + [
        f"{fit.threads} threads on {fit.core} are slower than one" for fit in calibration.threads if fit.speedup < 1
    ]
    if missed or calibration.own is None:
        raise DeviceError(
            f"{board.name}: {'; '.join(missed)}: nothing was written: see that nothing else runs there, and that the "
            "description's cores and clocks are the board's"
        )
    path = boards.own_description(board.name)
    boards.find(board.name)     # what is wrong with it is said before anything is written
    write_bytes(path, with_calibration(path.read_text(), calibration.own).encode())
    boards.find(board.name)
    return path


def with_calibration(text: str, own: OwnCalibration) -> str:
    """A description's TOML with ``own`` in the place of what it said of it, and all else as it was."""
    return boards.with_table(text, "calibration", _lines(own))


def _lines(own: OwnCalibration) -> Iterator[str]:
    yield "[calibration]"
    yield _HEAD
    yield from (f"{key} = {_value(value)}" for key, value in own.scalars().items())
    for table, rows in (("cores", own.cores), ("threads", own.threads)):
        for row in rows:
            yield ""
            yield f"[[calibration.{table}]]"
            for key, value in msgspec.to_builtins(row).items():
                if key == "networks" and isinstance(value, list):
                    yield "networks = ["
                    yield from (f"  {_value(each)}," for each in value)
                    yield "]"
                elif value is not None:
                    yield f"{key} = {_value(value)}"


def _value(value: object) -> str:
    """As TOML has it on one line; what is None is left out of a table."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None) + "}"
    # Texts, numbers and lists of texts are written alike in JSON.
    return msgspec.json.encode(value).decode()


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else msgspec.json.encode(name).decode()


def _emulating(core: str) -> Board | None:
    """A board that comes with edgeface whose emulation has such a core; None where there is none."""
    for name in sorted(path.stem for path in boards.shipped_directory().glob("*.toml")):
        board = boards.find_shipped(name)
        if core in board.emulated_cpus:
            return board
    return None


def _timed(
    link: Link, clusters: Sequence[Cluster], names: Sequence[str], runs: int, progress: Progress
) -> Times:
    times: Times = {}
    with Client(link) as client:
        there = {cluster.core for cluster in client.machine().clusters}
        strange = [cluster.core for cluster in clusters if cluster.core not in there]
        if strange:
            raise DeviceError(
                f"{client.where}: has {', '.join(sorted(there))}, its description says {', '.join(strange)}: mend the "
                "description, or its address"
            )
        for cluster in clusters:
            client.request("pin", {"cpus": list(cluster.cpus)})
            for threads in sorted({1, min(2, cluster.cores), cluster.cores}):
                found = times[cluster.core, threads] = {}
                for number, name in enumerate(names, 1):
                    ms = client.time_network(name, threads=threads, runs=runs)
                    found[name] = float(np.median(ms))
                    progress(
                        f"{name}: {found[name]:.2f} ms on {cluster.core} by {threads}, {number} of {len(names)}"
                    )
    return times


def _threads(times: Times) -> list[ThreadsFit]:
    fits = {
        (core, threads): threads_fit(core, threads, many, times[core, 1])
        for (core, threads), many in times.items() if threads > 1
    }
    return [*fits.values(), *interpolated(fits)]
