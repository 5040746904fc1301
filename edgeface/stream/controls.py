"""What can be changed while a stream runs."""

from __future__ import annotations

import threading
from typing import NamedTuple

from edgeface.errors import OptionError


class Settings(NamedTuple):
    """The least score of a face, 0..1, and the longest side that the network sees, in pixels."""

    score: float
    size_px: int


class Controls:
    """Settings that one thread changes and the loop reads before each look; any thread may call anything.

    ``smallest_px`` and ``largest_px`` bound the size: the detector's own limit, and what the machine is to be asked for
    at most.
    """

    def __init__(self, score: float, size_px: int, *, smallest_px: int = 32, largest_px: int = 1280) -> None:
        self.smallest_px = smallest_px
        self.largest_px = max(largest_px, size_px)
        self._lock = threading.Lock()
        self._settings = Settings(score, size_px)
        self.set(score=score, size_px=size_px)

    @property
    def settings(self) -> Settings:
        """The settings at this moment."""
        with self._lock:
            return self._settings

    def set(self, *, score: float | None = None, size_px: int | None = None) -> Settings:
        """Change what is given; the settings from now on. Raises OptionError, and changes nothing, for a value that
        cannot work."""
        if score is not None and not 0.0 <= score <= 1.0:
            raise OptionError(f"score {score} cannot work: choose 0 to 1")
        if size_px is not None and not self.smallest_px <= size_px <= self.largest_px:
            raise OptionError(f"size {size_px} cannot work: choose {self.smallest_px} to {self.largest_px} pixels")
        with self._lock:
            now = self._settings
            self._settings = Settings(
                now.score if score is None else score, now.size_px if size_px is None else size_px
            )
            return self._settings
