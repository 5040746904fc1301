"""What ``edgeface bench --calibrate`` says: the published and the estimated times of each network, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeface.cli.tables import table
from edgeface.wording import counted

if TYPE_CHECKING:
    from edgeface.devices.estimate.calibration import Calibration, CoreFit


def calibration_lines(calibration: Calibration) -> Iterator[str]:
    """A calibration as lines of tables; every time is in ms and of one thread."""
    yield f"Estimates for {calibration.machine}"
    yield f"{'Timed on' if calibration.own else 'Published by ncnn:'} {calibration.source}"
    yield "Counted with " + ", ".join(f"{name} {version}" for name, version in calibration.versions.items())
    yield "Each estimate is by the factor of all other networks; one thread, ms"
    for fit in calibration.cores:
        yield ""
        yield from _core_lines(fit, "MEASURED" if calibration.own else "PUBLISHED")
    if calibration.threads:
        yield ""
    for threads in calibration.threads:
        if threads.interpolated_from is not None:
            yield (
                f"{threads.threads} threads on {threads.core}: {threads.speedup:.2f} times as fast as one, by Amdahl's "
                f"law from {threads.interpolated_from}: of {threads.threads} no time is known"
            )
            continue
        where = f", of {' against '.join(threads.boards)}" if threads.boards else ""
        yield (
            f"{threads.threads} threads on {threads.core}: {threads.speedup:.2f} times as fast as one; off by "
            f"{100 * threads.mean_error:.1f} % on average over {threads.networks} networks{where}"
        )


def _core_lines(fit: CoreFit, times: str) -> Iterator[str]:
    yield f"{fit.core} at {fit.mhz:g} MHz: time = {fit.factor:.3f} x cycles by the core's model / clock"
    if fit.fitted_on is not None:
        yield f"The times are those of {fit.fitted_on}; estimates are for {fit.clock_mhz:g} MHz"
    yield from table([
        ["NETWORK", "MMAC", "MCYCLES", times, "ESTIMATE", "ERROR"],
        *(
            [
                network.name, f"{network.macs / 1e6:.0f}", f"{network.cycles / 1e6:.1f}",
                f"{network.published_ms:.1f}", f"{network.left_out_ms:.1f}", f"{100 * network.error:+.1f} %",
            ]
            for network in fit.networks
        ),
    ], words=1)
    yield (
        f"Mean error {100 * fit.mean_error:.1f} %, at most {100 * fit.accepted:.0f} % are accepted; largest "
        f"{100 * fit.largest_error:.1f} %; {len(fit.networks)} networks"
    )
    for is_int8, kind in ((True, "int8"), (False, "float")):
        error = fit.kind_error(is_int8=is_int8)
        if error is not None:
            yield (
                f"Of these in {kind}: {counted(error.networks, 'network')}, mean error {100 * error.mean:.1f} %, "
                f"on average {100 * abs(error.bias):.1f} % too {'slow' if error.bias > 0 else 'fast'}"
            )
    others = ", ".join(f"{name} {100 * error:.1f} %" for name, error in fit.others.items())
    yield f"Mean errors of other models, left out likewise: {others}"
