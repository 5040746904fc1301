"""Calibrating: ncnn's benchmark networks counted on an emulated board, and compared with the times published for it.

What one of them costs is kept in the user's cache, so that a calibration that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from edgeface.devices.boards import Board
from edgeface.devices.emulation.programs import Progress, run, silent
from edgeface.devices.emulation.root import EmulatedRoot, cache_directory, ensure_root
from edgeface.devices.estimate import counting
from edgeface.devices.estimate.calibration import Calibration, CoreFit, NetworkFit, ThreadsFit
from edgeface.devices.estimate.costing import Counts, find_tools
from edgeface.devices.estimate.count import Executed, costed, execute, processor_for
from edgeface.devices.estimate.fit import Values, left_out, mean_error, no_less_than_zero, one_factor
from edgeface.devices.estimate.jobs import NetJob, Outcome
from edgeface.devices.estimate.networks import Network, network
from edgeface.devices.estimate.networks.builder import INPUT
from edgeface.devices.estimate.published import Column, Published, published

from edgeface.atomic import refused, write_bytes
from edgeface.errors import OptionError
from edgeface.runtime.engines.ncnn_layers import to_param

# VGG-16 takes some minutes on one slow core.
_TIMEOUT_S = 3600.0
_SEED = 20240721
_FEWEST = 2
# benchncnn's options: packed layouts, Winograd, and half precision. An ARMv8.0-A cannot compute with it, but fully
# connected layers keep their weights in it there too, as they did when the published times were taken.
_PRECISION = "fp16"


@dataclass(frozen=True)
class CountedNetworks:
    """What each network costs on one core, in the order of ``names``."""

    names: Sequence[str]
    networks: Sequence[Network]
    counts: Sequence[Counts]


def calibrate(board: Board, *, names: Sequence[str] | None = None, progress: Progress = silent) -> Calibration:
    """Count ncnn's benchmark networks on every core that one thread's times are published of, and fit them.

    ``names``: which networks, at least two; all that can be built here and have published times unless given.
    ``progress`` gets a line for each step that takes a while: all of it is half an hour when nothing was kept.

    Raises OptionError for a board without published times or a network without one, UnknownNameError for a network
    that is not known, InstallError for a program that must be installed first, DeviceError and OutputError.
    """
    table = published(board.name)
    chosen = _chosen(table, names)
    tools = find_tools()
    root = ensure_root(board, progress=progress)
    versions = {"ncnn": _ncnn_version(root), "qemu": _qemu_version(root), "llvm": tools.version}
    fits = []
    for column in table.columns:
        if column.threads == 1 and column.accepted is not None:
            counted = _count(root, column.core, chosen, versions, progress)
            fits.append(fit_core(column, table.times_ms(column), counted))
    return Calibration(board.name, table.machine, table.source, versions, fits, fit_threads(table))


def _chosen(table: Published, names: Sequence[str] | None) -> list[str]:
    if names is None:
        return [name for name in table.networks if name in network.names()]
    for name in names:
        network.get(name)
        if name not in table.networks:
            raise OptionError(f"no time of {name} is published for {table.machine}: leave it out")
    if len(set(names)) < max(_FEWEST, len(names)):
        raise OptionError(f"a fit needs {_FEWEST} networks, each once: name more")
    return list(names)


def _count(
    root: EmulatedRoot, core: str, names: Sequence[str], versions: Mapping[str, str], progress: Progress
) -> CountedNetworks:
    networks = [network.get(name)() for name in names]
    cpu = processor_for(core)
    counts = []
    for number, (name, built) in enumerate(zip(names, networks, strict=True), 1):
        kept = cache_directory() / "estimate" / f"network-{name}-{cpu}-{_key(built, versions)}.json"
        executed = _kept(kept)
        if executed is None:
            progress(f"{name}: counting on an emulated {cpu}, {number} of {len(names)}")
            executed = _execute(root, cpu, name, built)
            _keep(kept, executed)
        (region,) = costed(executed, core).regions
        counts.append(region.counts)
    return CountedNetworks(names, networks, counts)


def _key(built: Network, versions: Mapping[str, str]) -> str:
    """Of all that what is executed depends on."""
    plugin = Path(counting.__file__).with_name("plugin.c").read_text()
    content = [to_param(built.layers), _SEED, _PRECISION, versions["ncnn"], versions["qemu"], plugin]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]


class _Kept(msgspec.Struct):
    """What was executed, as JSON takes it."""

    outcome: Outcome
    regions: list[dict[str, int]]


def _kept(path: Path) -> Executed | None:
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError):
        return None     # it is counted anew
    return Executed(kept.outcome, [Counter(region) for region in kept.regions])


def _keep(path: Path, executed: Executed) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(path, error) from None
    write_bytes(path, msgspec.json.encode(_Kept(executed.outcome, list(executed.regions))))


def _execute(root: EmulatedRoot, cpu: str, name: str, built: Network) -> Executed:
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-network-") as scratch:
            files = built.write(Path(scratch), name, seed=_SEED)
            job = NetJob("ncnn", scratch, [path.name for path in files], INPUT, built.input_shape, _PRECISION)
            return execute(root, cpu, [job], timeout_s=_TIMEOUT_S)
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None


def fit_core(column: Column, times_ms: Mapping[str, float], counted: CountedNetworks) -> CoreFit:
    """One factor for a core, from the published ``times_ms`` by network; and how other models would do.

    Raises OptionError for fewer than two networks.
    """
    if len(counted.names) < _FEWEST:
        raise OptionError(f"a fit needs {_FEWEST} networks: name more")
    times = np.array([times_ms[name] for name in counted.names])
    cycles_ms = np.array([counts.cycles for counts in counted.counts])[:, None] / (1000 * column.mhz)
    estimates = left_out(cycles_ms, times, one_factor)
    networks = [
        NetworkFit(name, built.macs, counts.cycles, times_ms[name], float(estimate))
        for name, built, counts, estimate in zip(
            counted.names, counted.networks, counted.counts, estimates, strict=True
        )
    ]
    return CoreFit(
        column.core, column.mhz, float(one_factor(cycles_ms, times)[0]), column.accepted or 0.0, networks,
        _others(cycles_ms, times, counted),
    )


def _others(cycles_ms: Values, times_ms: Values, counted: CountedNetworks) -> dict[str, float]:
    """The mean errors of what could be fitted instead of one factor."""

    def with_term(values: Sequence[float]) -> float:
        terms = np.concatenate([cycles_ms, np.array(values)[:, None]], 1)
        return mean_error(left_out(terms, times_ms, no_less_than_zero), times_ms)

    int8 = np.array([built.is_int8 for built in counted.networks])
    others = {
        "cycles and megabytes of weights": with_term([built.weight_bytes / 1e6 for built in counted.networks]),
        "cycles and megabytes loaded": with_term([counts.load_bytes / 1e6 for counts in counted.counts]),
        "cycles and megabytes stored": with_term([counts.store_bytes / 1e6 for counts in counted.counts]),
    }
    if min(int8.sum(), (~int8).sum()) >= _FEWEST:
        estimates = np.empty(len(times_ms))
        for group in (int8, ~int8):
            estimates[group] = left_out(cycles_ms[group], times_ms[group], one_factor)
        others["a factor a precision"] = mean_error(estimates, times_ms)
    return others


def fit_threads(table: Published) -> list[ThreadsFit]:
    """What several threads bring, from a table's columns of several threads and those of one."""
    fits = []
    for column in table.columns:
        if column.threads == 1:
            continue
        many = np.array(list(table.times_ms(column).values()))
        one = np.array(list(table.times_ms(table.single(column.core)).values()))[:, None]
        error = mean_error(left_out(one, many, one_factor), many)
        fits.append(ThreadsFit(column.core, column.threads, float(1 / one_factor(one, many)[0]), error, len(many)))
    return fits


def _ncnn_version(root: EmulatedRoot) -> str:
    found = (re.fullmatch(r"ncnn-(.+)\.dist-info", path.name) for path in root.site.glob("ncnn-*.dist-info"))
    return next((match[1] for match in found if match), "unknown")


def _qemu_version(root: EmulatedRoot) -> str:
    said = run([root.qemu, "--version"], what="qemu cannot be run", timeout_s=60, next_step="install it again")
    found = re.search(r"version (\d[\d.]*)", said)
    return found[1] if found else "unknown"
