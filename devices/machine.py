"""What the machine is that this runs on, from its /proc and /sys: what a board's description says, as it really is."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgeface.board_health import read_number, read_text, thermal_zones

from .cores import Cluster, Midr

ROOT = Path("/")
# More threads gain nothing for nets as small as these.
_MOST_THREADS = 4
_ARM = 0x41
# Arm's part numbers, from the cores' technical reference manuals.
_ARM_CORES = {
    0xD03: "cortex-a53", 0xD04: "cortex-a35", 0xD05: "cortex-a55", 0xD07: "cortex-a57", 0xD08: "cortex-a72",
    0xD09: "cortex-a73", 0xD0A: "cortex-a75", 0xD0B: "cortex-a76", 0xD0C: "neoverse-n1", 0xD0D: "cortex-a77",
    0xD40: "neoverse-v1", 0xD41: "cortex-a78", 0xD44: "cortex-x1", 0xD46: "cortex-a510", 0xD47: "cortex-a710",
    0xD49: "neoverse-n2", 0xD4D: "cortex-a715", 0xD80: "cortex-a520",
}  # fmt: skip
_UNKNOWN = "unknown"


class Machine(msgspec.Struct, frozen=True):
    """``model`` is the board's own name, or the processor's where the board has none; ``clusters`` as in ``Board``, the
    slowest first; ``usable`` the processors that this process may run on."""

    model: str
    architecture: str
    kernel: str
    memory_mb: int
    clusters: Annotated[list[Cluster], Meta(min_length=1)]
    usable: list[int]
    thermal_zones: list[str]

    def for_board(self) -> dict[str, Any]:
        """The keys of a board's description that can be read from the machine."""
        fastest = self.clusters[-1].cpus
        affinity = sorted(set(fastest) & set(self.usable)) or self.usable or fastest
        return {
            "memory_mb": self.memory_mb,
            "clusters": msgspec.to_builtins(self.clusters),
            "threads": min(_MOST_THREADS, len(affinity)),
            "affinity": affinity,
            "thermal_zones": self.thermal_zones,
        }


def machine(root: Path = ROOT) -> Machine:
    """This machine; ``root`` is where /proc and /sys are looked for. What cannot be read is "unknown", or 0."""
    blocks = list(_cpuinfo(root / "proc" / "cpuinfo"))
    clusters = _clusters(blocks, root / "sys/devices/system/cpu")
    known = {cpu for cluster in clusters for cpu in cluster.cpus}
    return Machine(
        model=_model(root, blocks),
        architecture=platform.machine(),
        kernel=platform.release(),
        memory_mb=_memory_mb(root / "proc" / "meminfo"),
        clusters=clusters,
        usable=sorted(known & os.sched_getaffinity(0)),
        thermal_zones=sorted({zone.kind for zone in thermal_zones(root)}),
    )


def _cpuinfo(path: Path) -> Iterator[dict[str, str]]:
    """A dictionary for each processor. The kernel gives one at least, and so does this."""
    found = False
    for block in (read_text(path) or "").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        # 32-bit kernels end with a block about the board.
        if values.get("processor", "").isdigit():
            found = True
            yield values
    if not found:
        yield {"processor": "0"}


def _clusters(blocks: list[dict[str, str]], sys_cpu: Path) -> list[Cluster]:
    """Processors that are alike in every way, put together."""
    alike: dict[bytes, Cluster] = {}
    for block in blocks:
        one = _one_cpu(block, sys_cpu / f"cpu{block['processor']}")
        key = msgspec.json.encode(msgspec.structs.replace(one, cpus=[0]))
        before = alike.get(key)
        alike[key] = one if before is None else msgspec.structs.replace(one, cpus=[*before.cpus, *one.cpus])
    return sorted(alike.values(), key=lambda cluster: (cluster.capacity, cluster.mhz, cluster.cpus))


def _one_cpu(block: dict[str, str], sys_cpu: Path) -> Cluster:
    features = block.get("Features", block.get("flags", "")).split()
    midr = _midr(block)
    core = block.get("model name", "") or _UNKNOWN
    if midr is not None:
        named = _ARM_CORES.get(midr.part) if midr.implementer == _ARM else None
        core = named or f"implementer {midr.implementer:#04x} part {midr.part:#05x}"
    capacity = read_number(sys_cpu / "cpu_capacity") or 1024
    return Cluster(
        core=core,
        cpus=[int(block["processor"])],
        mhz=(read_number(sys_cpu / "cpufreq/cpuinfo_max_freq") or 0) // 1000,
        min_mhz=(read_number(sys_cpu / "cpufreq/cpuinfo_min_freq") or 0) // 1000,
        capacity=min(1024, max(1, capacity)),
        isa=_isa(features),
        features=features,
        midr=midr,
    )


def _midr(block: dict[str, str]) -> Midr | None:
    with suppress(KeyError, ValueError):
        return Midr(
            part=int(block["CPU part"], 16),
            variant=int(block["CPU variant"], 16),
            revision=int(block["CPU revision"]),
            implementer=int(block["CPU implementer"], 16),
        )
    return None


def _isa(features: list[str]) -> str:
    """Which version of ARMv8 the features show: each tells by one that it requires and those before it do not have."""
    if "asimd" not in features:
        return platform.machine()
    telling = {"flagm": "armv8.4-a", "fcma": "armv8.3-a", "dcpop": "armv8.2-a", "atomics": "armv8.1-a"}
    return next((isa for feature, isa in telling.items() if feature in features), "armv8.0-a")


def _model(root: Path, blocks: list[dict[str, str]]) -> str:
    # A device tree's strings end with a zero byte.
    tree = (read_text(root / "proc/device-tree/model") or "").strip("\0 \n")
    return tree or next((block["model name"] for block in blocks if block.get("model name")), _UNKNOWN)


def _memory_mb(meminfo: Path) -> int:
    for line in (read_text(meminfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key == "MemTotal":
            return int(value.split()[0]) >> 10
    return 0
