"""Progress of long work: a bar or a line a step on a terminal, nothing in a pipe or a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from edgeface.cli.writing import note

T = TypeVar("T")


def is_shown() -> bool:
    """Whether somebody watches, and did not ask for quiet."""
    return sys.stderr.isatty() and logging.getLogger("edgeface").isEnabledFor(logging.WARNING)


def step(text: str) -> None:
    """Say on a terminal what is being done, on standard error; nothing in a pipe or a file."""
    if is_shown():
        note(f"... {text}")


def progress(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items of ``iterable``, with a bar on standard error while they are taken, if that is a terminal.

    ``total`` is their number, where it is known. The bar disappears when the work is done, so that what remains on
    the terminal is the results.
    """
    if not is_shown():
        yield from iterable
        return
    # rich takes 0.1 s to import, which only a terminal pays.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # A file of its own, so that the bar stays on the terminal while standard error is diverted for a moment; standard
    # output is left alone, or results would end on standard error. Lines to standard error appear above the bar.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal:
        console = Console(file=terminal)
        with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
            yield from bar.track(iterable, total=total, description=label)
