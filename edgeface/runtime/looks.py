"""What the first stage of a pipeline is to the detector: how it looks at a picture, and what it makes of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import BundleError
from edgeface.frames import Frame
from edgeface.runtime.clock import Clock, TimedRun
from edgeface.runtime.engines import RawMap, Session

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """How to look: at the size ``size_px``, the longest side or (width, height); for what has at least the probability
    ``score``; suppressed at ``nms_iou``."""

    size_px: int | tuple[int, int]
    score: float
    nms_iou: float


class Look(Protocol):
    """What a first stage found, best first. ``boxes`` (n, 4) in pixels of the picture, ``scores`` (n,) probabilities;
    ``x`` is the net's input, which may be overwritten when the look is not used any more."""

    boxes: Floats
    scores: Floats
    x: NDArray[Any]

    def landmarks(self, chosen: Indices) -> Floats | None:
        """Five points (k, 5, 2) of the k boxes ``chosen``, in pixels of the picture; None where the net has none."""
        ...

    def pose(self, chosen: Indices) -> Floats | None:
        """Pitch, yaw and roll (k, 3) of them in degrees; None where the pipeline has no pose stage."""
        ...


class Finder(Protocol):
    """A pipeline's first stage with its net. ``smallest_px``: the least longest side that it can look at."""

    smallest_px: int

    def look(self, frame: Frame, wanted: Wanted, clock: Clock, out: NDArray[Any] | None) -> Look:
        """Look at a picture; ``out`` is an array that may be overwritten, for the input. Raises InputError,
        OptionError, BundleError for a net with other outputs than the bundle says, EngineError, and
        FloatingPointError when the net gives what is no number."""
        ...

    def raw(self, frame: Frame, size_px: int | tuple[int, int]) -> dict[str, Floats]:
        """Every output of the net, float32 (C, H, W), by a name that tells it from other stages'."""
        ...


def require(bundle_name: str, session: Session, names: Sequence[str]) -> None:
    """Raises BundleError when ``session`` lacks an output of ``names``."""
    missing = sorted(set(names) - session.outputs)
    if missing:
        raise BundleError(
            f"{bundle_name}: its nets have no output {', '.join(missing)}: convert the checkpoint again"
        )


def checked(bundle_name: str, run: TimedRun, name: str, channels: int, needed_by: str) -> RawMap:
    """An output that must have ``channels`` channels, and has them; raises BundleError with who needs them."""
    raw = run.raw(name)
    found = raw.values.shape[0]
    if found != channels:
        raise BundleError(
            f"{bundle_name}: output {name} has {found} channels, {needed_by} {channels}: convert the checkpoint again"
        )
    return raw
