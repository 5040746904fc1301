"""What is remembered of one face, and how a face's points are carried along with its box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces

Floats = NDArray[np.floating]


@dataclass
class Track:
    """One face that is followed. ``id`` is 0 until it is confirmed; ``missed``: the last look did not find it;
    ``faces`` is that one face as it was at its last sighting, at ``seen_s``, and no face before the first."""

    id: int = 0
    sightings: int = 0
    missed: bool = False
    seen_s: float = -math.inf
    faces: Faces = field(default_factory=Faces.empty)

    @property
    def box(self) -> Floats:
        """Where it was then, (4,)."""
        box: Floats = self.faces.boxes[0]
        return box

    @property
    def score(self) -> float:
        """Its score then."""
        return float(self.faces.scores[0])

    def sighted(self, faces: Faces, index: int, time_s: float) -> None:
        """Take over face ``index`` of ``faces``, seen at ``time_s``."""
        self.sightings += 1
        self.missed = False
        self.seen_s = time_s
        self.faces = faces.select([index])


def gathered(tracks: Sequence[Track], boxes: Floats) -> Faces:
    """The faces of ``tracks`` at ``boxes`` (N, 4), points moved along from where they were seen; predicts what all do.
    """
    seen = Faces.joined([track.faces for track in tracks])

    def moved(points: Floats | None) -> NDArray[np.float32] | None:
        return None if points is None else placed(layout(points, seen.boxes), boxes).astype(np.float32)

    return replace(
        seen, boxes=boxes.astype(np.float32).reshape(len(seen), 4), landmarks=moved(seen.landmarks),
        landmarks68=moved(seen.landmarks68),
    )


def layout(landmarks: Floats, boxes: Floats) -> Floats:
    """Points (N, K, 2) in pixels as shares of their boxes (N, 4): 0 at the left and top, 1 at the right and bottom."""
    shares: Floats = (landmarks - boxes[:, None, :2]) / sides(boxes)[:, None]
    return shares


def placed(shares: Floats, boxes: Floats) -> Floats:
    """The inverse of ``layout``."""
    points: Floats = boxes[:, None, :2] + shares * sides(boxes)[:, None]
    return points


def sides(boxes: Floats) -> Floats:
    """Widths and heights (N, 2) of boxes (N, 4), at least one pixel."""
    both: Floats = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    return both


def centres(boxes: Floats) -> Floats:
    """Centres (N, 2) of boxes (N, 4)."""
    middle: Floats = (boxes[:, :2] + boxes[:, 2:]) / 2
    return middle


def sizes_px(boxes: Floats) -> Floats:
    """Geometric means (N,) of width and height, at least one pixel."""
    sizes: Floats = np.sqrt(sides(boxes).prod(axis=1))
    return sizes
