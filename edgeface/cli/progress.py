"""Progress of long work: a bar on a terminal, nothing in a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items of ``iterable``, with a bar on standard error while they are taken, if that is a terminal.

    ``total`` is their number, where it is known. The bar disappears when the work is done, so that what remains on
    the terminal is the results.
    """
    if not sys.stderr.isatty():
        yield from iterable
        return
    # rich takes 0.1 s to import, which only a terminal pays.
    from rich.console import Console
    from rich.progress import track

    yield from track(
        iterable, description=label, total=total, console=Console(stderr=True), transient=True, update_period=0.2
    )
