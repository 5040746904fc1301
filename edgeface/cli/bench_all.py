"""``edgeface bench MODEL --all``: every engine and precision of a model in one table, and which serves a board best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from edgeface.bundle import read_bundle
from edgeface.cli.tables import table
from edgeface.devices.serving import Candidate, average_precision, choose
from edgeface.runtime import catalog

if TYPE_CHECKING:
    from edgeface.devices.estimate.estimates import BundleEstimate, EstimateReport
    from edgeface.devices.serving import Choice
    from edgeface.runtime.benchmark import Measured, Report


def best_estimated(report: EstimateReport) -> Choice:
    """Which of the bundles of an estimate serves best."""
    return choose(report.bundles[0].model, [_candidate(each, each.serving_ms) for each in report.bundles], report.place)


def best_measured(report: Report) -> Choice:
    """Which of the bundles that were timed serves best, by the median of what a picture took."""
    return choose(report.bundles[0].model, [_candidate(each, each.total_ms.p50) for each in report.bundles],
                  report.place)


def _candidate(each: BundleEstimate | Measured, ms: float) -> Candidate:
    ap = average_precision(read_bundle(catalog.find(each.given), verify=False))
    return Candidate(each.name, each.engine, each.precision, round(ms, 4), ap)


def choice_lines(choice: Choice) -> Iterator[str]:
    """The choice as lines of a table."""
    yield ""
    yield from table([
        ["BUNDLE", "ENGINE", "PRECISION", "AP MEDIUM", "ms", ""],
        *(
            [
                each.name, each.engine, each.precision, "-" if each.ap is None else f"{each.ap:.3f}", f"{each.ms:.2f}",
                "best" if each.name == choice.best[0] else "",
            ]
            for each in choice.candidates
        ),
    ], words=3)
    yield f"{choice.best[0]} serves best: {choice.why}"
    if any(each.ap is None for each in choice.candidates):
        yield (
            "AP that is not known (-) counts as that of another bundle in the same precision; where there is none, "
            "time alone decides"
        )


def with_choice(report: bytes, choice: Choice) -> bytes:
    """A report's JSON with the choice in it."""
    content = msgspec.json.decode(report) | {"choice": msgspec.to_builtins(choice)}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
