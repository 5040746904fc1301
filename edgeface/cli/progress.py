"""Progress of long work: a bar or a line a step on a terminal, nothing in a pipe or a file."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from functools import partial
from typing import TextIO, TypeVar

from edgeface.cli.writing import note

T = TypeVar("T")


def is_shown() -> bool:
    """Whether somebody watches, and did not ask for quiet."""
    return sys.stderr.isatty() and is_loud()


def is_loud() -> bool:
    """Whether nobody asked for quiet."""
    return logging.getLogger("edgeface").isEnabledFor(logging.WARNING)


def step(text: str) -> None:
    """Say on a terminal what is being done, on standard error; nothing in a pipe or a file."""
    if is_shown():
        note(f"... {text}")


class _Above(io.TextIOBase):
    """Standard error while a bar is on ``terminal``: whole lines are given to ``say``, which writes them above it."""

    def __init__(self, terminal: TextIO, say: Callable[[str], None]) -> None:
        super().__init__()
        self._terminal, self._say, self._begun = terminal, say, ""

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def fileno(self) -> int:
        return self._terminal.fileno()

    def write(self, text: str, /) -> int:
        whole, end, self._begun = (self._begun + text).rpartition("\n")
        if end:
            self._say(whole)
        return len(text)


def progress(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items of ``iterable``, with a bar on standard error while they are taken, if that is a terminal.

    ``total`` is their number, where it is known. The bar disappears when the work is done, so that what remains on
    the terminal is the results.
    """
    if not is_shown():
        yield from iterable
        return
    # tqdm takes 50 ms to import, which only a terminal pays.
    from tqdm import tqdm

    # A file of its own, so that the bar stays on the terminal while standard error is diverted for a moment; standard
    # output is left alone, or results would end on standard error. Lines to standard error appear above the bar.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal:
        # A serial console says that it has no columns.
        columns = os.get_terminal_size(terminal.fileno()).columns or shutil.get_terminal_size().columns
        bar = tqdm(iterable, label, total, leave=False, file=terminal, ncols=columns)
        with bar, redirect_stderr(_Above(terminal, partial(tqdm.write, file=terminal))):
            yield from bar
