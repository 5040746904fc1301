"""What is known of a track as a whole: when and where it was seen, and what its face had on average."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgeface.stream.results import Result
from edgeface.stream.shots import Shot

Box = tuple[float, float, float, float]


@dataclass
class TrackHistory:
    """One track of one source. Boxes are x1 y1 x2 y2 in pixels of a picture of ``width`` x ``height``; ``sightings``
    counts the frames that it was detected in, and ``thresholds`` say from which mean an attribute is a yes."""

    track: int
    source: str
    width: int
    height: int
    first_unix_ns: int
    last_unix_ns: int
    first_box: Box
    last_box: Box
    best_score: float = 0.0
    sightings: int = 0
    thresholds: dict[str, float] = field(default_factory=dict)
    _sums: dict[str, float] = field(default_factory=dict)

    def attributes(self) -> dict[str, float]:
        """The mean probability of each attribute over all sightings."""
        return {name: value / self.sightings for name, value in self._sums.items()}

    def has(self, attribute: str) -> bool | None:
        """Whether its face has it, by the mean probability; None where the model does not say."""
        if attribute not in self._sums:
            return None
        return self._sums[attribute] / self.sightings >= self.thresholds.get(attribute, 0.5)

    def add(self, box: Box, score: float, attributes: dict[str, float]) -> None:
        """A sighting."""
        self.last_box = box
        self.best_score = max(self.best_score, score)
        self.sightings += 1
        for name, value in attributes.items():
            if np.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + value


class TrackHistories:
    """The histories of all tracks that are followed."""

    def __init__(self) -> None:
        self._of: dict[int, TrackHistory] = {}

    def add(self, shot: Shot, result: Result) -> list[TrackHistory]:
        """Take what was detected in a shot; the histories of the tracks that were seen in it."""
        faces = result.faces
        seen = []
        for i in np.flatnonzero(faces.seen & (faces.tracks > 0)).tolist():
            track = int(faces.tracks[i])
            x1, y1, x2, y2 = faces.boxes[i].tolist()
            history = self._of.get(track)
            if history is None:
                history = self._of[track] = TrackHistory(
                    track, shot.source, shot.width, shot.height, shot.taken_unix_ns, shot.taken_unix_ns,
                    (x1, y1, x2, y2), (x1, y1, x2, y2), thresholds=dict(faces.thresholds),
                )
            history.last_unix_ns = shot.taken_unix_ns
            values = {name: float(each[i]) for name, each in faces.attributes.items()}
            history.add((x1, y1, x2, y2), float(faces.scores[i]), values)
            seen.append(history)
        return seen

    def take(self, tracks: tuple[int, ...]) -> list[TrackHistory]:
        """The histories of tracks that have ended, and forget them."""
        return [history for track in tracks if (history := self._of.pop(track, None)) is not None]

    def take_all(self) -> list[TrackHistory]:
        """The histories of all tracks, and forget them."""
        return self.take(tuple(self._of))
