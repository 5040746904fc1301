"""``Result``: what the loop says of a shot, and its form as one line of JSON (docs/camera.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces, face_records
from edgeface.stream.shots import Shot, Status

SCHEMA = 1
UNTRACKED = -1


@dataclass(frozen=True)
class TrackedFaces(Faces):
    """Faces with a number each that stays with a face over the frames.

    ``tracks`` (N,) int64 from 1, UNTRACKED for a face without one; ``seen`` (N,) bool: detected in this very frame,
    otherwise filled in by the tracker from where the face was going.
    """

    tracks: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    seen: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

    _SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {**Faces._SHAPES, "tracks": (), "seen": ()}

    @classmethod
    def of(
        cls, faces: Faces, tracks: NDArray[np.int64] | None = None, seen: NDArray[np.bool_] | None = None
    ) -> TrackedFaces:
        """The same faces with ``tracks`` and ``seen``, each (N,); by default untracked and seen."""
        if tracks is None:
            tracks = np.full(len(faces), UNTRACKED, np.int64)
        if seen is None:
            seen = np.ones(len(faces), np.bool_)
        known = {each.name: getattr(faces, each.name) for each in fields(Faces)}
        return cls(**(known | {"tracks": tracks, "seen": seen}))


@dataclass(frozen=True)
class Result:
    """What the loop found in a shot.

    ``detected``: whether the detector looked at this frame, otherwise the tracker filled in for it. ``ended``: numbers
    of tracks that were given up since the last result, each once. ``stages_ms`` is wall time by stage, in order:
    ``preprocess``, ``network`` and ``decode`` of the detector, then ``track``; a stage that did not run is not there.
    ``latency_ms`` is from the moment that the shot was taken to its result. ``dropped`` counts the frames never looked
    at so far, ``failed`` those that the detector failed on. ``others``, (M, 4) x1 y1 x2 y2 in pixels, is where more
    faces may be: weak detections, and tracks that are not shown yet or not any more.
    """

    faces: TrackedFaces
    detected: bool
    ended: tuple[int, ...]
    stages_ms: Mapping[str, float]
    latency_ms: float
    dropped: int
    failed: int
    others: NDArray[np.floating] = field(default_factory=lambda: np.zeros((0, 4), np.float32))

    @property
    def boxes_to_hide(self) -> NDArray[np.floating]:
        """Wherever a face may be, (N + M, 4) x1 y1 x2 y2 in pixels: more than are shown, since one that is hidden for
        nothing harms nobody."""
        return np.concatenate([self.faces.boxes, self.others])


def frame_record(shot: Shot, result: Result) -> dict[str, Any]:
    """The JSON object of one frame, schema version SCHEMA: pixels, degrees, milliseconds, seconds since 1970."""
    return {
        "schema": SCHEMA,
        "type": "frame",
        "source": shot.source,
        "frame": shot.number,
        "time": round(shot.taken_unix_ns / 1e9, 6),
        "width": shot.width,
        "height": shot.height,
        "detected": result.detected,
        "faces": tracked_records(result.faces),
        "ended": list(result.ended),
        "ms": {name: round(ms, 3) for name, ms in result.stages_ms.items()},
        "latency_ms": round(result.latency_ms, 3),
        "state": shot.status.state,
        "dropped": result.dropped,
        "failed": result.failed,
        "damaged": shot.status.damaged,
    }


def status_record(source: str, status: Status) -> dict[str, Any]:
    """The JSON object of a source's change of state, schema version SCHEMA."""
    return {
        "schema": SCHEMA,
        "type": "state",
        "source": source,
        "time": round(status.since_unix_s, 6),
        "state": status.state,
        "reason": status.reason,
        "retry_in_s": status.retry_in_s,
        "starts": status.starts,
        "captured": status.captured,
        "dropped": status.dropped,
        "damaged": status.damaged,
    }


def tracked_records(faces: TrackedFaces) -> list[dict[str, Any]]:
    """The JSON objects of the faces: those of ``edgeface detect`` with ``track`` (null: untracked) and ``seen``."""
    return [
        {"track": None if track == UNTRACKED else track, "seen": seen, **face}
        for track, seen, face in zip(faces.tracks.tolist(), faces.seen.tolist(), face_records(faces), strict=True)
    ]
