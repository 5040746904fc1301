"""What ``edgeface bench`` says of bundles that were timed, here or on a board, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeface.cli.tables import table
from edgeface.wording import counted

if TYPE_CHECKING:
    from edgeface.runtime.benchmark import Measured, Report

HOST = "host"


def text_lines(report: Report) -> Iterator[str]:
    """The report as lines of a table; every time is in ms."""
    size = report.size_px if isinstance(report.size_px, int) else "{} x {}".format(*report.size_px)
    side = "longest side " if isinstance(report.size_px, int) else ""
    where = "this host" if report.place == HOST else "the board"
    yield (
        f"Time on {where}: {report.cpu}, {counted(report.threads, 'thread')}, "
        f"{counted(report.processors, 'processor')} at hand, load {report.load_1min:.2f} before"
    )
    yield from _conditions(report)
    yield f"Input {side}{size} px; {report.pictures}"
    yield (
        f"{counted(report.rounds, 'round')}, interleaved, after {report.warm_up_rounds} of warm-up; "
        "every run counted; ms"
    )
    yield ""
    yield from table([
        ["", "", "", "", "NETWORK", "", "", "PREP.", "DECODE", "TOTAL", "", "", ""],
        ["BUNDLE", "ENGINE", "PRECISION", "MB", "p50", "p95", "p99", "p50", "p50", "p50", "p95", "p99", "FACES"],
        *(_row(measured, _label(measured, report.bundles)) for measured in report.bundles),
    ], words=3)
    yield from _notes(report)


def _label(measured: Measured, among: Sequence[Measured]) -> str:
    """Its name, unless another has that name as well and was asked for in other words."""
    same = {other.given for other in among if other.name == measured.name}
    return measured.name if len(same) == 1 else measured.given


def _row(measured: Measured, label: str) -> list[str]:
    network, total = measured.network_ms, measured.total_ms
    times_ms = (
        network.p50, network.p95, network.p99, measured.preprocess_ms.p50, measured.decode_ms.p50,
        total.p50, total.p95, total.p99,
    )
    return [
        label, measured.engine, measured.precision, f"{measured.size_bytes / 1e6:.2f}",
        *(f"{time_ms:.2f}" for time_ms in times_ms), str(measured.faces),
    ]


def _conditions(report: Report) -> Iterator[str]:
    """How warm it was, how fast it might run, and what made it slower, before and after."""
    for when, condition in zip(("Before", "After"), report.conditions, strict=False):
        parts = [] if condition.hottest_c is None else [f"{condition.hottest_c:.1f} degrees C at the hottest sensor"]
        parts += [f"CPU {cpus} at {mhz} MHz" for cpus, mhz in condition.mhz.items()]
        parts += condition.throttling
        yield f"{when}: {', '.join(parts) or 'no sensor or clock to be read'}"


def _notes(report: Report) -> Iterator[str]:
    """What a reader of the table must know to read it right."""
    if any(measured.engine == "torch" and measured.precision == "int8" for measured in report.bundles):
        yield "The engine torch computes int8 in float32 and rounds: its time says nothing about int8."
    if report.load_1min + report.threads > report.processors:
        yield "This machine was busy with other work: alone it may be faster, and the tails may be shorter."
    if not any(measured.faces for measured in report.bundles):
        yield "No face was found: nets that run on faces alone, such as head pose, have no part in these times."
