"""Precision and recall at a score, and the score at which a wanted precision is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Picture
from edgeface.evaluation.wider import annotated_boxes, counted_faces, hits_and_left_out, match_set
from edgeface.faces import Faces


@dataclass(frozen=True)
class OperatingPoint:
    """What a detector finds and invents from ``score`` on.

    ``recall``: share of the counted faces found, 0..1, by subset as AP is. ``false_faces`` of ``detections`` are on no
    face or on one that is found already; detections on faces that are in no subset or ignored are in neither number.
    ``precision`` is None where nothing was detected.
    """

    score: float
    precision: float | None
    recall: Mapping[str, float]
    detections: int
    false_faces: int


@dataclass(frozen=True)
class OperatingReport:
    """``at_default`` is the point at the score from which the model counts a face by itself, ``at_half`` at 0.5.

    ``suggested`` is the point at the least score with a precision of ``wanted_precision``, where that was asked for;
    None where no score has it.
    """

    at_default: OperatingPoint
    at_half: OperatingPoint
    wanted_precision: float | None = None
    suggested: OperatingPoint | None = None


@dataclass(frozen=True)
class _Curve:
    """Detections that are hits or false ones, best score first: ``scores`` (D,), and by subset the running number of
    hits (D,) and the number of counted faces. The false ones are those of the widest subset, the last."""

    scores: NDArray[np.float32]
    hits: Mapping[str, NDArray[np.int64]]
    counted: Mapping[str, int]
    widest: str

    def point(self, score: float) -> OperatingPoint:
        passed = int(np.searchsorted(-self.scores, -np.float32(score), side="right"))
        hits = {name: int(running[passed - 1]) if passed else 0 for name, running in self.hits.items()}
        return OperatingPoint(
            score=score,
            precision=hits[self.widest] / passed if passed else None,
            recall={name: hits[name] / number for name, number in self.counted.items()},
            detections=passed,
            false_faces=passed - hits[self.widest],
        )

    def least_score(self, precision: float) -> float | None:
        """The least score from which on the precision is at least that; None where no score has it."""
        reached = self.hits[self.widest] / np.arange(1, len(self.scores) + 1) >= precision
        # Equal scores pass together, so only the last of them is a threshold.
        reached[:-1] &= self.scores[:-1] > self.scores[1:]
        places = np.flatnonzero(reached)
        return float(self.scores[places[-1]]) if len(places) else None


def evaluate_operating(
    pictures: Sequence[Picture], detections: Sequence[Faces], default_score: float, precision: float | None = None
) -> OperatingReport:
    """Precision and recall of ``detections``, one ``Faces`` a picture, on complete pictures, matched as for AP.

    ``precision`` in 0..1 asks for the least score that reaches it. Scores below the least one that the detector was
    run with cannot be told apart from it. Raises ValueError where no face is counted.
    """
    counted = {name: mask for name, mask in counted_faces(pictures).items() if mask.any()}
    if not counted:
        raise ValueError("evaluate_operating needs at least one counted face")
    matches = match_set(detections, [annotated_boxes(picture) for picture in pictures])
    raw = np.concatenate([np.empty(0, np.float32), *(found.scores for found in detections)])
    order = np.argsort(-matches.scores, kind="stable")
    widest = list(counted)[-1]
    _, left_out = hits_and_left_out(matches.face[order], counted[widest])
    hits = {
        name: np.cumsum(hits_and_left_out(matches.face[order], mask)[0][~left_out], dtype=np.int64)
        for name, mask in counted.items()
    }
    curve = _Curve(raw[order][~left_out], hits, {name: int(mask.sum()) for name, mask in counted.items()}, widest)
    least = None if precision is None else curve.least_score(precision)
    return OperatingReport(
        at_default=curve.point(default_score),
        at_half=curve.point(0.5),
        wanted_precision=precision,
        suggested=None if least is None else curve.point(least),
    )
