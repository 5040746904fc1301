"""Whether a board finds the same faces as this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces
from edgeface.matching import differences, match

# Engines sum in another order on another processor. What they differ by then is far below what a user sees, and so are
# these; a board that computes something else misses them at once.
IOU_LEAST = 0.9
PROBABILITY_MOST = 0.02
POSE_MOST_DEG = 2.0


class Agreement(msgspec.Struct, frozen=True):
    """Faces found here and there in one picture, and the largest differences of the ``matched``: those whose boxes
    overlap by an IoU of 0.9. None where there is nothing to compare. ``attributes`` are probabilities, those of classes
    too.

    ``raw_difference`` is the largest of any raw output, as a share of that output's largest value here.
    """

    here: int
    there: int
    matched: int
    box_px: float | None
    score: float | None
    landmark_px: float | None
    pose_deg: float | None
    attributes: float | None
    raw_difference: float

    @property
    def is_same(self) -> bool:
        """Whether they are the same faces, with scores, poses and attributes that nobody could tell apart."""
        return (
            self.here == self.there == self.matched
            and max(self.score or 0.0, self.attributes or 0.0) <= PROBABILITY_MOST
            and (self.pose_deg or 0.0) <= POSE_MOST_DEG
        )

    @property
    def text(self) -> str:
        """In words."""
        found = f"{self.here} faces here and there" if self.here != 1 else "1 face here and there"
        if self.here != self.there:
            found = f"{self.here} faces here and {self.there} there"
        if self.matched < min(self.here, self.there):
            found += f", {self.matched} of them at the same place"
        differences = (
            ("boxes", self.box_px, " px"), ("scores", self.score, ""), ("landmarks", self.landmark_px, " px"),
            ("pose", self.pose_deg, " degrees"), ("attributes", self.attributes, ""),
        )
        within = [f"{name} within {value:.2g}{unit}" for name, value, unit in differences if value is not None]
        return "; ".join([found, *within, f"raw outputs within {self.raw_difference:.2g} of their range"])


def compare(here: Faces, there: Faces, raw_here: Mapping[str, Any], raw_there: Mapping[str, Any]) -> Agreement:
    """Compare what one picture gave: faces, and raw outputs float32 by name. A missing output differs by 1."""
    pairs = match(here.boxes, there.boxes, IOU_LEAST)
    apart = differences(here, there, pairs) if pairs else {}
    largest = {name: float(np.abs(values).max()) for name, values in apart.items()}

    def most(names: Iterable[str]) -> float | None:
        return max((largest[name] for name in names if name in largest), default=None)

    return Agreement(
        here=len(here),
        there=len(there),
        matched=len(pairs),
        box_px=largest.get("boxes"),
        score=largest.get("scores"),
        landmark_px=most(("landmarks", "landmarks68")),
        pose_deg=largest.get("pose"),
        attributes=most(largest.keys() - {"boxes", "scores", "landmarks", "landmarks68", "pose"}),
        raw_difference=max((_share(raw_here[name], raw_there.get(name)) for name in raw_here), default=0.0),
    )


def _share(here: NDArray[np.float32], there: NDArray[np.float32] | None) -> float:
    if there is None or here.shape != there.shape:
        return 1.0
    difference, scale = float(np.abs(here - there).max(initial=0.0)), float(np.abs(here).max(initial=0.0))
    return difference / scale if scale else difference
