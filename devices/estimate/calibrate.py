"""Calibrating: ncnn's benchmark networks counted on an emulated board, and compared with the times published for it.

What one of them costs is kept in the user's cache, so that a calibration that was interrupted goes on where it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from edgeface.devices.boards import Board
from edgeface.devices.emulation.root import EmulatedRoot, ensure_root
from edgeface.devices.estimate import calibration, counting
from edgeface.devices.estimate.calibration import Calibration, CoreFit, NetworkFit, ThreadsFit
from edgeface.devices.estimate.costing import Counts, find_tools
from edgeface.devices.estimate.count import Executed, costed, execute, processor_for
from edgeface.devices.estimate.fit import Values, left_out, mean_error, no_less_than_zero, one_factor
from edgeface.devices.estimate.jobs import NetJob
from edgeface.devices.estimate.kept import keep, kept_path, qemu_version, read_kept, wheel_versions
from edgeface.devices.estimate.networks import Network, network
from edgeface.devices.estimate.networks.builder import BENCHMARK_PRECISION, INPUT, SEED
from edgeface.devices.estimate.published import Column, Published, published
from edgeface.devices.progress import Progress, silent

from edgeface.atomic import refused
from edgeface.errors import OptionError
from edgeface.runtime.engines.ncnn_layers import to_param

# VGG-16 takes some minutes on one slow core.
_TIMEOUT_S = 3600.0
_FEWEST = 2


@dataclass(frozen=True)
class CountedNetworks:
    """What each network costs on one core, in the order of ``names``."""

    names: Sequence[str]
    networks: Sequence[Network]
    counts: Sequence[Counts]


def calibrate(board: Board, *, names: Sequence[str] | None = None, progress: Progress = silent) -> Calibration:
    """Count ncnn's benchmark networks on every core that one thread's times are published of, and fit them.

    A core of which no such time is published has the fit of a board that it is ``like`` (``Published``), at its own
    clock.

    ``names``: which networks, at least two; all that can be built here and have published times unless given.
    ``progress`` gets a line for each step that takes a while: all of it is half an hour when nothing was kept.

    Raises OptionError for a board without published times or a network without one, UnknownNameError for a network
    that is not known, InstallError for a program that must be installed first, DeviceError and OutputError.
    """
    table = published(board.name)
    calibrated = [column for column in table.columns if column.threads == 1 and column.accepted is not None]
    fits: list[CoreFit] = []
    versions: dict[str, str] = {}
    if calibrated:
        chosen = _chosen(table, names)
        tools = find_tools()
        root = ensure_root(board, progress=progress)
        versions = wheel_versions(root, "ncnn") | {"qemu": qemu_version(root), "llvm": tools.version}
        for column in calibrated:
            counted = count_networks(root, column.core, chosen, versions, progress)
            fits.append(fit_core(column, table.times_ms(column), counted))
    for name in table.like:
        if name in calibration.boards():
            other = calibration.load_calibration(name)
            fits += _fits_of_another(board, other, {fit.core for fit in fits})
            versions = versions or other.versions
    return Calibration(board.name, table.machine, table.source, versions, fits, fit_threads(board))


def _fits_of_another(board: Board, other: Calibration, known: Container[str]) -> Iterator[CoreFit]:
    """What the calibration of another board says of ``board``'s cores that are not ``known``, at the board's clock."""
    for cluster in board.clusters:
        for fit in other.cores:
            if fit.core == cluster.core and fit.core not in known:
                yield msgspec.structs.replace(
                    fit, board_mhz=float(cluster.mhz), fitted_on=fit.fitted_on or other.board
                )


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


def count_networks(
    root: EmulatedRoot, core: str, names: Sequence[str], versions: Mapping[str, str], progress: Progress = silent
) -> CountedNetworks:
    """Each network of ``names`` once on an emulated ``core``, or as it was kept; errors as in ``execute``."""
    networks = [network.get(name)() for name in names]
    cpu = processor_for(core)
    counts = []
    for number, (name, built) in enumerate(zip(names, networks, strict=True), 1):
        kept = kept_path(f"network-{name}-{cpu}", *_depends_on(built, versions))
        executed = read_kept(kept, Executed)
        if executed is None:
            progress(f"{name}: counting on an emulated {cpu}, {number} of {len(names)}")
            executed = _execute(root, cpu, name, built)
            keep(kept, executed)
        (region,) = costed(executed, core).regions
        counts.append(region.counts)
    return CountedNetworks(names, networks, counts)


def _depends_on(built: Network, versions: Mapping[str, str]) -> list[str | int]:
    """All that what is executed depends on."""
    plugin = Path(counting.__file__).with_name("plugin.c").read_text()
    return [to_param(built.layers), SEED, BENCHMARK_PRECISION, versions["ncnn"], versions["qemu"], plugin]


def _execute(root: EmulatedRoot, cpu: str, name: str, built: Network) -> Executed:
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-network-") as scratch:
            files = built.write(Path(scratch), name, seed=SEED)
            job = NetJob("ncnn", scratch, [path.name for path in files], INPUT, built.input_shape, BENCHMARK_PRECISION)
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


def fit_threads(board: Board) -> list[ThreadsFit]:
    """What several threads bring on a board's cores, from columns of several threads and those of one: the board's own,
    else those of boards that it is like, scaled to the clock of the column that they are compared with. Numbers
    of threads between are interpolated."""
    own = published(board.name)
    tables = {board.name: own} | {name: published(name) for name in own.like}
    cores = {cluster.core for cluster in board.clusters}
    fits: dict[tuple[str, int], ThreadsFit] = {}
    for name, table in tables.items():
        for column in table.columns:
            if column.threads > 1 and column.core in cores and (column.core, column.threads) not in fits:
                for base, other in ({name: table} | tables).items():
                    one = other.single(column.core)
                    if one is not None:
                        taken = [] if name == base == board.name else list(dict.fromkeys((name, base)))
                        fits[column.core, column.threads] = _speedup(table, column, other, one, taken)
                        break
    return [*fits.values(), *interpolated(fits)]


def interpolated(known: Mapping[tuple[str, int], ThreadsFit]) -> Iterator[ThreadsFit]:
    """Those from two threads on that are not ``known``, from the next larger number that is, by Amdahl's law: a part of
    the work is one thread's alone, and the rest is in equal parts."""
    for core in dict.fromkeys(core for core, _ in known):
        for threads in range(2, max(fit.threads for fit in known.values() if fit.core == core)):
            if (core, threads) not in known:
                larger = min(
                    (fit for fit in known.values() if fit.core == core and fit.threads > threads),
                    key=lambda fit: fit.threads,
                )
                alone = (larger.threads / larger.speedup - 1) / (larger.threads - 1)
                yield msgspec.structs.replace(
                    larger, threads=threads, speedup=1 / (alone + (1 - alone) / threads),
                    interpolated_from=larger.threads,
                )


def _speedup(table: Published, many: Column, other: Published, one: Column, boards: list[str]) -> ThreadsFit:
    scaled = {name: ms * one.mhz / many.mhz for name, ms in other.times_ms(one).items()}
    return threads_fit(many.core, many.threads, table.times_ms(many), scaled, boards)


def threads_fit(
    core: str, threads: int, many_ms: Mapping[str, float], one_ms: Mapping[str, float], boards: Sequence[str] = ()
) -> ThreadsFit:
    """What ``threads`` bring, from the times in ms of the networks that both have; ``boards`` as in ``ThreadsFit``."""
    common = [name for name in many_ms if name in one_ms]
    several = np.array([many_ms[name] for name in common])
    single = np.array([one_ms[name] for name in common])[:, None]
    error = mean_error(left_out(single, several, one_factor), several)
    return ThreadsFit(core, threads, float(1 / one_factor(single, several)[0]), error, len(common), list(boards))
