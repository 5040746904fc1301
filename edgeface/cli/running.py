"""What the commands that train have in common: torch at hand, Ctrl-C, and the line of progress."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import click

from edgeface.errors import MissingExtraError

if TYPE_CHECKING:
    from edgeface.training.loop import StepReport, Trainer


def require_torch(work: str) -> None:
    """Raises MissingExtraError without torch; ``work`` is what needs it, such as "training"."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError(f'{work} needs torch: pip install "edgeface[train]"') from None


def run_trainer(trainer: Trainer) -> None:
    """Run it with a line of progress on a terminal. The first Ctrl-C or SIGTERM saves and stops after the step at hand.

    The second ends at once. Raises what ``Trainer.run`` raises.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        trainer.stop_requested = True
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    shown = sys.stderr.isatty() and trainer.place.leads
    try:
        trainer.run(_progress_line if shown else lambda _report: None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if shown:
        click.echo(err=True)


def _progress_line(report: StepReport) -> None:
    losses = " ".join(f"{task} {value:.3f}" for task, value in report.losses.items())
    dev = " ".join(f"{name} {value:g}" for name, value in report.dev.items() if name != "choose")
    line = f"{report.share:6.1%} step {report.step}  {losses}  {report.pictures_per_s:.0f} pictures/s  {dev}"
    click.echo(f"\r\x1b[K{line}", err=True, nl=False)
