"""Jobs run emulated, their regions counted, and every region costed on the core: what an estimate is made from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from edgeface.devices import boards
from edgeface.devices.emulation.identity import identity_files, write_identity
from edgeface.devices.emulation.root import EmulatedRoot
from edgeface.devices.estimate.costing import Counts, cost, find_tools
from edgeface.devices.estimate.counting import Region, count_regions
from edgeface.devices.estimate.jobs import EMPTY, Job, Outcome, Place

from edgeface.atomic import refused, write_bytes
from edgeface.errors import DeviceError

TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Counted:
    """A region and what it costs, less what marking it costs."""

    place: Place
    counts: Counts


@dataclass(frozen=True)
class Finished:
    """The regions of some jobs in the order in which they ran, and the faces that a job found, by its index."""

    regions: list[Counted]
    faces: dict[int, int]


@dataclass(frozen=True)
class Executed:
    """What jobs executed on an emulated processor: a region for each of ``outcome``'s places."""

    outcome: Outcome
    regions: list[Region]


# LLVM's model of an A53 has every result written back in order, and waits wherever a short operation follows a long
# one. ncnn's kernels for that very core mix loads among multiplications: by the model they would take twice the time,
# and estimates of published times would be off by 35 % on average. Their siblings for other cores do the same work in
# an order that the model judges better (11 %), so it is those that are counted.
_EXECUTED_BY = {"cortex-a53": "cortex-a72"}


def processor_for(core: str) -> str:
    """The processor, as QEMU names it, that executes what is counted for ``core``."""
    return _EXECUTED_BY.get(core, core)


def run_jobs(root: EmulatedRoot, core: str, jobs: Sequence[Job], *, timeout_s: float = TIMEOUT_S) -> Finished:
    """Run ``jobs`` and cost them on ``core``, as LLVM calls it ("cortex-a72"); errors as in ``execute``."""
    return costed(execute(root, processor_for(core), jobs, timeout_s=timeout_s), core)


def execute(root: EmulatedRoot, cpu: str, jobs: Sequence[Job], *, timeout_s: float = TIMEOUT_S) -> Executed:
    """Run ``jobs`` on ``cpu``, as QEMU names it.

    Raises DeviceError when a job fails, InstallError for a program that must be installed first, and OutputError.
    """
    find_tools()    # what is missing is said before minutes of emulation
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-jobs-") as scratch:
            given, left = Path(scratch) / "jobs.json", Path(scratch) / "outcome.json"
            write_bytes(given, msgspec.json.encode(list(jobs)))
            regions = count_regions(
                alone(root, cpu, Path(scratch) / "root"), cpu,
                ["-m", "edgeface.devices.estimate.subject", given, left],
                what=f"counting on an emulated {cpu} failed", timeout_s=timeout_s,
            )
            outcome = msgspec.json.decode(left.read_bytes(), type=Outcome)
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None
    if len(outcome.places) != len(regions):
        raise DeviceError(
            f"{len(outcome.places)} regions were marked and {len(regions)} counted: the estimate means nothing"
        )
    return Executed(outcome, regions)


def alone(root: EmulatedRoot, cpu: str, folder: Path) -> EmulatedRoot:
    """``root`` as if its board had the cores of ``cpu`` alone; made in ``folder``, which is not there yet, of links.

    Where the board has no such cores it is left as it is. Raises OSError.

    QEMU does not hide on which of the host's processors a thread runs, and by the kind of processor that has the same
    number on the board XNNPACK chooses its kernels: of a net on an RK3399's A72 it would run those for the A53.
    """
    board = boards.find(root.board)
    found = [cluster for cluster in board.clusters if cluster.core == cpu]
    if not found:
        return root
    cluster = msgspec.structs.replace(found[0], cpus=list(range(found[0].cores)))
    identity = identity_files(msgspec.structs.replace(board, clusters=[cluster]))
    folder.mkdir()
    for path in root.directory.iterdir():
        if path.name not in {Path(name).parts[0] for name in identity}:
            (folder / path.name).symlink_to(path)
    write_identity(identity, folder)
    return replace(root, directory=folder)


def costed(executed: Executed, core: str) -> Finished:
    """What was executed, costed on ``core``; errors as in ``cost``."""
    pairs = list(zip(executed.outcome.places, cost(executed.regions, core), strict=True))
    nothing = [counts for place, counts in pairs if place.stage == EMPTY][-1]
    regions = [Counted(place, counts - nothing) for place, counts in pairs if place.stage != EMPTY]
    return Finished(regions, executed.outcome.faces)
