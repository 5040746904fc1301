"""Who is told of steps that take a while: a function that takes a line."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]


def silent(_line: str) -> None:
    """Progress that nobody sees."""
