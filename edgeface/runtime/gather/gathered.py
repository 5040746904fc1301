"""What was gathered for some faces and went through a net, in one inference or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import BundleError
from edgeface.runtime.clock import TimedRun
from edgeface.runtime.crops import Squares, moved_edges, offset_boxes
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.stages.stage import Floats, Found, Indices, Scene


class FaceRun:
    """One inference on ``count`` faces, whose outputs have them along ``axis``, 1 or 2. ``noun``: what it was run on,
    one of them."""

    def __init__(self, bundle_name: str, run: TimedRun, count: int, axis: int, noun: str) -> None:
        self.count = count
        self._bundle_name, self._run, self._axis, self._noun = bundle_name, run, axis, noun

    def output(self, name: str) -> Floats:
        """An output as the net gives it, float32 (C, H, W)."""
        return self._run.output(name)

    def values(self, name: str, channels: int) -> Floats:
        """An output as (channels, count)."""
        return self._checked(name, channels).real().reshape(channels, self.count)

    def channel(self, name: str, channel: int) -> Floats:
        """One channel of an output, (count,)."""
        raw = self._checked(name, None)
        found = raw.values.shape[0]
        if channel >= found:
            raise BundleError(
                f"{self._bundle_name}: output {name} has {found} channels, an attribute needs channel {channel}: "
                "convert the checkpoint again"
            )
        return raw.converted(raw.values[channel]).reshape(self.count)

    def whole(self, name: str, channels: int) -> RawMap:
        """An output that is a map of the one face: (channels, h, w)."""
        assert self.count == 1
        raw = self._run.raw(name)
        found = raw.values.shape
        if found[0] != channels or 0 in found:
            raise BundleError(
                f"{self._bundle_name}: output {name} is {' x '.join(map(str, found))}, not a map of {channels} "
                "channels: convert the checkpoint again"
            )
        return raw

    def _checked(self, name: str, channels: int | None) -> RawMap:
        raw = self._run.raw(name)
        found = raw.values.shape
        along = (self.count, 1) if self._axis == 1 else (1, self.count)
        if found[1:] != along or channels not in (None, found[0]):
            wanted = "one value" if channels == 1 else "values" if channels is None else f"{channels} values"
            raise BundleError(
                f"{self._bundle_name}: output {name} is {' x '.join(map(str, found))} on {self.count} {self._noun}s, "
                f"not {wanted} a {self._noun}: convert the checkpoint again"
            )
        return raw


@dataclass(frozen=True)
class Gathered:
    """N faces after a net: ``runs``, and of each face the index of its run and of itself in it, int64 (N,) each.
    ``squares`` (N, 3) are the crops', None where the input was none; ``boxes`` float32 (N, 4), x1 y1 x2 y2 in pixels of
    the picture, those of the regions that were aligned."""

    runs: Sequence[FaceRun]
    run: Indices
    row: Indices
    squares: Squares | None = None
    boxes: Floats | None = None

    @classmethod
    def in_order(cls, runs: Sequence[FaceRun], squares: Squares | None = None) -> Gathered:
        """The faces of all runs, one after the other."""
        counts = [run.count for run in runs]
        rows = [np.arange(count) for count in counts]
        return cls(
            runs, np.repeat(np.arange(len(runs)), counts), np.concatenate([np.empty(0, np.int64), *rows]), squares
        )

    def __len__(self) -> int:
        return len(self.run)

    def select(self, chosen: Indices) -> Gathered:
        """Those of the indices ``chosen``; runs without any are not asked for more."""
        squares = None if self.squares is None else self.squares[chosen]
        boxes = None if self.boxes is None else self.boxes[chosen]
        return Gathered(self.runs, self.run[chosen], self.row[chosen], squares, boxes)

    def refined(self, offsets: Floats) -> Floats:
        """New boxes (N, 4) from ``offsets`` (N, 4) of their edges from those of the crops or regions, in sides of
        these. What is not finite stays so."""
        if self.squares is not None:
            return offset_boxes(self.squares, offsets)
        assert self.boxes is not None           # a net on points says nothing of boxes
        return moved_edges(self.boxes, offsets)

    def values(self, name: str, channels: int) -> Floats:
        """An output as (N, channels). Raises BundleError for another shape, and EngineError."""
        out = np.empty((len(self), channels), np.float32)
        for i, here in self._by_run():
            out[here] = self.runs[i].values(name, channels)[:, self.row[here]].T
        return out

    def channel(self, name: str, channel: int) -> Floats:
        """One channel of an output, (N,); raises as ``values``."""
        out = np.empty(len(self), np.float32)
        for i, here in self._by_run():
            out[here] = self.runs[i].channel(name, channel)[self.row[here]]
        return out

    def wholes(self, name: str, channels: int) -> list[RawMap]:
        """An output that is a map a face, of runs with one face each; raises as ``values``."""
        return [self.runs[i].whole(name, channels) for i in self.run.tolist()]

    def _by_run(self) -> list[tuple[int, NDArray[np.intp]]]:
        return [(i, np.flatnonzero(self.run == i)) for i in distinct(self.run)]


def distinct(numbers: NDArray[np.integer]) -> list[int]:
    """The different ones, in order. NumPy's ``unique`` imports masked arrays: 10 MB, and the time of an inference."""
    return sorted(set(numbers.tolist()))


class Gatherer(Protocol):
    """How the input of a net per face is gathered, with the nets that it is for."""

    nets: Sequence[Session]

    def __call__(self, scene: Scene, found: Found) -> Gathered:
        """The faces ``found`` through the net. Raises as a stage."""
        ...

    def samples(self, scene: Scene) -> Gathered | None:
        """Four inputs of the picture that do not depend on what was found; None where there are no such."""
        ...
