"""What the commands that train have in common: torch at hand, Ctrl-C, and the line of progress."""

from __future__ import annotations

import signal
from types import FrameType
from typing import TYPE_CHECKING

from edgeface.cli.progress import is_shown
from edgeface.cli.writing import note
from edgeface.errors import MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.training.parts import Training


def require_torch(work: str) -> None:
    """Raises MissingExtraError without torch; ``work`` is what needs it, such as "training"."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError(f'{work} needs torch: pip install "edgeface[train]"') from None


def run_training(training: Training, out: Path) -> None:
    """Run it with a line of progress on a terminal. The first Ctrl-C or SIGTERM saves and stops after the step at hand.

    ``out`` is its folder, for the line that says where it goes on. The second Ctrl-C ends at once. Raises what
    ``Training.run`` raises.
    """
    going_on = training.going_on()
    if going_on and training.leads:
        note(f"going on from {going_on} of {out}")

    def stop(number: int, _frame: FrameType | None) -> None:
        training.stop()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    shown = is_shown() and training.leads
    try:
        training.run(_show if shown else lambda _line: None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if shown:
        note()


def _show(line: str) -> None:
    note(line, over=True)
