"""The tracker: a number that stays with a face while it moves and while it is not seen for a moment.

As in ByteTrack (Zhang et al., ECCV 2022) detections are matched in two rounds: strong ones with all tracks, then weak
ones with the tracks that are left; weak ones never start a track. Instead of the overlap of boxes the cost is the
distance of centres in face sizes, with the change of size and of the landmarks' layout added: a small face that is
looked for in every third picture has left its own box by then, and two heads that pass each other seldom look the same
way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import OptionError
from edgeface.faces import Faces
from edgeface.stream.smoothing import Smoother, SmoothingOptions
from edgeface.stream.tracking.assignment import assign
from edgeface.stream.tracking.motion import Motion
from edgeface.stream.tracking.track import Track, centres, gathered, layout, sizes_px

# Weights of what is added to the distance of centres, all of them in face sizes, and the most that landmarks can add.
_SIZE_WEIGHT = 0.5
_LANDMARK_WEIGHT = 2.0
_LANDMARK_LIMIT = 0.6
_LARGEST_GROWTH = 1.0           # of the natural logarithm of the size from one look to the next
_DEVIATIONS = 2.0
_VELOCITY_HALF_LIFE_S = 0.3     # of a track that was looked for in vain

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TrackerOptions:
    """``low_score``: the least score of a detection that may continue a track, so the detector is run with it;
    ``start_score``: the least that starts one; ``sure_score``: from here a track counts at first sight, otherwise after
    ``confirm_sightings``. ``reach``: how far from where it is expected a face may be found, in face sizes, on top of
    the track's own uncertainty. A track is still shown for ``shown_unseen_s`` after it was last seen, and its number is
    kept for ``kept_unseen_s``. Raises OptionError for values that contradict each other."""

    low_score: float = 0.4
    start_score: float = 0.7
    sure_score: float = 0.9
    confirm_sightings: int = 2
    reach: float = 0.6
    shown_unseen_s: float = 0.2
    kept_unseen_s: float = 1.5
    smoothing: SmoothingOptions | None = field(default_factory=SmoothingOptions)

    def __post_init__(self) -> None:
        if not 0.0 <= self.low_score <= self.start_score <= 1.0:
            raise OptionError(
                f"tracking: weak detections from {self.low_score}, new tracks from {self.start_score}: the scores must "
                "rise, between 0 and 1"
            )
        if self.confirm_sightings < 1 or self.reach <= 0 or not 0 <= self.shown_unseen_s <= self.kept_unseen_s:
            raise OptionError(
                "tracking: it takes 1 sighting or more, a reach over 0, and a track must be kept at least as long as "
                "it is shown"
            )


@dataclass(frozen=True)
class Tracked:
    """The faces with a number at one moment, best score first.

    ``faces``: N faces, landmarks and pose smoothed; ``ids`` int64 (N,) from 1; ``seen`` bool (N,): detected at this
    moment, otherwise filled in from where the face was going; ``ended``: numbers that were given up since the last
    moment, each once.
    """

    faces: Faces
    ids: NDArray[np.int64]
    seen: NDArray[np.bool_]
    ended: tuple[int, ...] = ()


class Tracker:
    """Follows the faces of one source. Times are in seconds of a clock that never goes back.

    ``update`` where the detector looked, ``predict`` where it did not; each moves the tracks to that time.
    """

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self.options = options or TrackerOptions()
        self._smoother = None if self.options.smoothing is None else Smoother(self.options.smoothing)
        self._motion = Motion.none()
        self._tracks: list[Track] = []
        self._time_s = -math.inf
        self._next_id = 1

    def update(self, faces: Faces, time_s: float) -> Tracked:
        """The tracks after a look that found ``faces``. Raises ValueError when ``time_s`` is before the last one."""
        self._advance(time_s)
        options = self.options
        strong = faces.scores >= options.start_score
        weak = (faces.scores >= options.low_score) & ~strong
        everyone = np.arange(len(self._tracks))
        rows, found = self._matched(everyone, faces, np.flatnonzero(strong))
        left = _without(everyone, rows)
        more_rows, more_found = self._matched(left, faces, np.flatnonzero(weak))
        for i in _without(left, more_rows):
            self._tracks[i].missed = True
        new = _without(np.flatnonzero(strong), found)
        self._see(np.concatenate([rows, more_rows]), faces, np.concatenate([found, more_found]), time_s)
        self._start(faces, new, time_s)
        return self._shown(self._drop(time_s), time_s)

    def predict(self, time_s: float) -> Tracked:
        """The tracks at a moment nobody looked at. Raises ValueError when ``time_s`` is before the last one."""
        self._advance(time_s)
        return self._shown(self._drop(time_s), time_s)

    def boxes(self) -> NDArray[np.float64]:
        """Where all tracks are at that moment, also those that are not shown yet or not any more: (T, 4) x1 y1 x2 y2 in
        pixels."""
        return self._motion.boxes()

    def _advance(self, time_s: float) -> None:
        if time_s < self._time_s:
            raise ValueError(f"a tracker cannot go back from {self._time_s} to {time_s} s")
        if self._tracks:
            elapsed_s = time_s - self._time_s
            missed = np.array([track.missed for track in self._tracks])
            kept = np.where(missed, 0.5 ** (elapsed_s / _VELOCITY_HALF_LIFE_S), 1.0)
            self._motion = self._motion.predicted(elapsed_s, kept)
        self._time_s = time_s

    def _matched(self, tracks: Indices, faces: Faces, candidates: Indices) -> tuple[Indices, Indices]:
        """Pairs of the indices of tracks and faces that belong together, out of those given."""
        if not len(tracks) or not len(candidates):
            return tracks[:0], candidates[:0]
        motion = self._motion[tracks]
        expected, seen = motion.boxes(), faces.boxes[candidates].astype(np.float64)
        expected_px, seen_px = sizes_px(expected)[:, None], sizes_px(seen)[None, :]
        size_px = np.sqrt(expected_px * seen_px)
        apart = np.linalg.norm(centres(expected)[:, None] - centres(seen)[None, :], axis=-1) / size_px
        grown = np.abs(np.log(seen_px / expected_px))
        reach = self.options.reach + _DEVIATIONS * motion.uncertainty_px()[:, None] / size_px
        # What is out of reach is out; the rest competes in face sizes, so that a track that may be anywhere by now does
        # not win because its distances are small in its own measure.
        cost = apart + _SIZE_WEIGHT * grown + self._layout_change(tracks, faces, candidates)
        cost[(apart > reach) | (grown > _LARGEST_GROWTH)] = np.inf
        rows, columns = assign(cost, float(reach.max(initial=0.0)) + _SIZE_WEIGHT * _LARGEST_GROWTH + _LANDMARK_LIMIT)
        return tracks[rows], candidates[columns]

    def _layout_change(self, tracks: Indices, faces: Faces, candidates: Indices) -> NDArray[np.float64]:
        """What the landmarks' places within their boxes add to the cost, (tracks, candidates), in face sizes."""
        added = np.zeros((len(tracks), len(candidates)))
        if faces.landmarks is None or not len(candidates):
            return added
        now = layout(faces.landmarks[candidates], faces.boxes[candidates])
        for i, track in enumerate(self._tracks[t] for t in tracks):
            if track.faces.landmarks is not None:
                before = layout(track.faces.landmarks, track.faces.boxes)
                added[i] = _LANDMARK_WEIGHT * np.abs(now - before).mean(axis=(1, 2))
        # Landmarks that are no numbers say nothing for a pair and rule nothing out.
        return np.nan_to_num(np.minimum(added, _LANDMARK_LIMIT), nan=_LANDMARK_LIMIT)

    def _see(self, rows: Indices, faces: Faces, found: Indices, time_s: float) -> None:
        """Correct the tracks ``rows`` by the faces ``found``, pair by pair."""
        corrected = self._motion[rows].corrected(faces.boxes[found])
        self._motion.mean[rows] = corrected.mean
        self._motion.covariance[rows] = corrected.covariance
        for row, index in zip(rows.tolist(), found.tolist(), strict=True):
            self._sighted(self._tracks[row], faces, index, time_s)

    def _start(self, faces: Faces, new: Indices, time_s: float) -> None:
        """A track for each of the faces ``new``."""
        if len(new):
            self._motion = self._motion.joined(Motion.starting(faces.boxes[new]))
        for index in new.tolist():
            self._tracks.append(Track())
            self._sighted(self._tracks[-1], faces, index, time_s)

    def _sighted(self, track: Track, faces: Faces, index: int, time_s: float) -> None:
        track.sighted(faces, index, time_s)
        options = self.options
        if not track.id and (track.score >= options.sure_score or track.sightings >= options.confirm_sightings):
            track.id = self._next_id
            self._next_id += 1

    def _drop(self, time_s: float) -> tuple[int, ...]:
        """Give up what was not seen for too long, sooner where it is not confirmed; the numbers that ended."""
        options = self.options
        stays = np.array([
            time_s - track.seen_s <= (options.kept_unseen_s if track.id else options.shown_unseen_s)
            for track in self._tracks
        ], bool)
        ended = [track.id for track, stay in zip(self._tracks, stays, strict=True) if track.id and not stay]
        if ended or not stays.all():
            self._motion = self._motion[stays]
            self._tracks = [track for track, stay in zip(self._tracks, stays, strict=True) if stay]
            if self._smoother is not None:
                self._smoother.keep(track.id for track in self._tracks)
        return tuple(ended)

    def _shown(self, ended: tuple[int, ...], time_s: float) -> Tracked:
        unseen_s = np.array([time_s - track.seen_s for track in self._tracks])
        confirmed = np.array([track.id > 0 for track in self._tracks], bool)
        chosen = np.flatnonzero(confirmed & (unseen_s <= self.options.shown_unseen_s))
        chosen = chosen[np.argsort([-self._tracks[i].score for i in chosen], kind="stable")]
        tracks, seen = [self._tracks[i] for i in chosen], unseen_s[chosen] == 0.0
        boxes = self._motion[chosen].boxes().astype(np.float32)
        for i in np.flatnonzero(seen):
            boxes[i] = tracks[i].box
        faces = gathered(tracks, boxes)
        ids = np.array([track.id for track in tracks], np.int64)
        if self._smoother is not None:
            faces = self._smoother(faces, ids, time_s)
        return Tracked(faces, ids, seen, ended)


def _without(indices: Indices, some: Indices) -> Indices:
    """``indices`` less ``some`` of them, in their order."""
    kept = np.ones(int(indices.max(initial=-1)) + 1, bool)
    kept[some] = False
    return indices[kept[indices]]
