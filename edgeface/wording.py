"""Numbers in a sentence."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """``3 threads``, ``1 thread``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
