"""Whether two sides find the same faces, picture by picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces
from edgeface.matching import Pair, differences, match

IOU = 0.9       # at which two boxes are said to be one face, whatever a tolerance asks beyond that
_EXAMPLES = 10


@dataclass(frozen=True)
class FacesParity:
    """The faces of all pictures. ``overlapping``: partners at IoU 0.9; ``matched``: at the tolerance's IoU.

    ``shifted``: matched, with a score further apart than the tolerance. ``ties``: faces that one side has under its
    score threshold (``ties_at_threshold``) or behind a neighbour of the same score, and the other side kept;
    ``missing`` and ``extra`` have no such reason, ``examples`` says where. ``share`` of the reference's faces are
    neither missing nor shifted.

    Differences are the largest and the mean among matched faces; landmarks as a share of the square root of the box's
    area, attributes those of probabilities, of classes too.
    """

    pictures: int
    reference: int
    candidate: int
    overlapping: int
    matched: int
    shifted: int
    ties: int
    ties_at_threshold: int
    missing: int
    extra: int
    share: float
    iou_least: float
    score_difference: float
    score_difference_mean: float
    landmark_difference: float
    landmark_difference_mean: float
    pose_difference_deg: float
    attribute_difference: float
    attribute_difference_mean: float
    examples: list[str]


class FaceSums:
    """Running comparison of the faces of one picture after the other.

    The same face overlaps by at least ``iou_least``, with a score at most ``score`` apart; faces are those of at least
    the score ``threshold``.
    """

    def __init__(self, iou_least: float, score: float, threshold: float) -> None:
        self._tolerated = iou_least, score
        self._threshold = threshold
        self._count = dict.fromkeys(
            (
                "pictures", "reference", "candidate", "overlapping", "matched", "shifted", "ties", "ties_at_threshold",
                "missing", "extra",
            ), 0,
        )
        self._iou_least = 1.0
        self._score, self._landmarks, self._pose_deg, self._attributes = (_Extremes() for _ in range(4))
        self._examples: list[str] = []

    def add(
        self,
        picture: str,
        reference: Faces,
        candidate: Faces,
        reference_contenders: Callable[[], Faces],
        candidate_contenders: Callable[[], Faces],
    ) -> None:
        """Count one picture. The contenders, asked for only when a face has no partner, are what each side finds with a
        score threshold lower by the score tolerance and without NMS: a face that the other side has among them was
        found there too, and lost by a tie."""
        iou_least, score = self._tolerated
        overlapping = match(reference.boxes, candidate.boxes, min(IOU, iou_least))
        # The best overlap is taken first, so these are the pairs that a search from ``iou_least`` on gives.
        pairs = [pair for pair in overlapping if pair.iou >= iou_least]
        self._differences(reference, candidate, pairs)
        missing = _without(reference, {pair.one for pair in pairs})
        extra = _without(candidate, {pair.other for pair in pairs})
        tied = [*self._tied(missing, candidate_contenders)], [*self._tied(extra, reference_contenders)]
        lost, added = len(missing) - len(tied[0]), len(extra) - len(tied[1])
        shifted = sum(1 for i, j, _ in pairs if not abs(float(reference.scores[i] - candidate.scores[j])) <= score)
        counts: Mapping[str, int] = {
            "pictures": 1, "reference": len(reference), "candidate": len(candidate),
            "overlapping": sum(1 for pair in overlapping if pair.iou >= IOU), "matched": len(pairs), "shifted": shifted,
            "ties": len(tied[0]) + len(tied[1]),
            "ties_at_threshold": sum(1 for other in tied[0] + tied[1] if other < self._threshold),
            "missing": lost, "extra": added,
        }
        for name, value in counts.items():
            self._count[name] += value
        if (lost or added) and len(self._examples) < _EXAMPLES:
            self._examples.append(f"{picture} ({lost} missing, {added} extra)")

    def _tied(self, alone: Faces, contenders: Callable[[], Faces]) -> Iterator[float]:
        """The scores that the other side gives to those of ``alone`` which it has among its contenders."""
        if not len(alone):
            return
        iou_least, score = self._tolerated
        other = contenders()
        for i, j, _ in match(alone.boxes, other.boxes, iou_least):
            if abs(float(alone.scores[i]) - float(other.scores[j])) <= score:
                yield float(other.scores[j])

    def _differences(self, reference: Faces, candidate: Faces, pairs: list[Pair]) -> None:
        if not pairs:
            return
        self._iou_least = min(self._iou_least, *(pair.iou for pair in pairs))
        x1, y1, x2, y2 = reference.boxes[[pair.one for pair in pairs]].T.astype(np.float64)
        sides = np.sqrt(np.maximum((x2 - x1) * (y2 - y1), 1e-6))
        for name, apart in differences(reference, candidate, pairs).items():
            if name in ("landmarks", "landmarks68"):
                self._landmarks.add(apart / sides[:, None, None])
            elif name == "pose":
                self._pose_deg.add(apart)
            elif name == "scores":
                self._score.add(apart)
            elif name != "boxes":       # their IoU says it
                self._attributes.add(apart)

    def parity(self) -> FacesParity:
        """The figures over every picture added."""
        faces = self._count["reference"]
        wrong = self._count["missing"] + self._count["shifted"]
        return FacesParity(
            **self._count, share=1 - wrong / faces if faces else 1.0, iou_least=self._iou_least,
            score_difference=self._score.largest, score_difference_mean=self._score.mean,
            landmark_difference=self._landmarks.largest, landmark_difference_mean=self._landmarks.mean,
            pose_difference_deg=self._pose_deg.largest, attribute_difference=self._attributes.largest,
            attribute_difference_mean=self._attributes.mean, examples=self._examples,
        )


class _Extremes:
    """The largest and the mean absolute difference of what was added; not a number once one of them is not."""

    def __init__(self) -> None:
        self.largest = self._sum = 0.0
        self._count = 0

    def add(self, difference: NDArray[np.floating]) -> None:
        absolute = np.abs(np.asarray(difference, np.float64))
        self.largest = float(np.maximum(self.largest, absolute.max()))
        self._sum += float(absolute.sum())
        self._count += absolute.size

    @property
    def mean(self) -> float:
        return self._sum / self._count if self._count else 0.0


def _without(faces: Faces, taken: set[int]) -> Faces:
    return faces.select([i for i in range(len(faces)) if i not in taken])
