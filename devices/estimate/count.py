"""Jobs run emulated, their regions counted, and every region costed on the core: what an estimate is made from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from edgeface.devices.emulation.root import EmulatedRoot
from edgeface.devices.estimate.costing import Counts, cost, find_tools
from edgeface.devices.estimate.counting import count_regions
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


def count(root: EmulatedRoot, core: str, jobs: Sequence[Job], *, timeout_s: float = TIMEOUT_S) -> list[Counted]:
    """``run_jobs``, where only the regions matter."""
    return run_jobs(root, core, jobs, timeout_s=timeout_s).regions


def run_jobs(root: EmulatedRoot, core: str, jobs: Sequence[Job], *, timeout_s: float = TIMEOUT_S) -> Finished:
    """Run ``jobs`` on ``core``, which QEMU and LLVM know by that name ("cortex-a72").

    Raises DeviceError when a job fails, InstallError for a program that must be installed first, and OutputError.
    """
    find_tools()    # what is missing is said before minutes of emulation
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-jobs-") as scratch:
            given, left = Path(scratch) / "jobs.json", Path(scratch) / "outcome.json"
            write_bytes(given, msgspec.json.encode(list(jobs)))
            regions = count_regions(
                root, core, ["-m", "edgeface.devices.estimate.subject", given, left],
                what=f"counting on an emulated {core} failed", timeout_s=timeout_s,
            )
            outcome = msgspec.json.decode(left.read_bytes(), type=Outcome)
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None
    if len(outcome.places) != len(regions):
        raise DeviceError(
            f"{len(outcome.places)} regions were marked and {len(regions)} counted: the estimate means nothing"
        )
    costed = list(zip(outcome.places, cost(regions, core), strict=True))
    nothing = [counts for place, counts in costed if place.stage == EMPTY][-1]
    found = [Counted(place, counts - nothing) for place, counts in costed if place.stage != EMPTY]
    return Finished(found, outcome.faces)
