"""What a board really has, and where its description says something else."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgeface.board_health import Health

from .boards import Board, ranges
from .client import Client
from .cores import Cluster
from .links.registry import Link
from .machine import Machine
from .protocol import Hello
from .replies import Serving

# What the kernel and the graphics take of the memory, at most, so that less than the rest is a smaller board.
_MEMORY_SHARE = 0.8
# Of the others a kernel may list more or fewer, and nothing depends on them.
_FASTER = frozenset(("fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"))


class Probe(msgspec.Struct, frozen=True):
    """One look at a board: how it is reached, what its worker said of itself, what the machine is and how it is now,
    and which bundles models' names mean there; ``warnings`` name the key of the description that is wrong. Of an
    ``emulated`` board the processors are its own, and memory, sensors and load those of this machine."""

    device: str
    where: str
    worker: Hello
    machine: Machine
    health: Health
    serving: Serving
    emulated: bool
    warnings: list[str]


def probe(link: Link) -> Probe:
    """Ask the board at the end of ``link``. Raises DeviceError and its branches when it cannot be asked."""
    with Client(link) as client:
        machine, health, worker = client.machine(), client.health(), client.hello
        serving = client.serving()
    emulated = link.board.link == "emulated"
    differing = _processors(link.board, machine) if emulated else differences(link.board, machine)
    return Probe(
        device=link.board.name,
        where=link.describe(),
        worker=worker,
        machine=machine,
        health=health,
        serving=serving,
        emulated=emulated,
        warnings=[*differing, *_engine(link.board, worker)],
    )


def differences(board: Board, machine: Machine) -> Iterator[str]:
    """Where the description of ``board`` is wrong for ``machine``, a line each, beginning with the key."""
    yield from _processors(board, machine)
    if not _MEMORY_SHARE * board.memory_mb <= machine.memory_mb <= board.memory_mb:
        yield f"memory_mb: it has {machine.memory_mb} MB, described are {board.memory_mb}"
    if board.thermal_zones and not set(board.thermal_zones) & set(machine.thermal_zones):
        zones = ", ".join(machine.thermal_zones) or "none"
        yield f"thermal_zones: {', '.join(board.thermal_zones)}: none of them is there; there are: {zones}"
    there = {cpu for cluster in machine.clusters for cpu in cluster.cpus}
    barred = sorted(set(board.affinity) & there - set(machine.usable))
    if barred:
        yield f"affinity: CPU {ranges(barred)} cannot be used by this user: it is off, or kept for something else"


def _processors(board: Board, machine: Machine) -> Iterator[str]:
    said, found = dict(board.by_cpu()), {cpu: c for c in machine.clusters for cpu in c.cpus}
    absent, more = sorted(said.keys() - found.keys()), sorted(found.keys() - said.keys())
    if absent:
        yield f"clusters: there is no CPU {ranges(absent)}"
    if more:
        yield f"clusters: CPU {ranges(more)} ({found[more[0]].core}) is not described"
    grouped: dict[str, list[int]] = {}
    for cpu in sorted(said.keys() & found.keys()):
        for text in _cluster(said[cpu], found[cpu]):
            grouped.setdefault(text, []).append(cpu)
    for text, cpus in grouped.items():
        yield f"clusters: CPU {ranges(cpus)} {text}"


def _cluster(said: Cluster, found: Cluster) -> Iterator[str]:
    if said.core != found.core:
        # Everything else then differs as well.
        yield f"is {found.core}, described is {said.core}"
        return
    if said.midr is not None and found.midr is not None and said.midr != found.midr:
        yield (
            f"is revision r{found.midr.variant}p{found.midr.revision}, described is "
            f"r{said.midr.variant}p{said.midr.revision}"
        )
    if found.mhz and found.mhz != said.mhz:
        yield f"runs at {found.mhz} MHz at most, described are {said.mhz}"
    if said.isa != found.isa:
        yield f"shows {found.isa}, described is {said.isa}"
    lacking = [feature for feature in said.features if feature not in found.features]
    if lacking:
        yield f"does not have {' '.join(lacking)}"
    extra = [feature for feature in found.features if feature in _FASTER and feature not in said.features]
    if extra:
        yield f"also has {' '.join(extra)}, which engines make use of"


def _engine(board: Board, worker: Hello) -> Iterator[str]:
    if worker.engines.get(board.engine) is None:
        yield f"engine: {board.engine} is not installed there"
