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
from edgeface.devices.estimate.jobs import EMPTY, Job, Place

from edgeface.atomic import refused, write_bytes
from edgeface.errors import DeviceError

TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Counted:
    """A region and what it costs, less what marking it costs."""

    place: Place
    counts: Counts


def count(root: EmulatedRoot, core: str, jobs: Sequence[Job], *, timeout_s: float = TIMEOUT_S) -> list[Counted]:
    """Every region of ``jobs`` on ``core``, which QEMU and LLVM know by that name ("cortex-a72"), in the order in which
    they ran.

    Raises DeviceError when a job fails, InstallError for a program that must be installed first, and OutputError.
    """
    find_tools()    # what is missing is said before minutes of emulation
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-jobs-") as scratch:
            given, names = Path(scratch) / "jobs.json", Path(scratch) / "names.json"
            write_bytes(given, msgspec.json.encode(list(jobs)))
            regions = count_regions(
                root, core, ["-m", "edgeface.devices.estimate.subject", given, names],
                what=f"counting on an emulated {core} failed", timeout_s=timeout_s,
            )
            places = msgspec.json.decode(names.read_bytes(), type=list[Place])
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None
    if len(places) != len(regions):
        raise DeviceError(f"{len(places)} regions were marked and {len(regions)} counted: the estimate means nothing")
    counts = cost(regions, core)
    nothing = [c for place, c in zip(places, counts, strict=True) if place.stage == EMPTY][-1]
    return [
        Counted(place, c - nothing) for place, c in zip(places, counts, strict=True) if place.stage != EMPTY
    ]
