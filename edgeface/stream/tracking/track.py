"""What is remembered of one face, and how a face's points are carried along with its box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces

Floats = NDArray[np.floating]


@dataclass
class Track:
    """One face that is followed. ``id`` is 0 until it is confirmed; ``missed``: the last look did not find it; ``box``
    (4,), ``landmarks`` (5, 2), ``pose`` (3,), ``attributes`` and their ``thresholds`` are those of its last sighting,
    at ``seen_s``."""

    id: int = 0
    sightings: int = 0
    missed: bool = False
    seen_s: float = -math.inf
    box: Floats = field(default_factory=lambda: np.zeros(4, np.float32))
    score: float = 0.0
    landmarks: Floats | None = None
    pose: Floats | None = None
    attributes: Mapping[str, np.float32] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def sighted(self, faces: Faces, index: int, time_s: float) -> None:
        """Take over face ``index`` of ``faces``, seen at ``time_s``."""
        self.sightings += 1
        self.missed = False
        self.seen_s = time_s
        self.box = faces.boxes[index]
        self.score = float(faces.scores[index])
        self.landmarks = None if faces.landmarks is None else faces.landmarks[index]
        self.pose = None if faces.pose is None else faces.pose[index]
        self.attributes = {name: values[index] for name, values in faces.attributes.items()}
        self.thresholds = faces.thresholds


def gathered(tracks: Sequence[Track], boxes: Floats) -> Faces:
    """The faces of ``tracks`` at ``boxes`` (N, 4), points moved along from where they were seen; predicts what all do.
    """
    n = len(tracks)
    landmarks = pose = None
    if n and all(track.landmarks is not None for track in tracks):
        seen = np.array([track.landmarks for track in tracks])
        landmarks = placed(layout(seen, np.array([track.box for track in tracks])), boxes).astype(np.float32)
    if n and all(track.pose is not None for track in tracks):
        pose = np.array([track.pose for track in tracks], np.float32)
    names = [name for name in tracks[0].attributes if all(name in track.attributes for track in tracks)] if n else []
    return Faces(
        boxes=boxes.astype(np.float32).reshape(n, 4),
        scores=np.array([track.score for track in tracks], np.float32),
        landmarks=landmarks,
        pose=pose,
        attributes={name: np.array([track.attributes[name] for track in tracks], np.float32) for name in names},
        thresholds={name: value for track in tracks for name, value in track.thresholds.items() if name in names},
    )


def layout(landmarks: Floats, boxes: Floats) -> Floats:
    """Points (N, 5, 2) in pixels as shares of their boxes (N, 4): 0 at the left and top, 1 at the right and bottom."""
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
