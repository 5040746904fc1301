"""Engines in a process that was forked from one that used them.

Of a forked process only the thread that forked lives on. OpenMP keeps its threads by the thread that they work for, so
that this one would wait for ever for threads that are no more: ncnn and torch both hang. A thread that is new gets new
ones. So whatever computes with OpenMP runs in such a thread there, one for the whole process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class _Process:
    """Whether this process is a fork of another that had imported this, and the thread that computes then."""

    def __init__(self) -> None:
        self.is_forked = False
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._ident: int | None = None

    def forked(self) -> None:
        """This is the child; it may be one of a child."""
        self.__init__()  # type: ignore[misc]   # nothing of the parent's holds here, its lock least of all
        self.is_forked = True

    def run(self, call: Callable[[], T]) -> T:
        """``call``, in the one thread."""
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "edgeface-engine", initializer=self._note)
        if threading.get_ident() == self._ident:
            return call()
        return self._thread.submit(call).result()

    def _note(self) -> None:
        self._ident = threading.get_ident()


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)


def with_openmp(call: Callable[[], T]) -> T:
    """What ``call`` gives, or what it raises; in a forked process it runs in a thread whose OpenMP is its own."""
    return _process.run(call) if _process.is_forked else call()
