"""``Shot``: one frame of a source with the moment it was taken; ``Status``: how the source fares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.frames import Frame

State = Literal["online", "stalled", "offline"]


@dataclass(frozen=True)
class Status:
    """How a source fares, at one moment.

    ``online``: frames come. ``stalled``: none came for a while, and its process still has time until its deadline.
    ``offline``: there is no working process; ``reason`` says why, and ``retry_in_s`` when the next one starts (None
    while one is starting or none will). ``since_unix_s`` is when this state began. ``starts`` counts the processes
    started so far (1: never lost), ``captured`` the frames taken by all of them, ``dropped`` those of them that a newer
    one replaced before anybody asked, and ``damaged`` frames beside them that were left out since they came damaged.
    """

    state: State
    reason: str
    since_unix_s: float
    starts: int = 0
    captured: int = 0
    dropped: int = 0
    damaged: int = 0
    retry_in_s: float | None = None


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame. It owns its memory and may be kept, but is shared between all who get it: read it, do not write.

    ``source`` is the source as people may see it (no password in it); ``number`` counts the frames taken from 0 on,
    over reconnects too, so that a gap is frames dropped. ``taken_monotonic_ns`` is CLOCK_MONOTONIC when it was taken,
    as near to the sensor as the source can tell, ``taken_unix_ns`` the same moment in time since 1970.
    """

    source: str
    frame: Frame
    number: int
    taken_monotonic_ns: int
    taken_unix_ns: int
    status: Status

    @property
    def width(self) -> int:
        """Pixels."""
        return self.frame.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.frame.height

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The picture as uint8 (H, W, 3) BGR, read-only, converted when first asked for."""
        view: NDArray[np.uint8] = self.frame.to_bgr().view()
        view.setflags(write=False)
        return view
