"""How well numbers stay with faces: IDF1 (Ristani and others, ECCV workshops 2016) and CLEAR MOT's switches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.nms import iou
from edgeface.stream.tracking.assignment import assign

MATCH_IOU = 0.5


@dataclass(frozen=True)
class Labelled:
    """The numbered faces of one picture: ``boxes`` (N, 4) x1 y1 x2 y2 in pixels, ``ids`` int64 (N,), none twice."""

    boxes: NDArray[np.floating]
    ids: NDArray[np.int64]


class TrackingScores(msgspec.Struct, frozen=True):
    """``idf1``: the share of faces, true and found, that carry the one number that fits their person best over the
    whole clip; ``recall`` and ``precision`` of the faces whatever their numbers; ``switches``: how often a person's
    number changed."""

    pictures: int
    persons: int
    idf1: float
    recall: float
    precision: float
    switches: int


def score_tracks(truth: Sequence[Labelled], found: Sequence[Labelled], match_iou: float = MATCH_IOU) -> TrackingScores:
    """Compare clips picture by picture; a face is found where the overlap (IoU) is at least ``match_iou``.

    Raises ValueError when the two do not have equally many pictures, or no face is labelled.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} pictures are labelled and {len(found)} were tracked")
    persons = _numbers(truth)
    tracks = _numbers(found)
    if not len(persons):
        raise ValueError("no face is labelled in this clip")
    together = np.zeros((len(persons), len(tracks)))
    last: dict[int, int] = {}
    matched = switches = 0
    for labelled, tracked in zip(truth, found, strict=True):
        overlap = iou(labelled.boxes, tracked.boxes)
        near = np.nonzero(overlap >= match_iou)
        together[np.searchsorted(persons, labelled.ids[near[0]]), np.searchsorted(tracks, tracked.ids[near[1]])] += 1
        for person, track in _pairs(labelled, tracked, overlap, last, match_iou):
            matched += 1
            switches += last.get(person, track) != track
            last[person] = track
    true_faces = sum(len(picture.ids) for picture in truth)
    found_faces = sum(len(picture.ids) for picture in found)
    most = together.max(initial=0.0)
    rows, columns = assign(most - together, most)
    return TrackingScores(
        pictures=len(truth),
        persons=len(persons),
        idf1=2 * float(together[rows, columns].sum()) / (true_faces + found_faces),
        recall=matched / true_faces,
        precision=matched / found_faces if found_faces else 0.0,
        switches=switches,
    )


def _pairs(
    labelled: Labelled, tracked: Labelled, overlap: NDArray[np.floating], last: dict[int, int], match_iou: float
) -> list[tuple[int, int]]:
    """(person, track) of one picture. As in CLEAR MOT a person keeps its track as long as that overlaps enough."""
    cost = 1.0 - overlap.astype(np.float64)
    before = np.array([last.get(int(person), 0) for person in labelled.ids])
    cost[(before[:, None] == tracked.ids[None, :]) & (overlap >= match_iou)] = 0.0
    rows, columns = assign(cost, 1.0 - match_iou)
    return [(int(labelled.ids[r]), int(tracked.ids[c])) for r, c in zip(rows, columns, strict=True)]


def _numbers(pictures: Sequence[Labelled]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([picture.ids for picture in pictures] or [np.zeros(0, np.int64)]))
