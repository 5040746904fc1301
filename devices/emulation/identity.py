"""What a board's /proc/cpuinfo and /sys/devices/system/cpu say, for programs that are emulated.

An inference engine asks them how many cores of which kind there are, and some crash on those of the x86 host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeface.devices.boards import Board
from edgeface.devices.cores import Cluster

_PROC = "proc/cpuinfo"
_SYS = "sys/devices/system/cpu"


def identity_files(board: Board) -> dict[str, str]:
    """Every file's content by its path under the root.

    Clusters without a ``midr`` have no identification, as on a kernel that shows none; a clock of 0 has no file.
    """
    cpus = board.by_cpu()
    numbers = [number for number, _ in cpus]
    files = {_PROC: "".join(_cpuinfo(number, cluster) for number, cluster in cpus)}
    for name in ("possible", "present", "online"):
        files[f"{_SYS}/{name}"] = _ranges(numbers) + "\n"
    files[f"{_SYS}/kernel_max"] = f"{max(numbers)}\n"
    for package, cluster in enumerate(board.clusters):
        for number in cluster.cpus:
            for name, value in _cpu_files(number, cluster, package).items():
                files[f"{_SYS}/cpu{number}/{name}"] = f"{value}\n"
    return files


def write_identity(files: Mapping[str, str], root: Path) -> None:
    """Write what ``identity_files`` gives into a root that holds none yet. Raises OSError."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def _cpuinfo(number: int, cluster: Cluster) -> str:
    lines = [f"processor\t: {number}", "BogoMIPS\t: 48.00", f"Features\t: {' '.join(cluster.features)}"]
    if cluster.midr is not None:
        lines += [
            f"CPU implementer\t: {cluster.midr.implementer:#04x}",
            "CPU architecture: 8",
            f"CPU variant\t: {cluster.midr.variant:#x}",
            f"CPU part\t: {cluster.midr.part:#05x}",
            f"CPU revision\t: {cluster.midr.revision}",
        ]
    return "\n".join(lines) + "\n\n"


def _cpu_files(number: int, cluster: Cluster, package: int) -> dict[str, str | int]:
    files: dict[str, str | int] = {
        "cpu_capacity": cluster.capacity,
        "topology/physical_package_id": package,
        "topology/core_id": number,
        "topology/core_siblings_list": _ranges(sorted(cluster.cpus)),
        "topology/thread_siblings_list": number,
    }
    if cluster.mhz:
        files["cpufreq/cpuinfo_max_freq"] = files["cpufreq/scaling_max_freq"] = cluster.mhz * 1000
    if cluster.min_mhz:
        files["cpufreq/cpuinfo_min_freq"] = files["cpufreq/scaling_min_freq"] = cluster.min_mhz * 1000
    if cluster.midr is not None:
        files["regs/identification/midr_el1"] = f"{cluster.midr.value:#018x}"
    return files


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as Linux lists them: 0-3,5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
