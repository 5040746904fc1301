"""Parity: how far a converted model's raw maps and faces are from its reference's, and whether that is near enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ParityError
from edgeface.faces import Faces
from edgeface.runtime.nms import iou

Floats = NDArray[np.float32]
_EXAMPLES = 10
# A map that hardly varies, as an untrained net's, differs by the rounding of its values: 1e-3 of this is 1e-5 of them.
_LEAST_SPAN = 0.01


@dataclass(frozen=True)
class Tolerance:
    """``raw``: the largest difference of a map as a share of its range; ``iou``, ``score``: what the same face is."""

    raw: float
    iou: float
    score: float


@dataclass(frozen=True)
class MapParity:
    """One raw output over all inputs.

    ``span``: the reference's largest value minus its least; ``share``: the largest difference divided by it, infinite
    when something is not a number; ``sqnr_db``: 10 log10(signal / noise power), None where nothing differs.
    """

    name: str
    span: float
    largest_difference: float
    share: float
    sqnr_db: float | None
    cosine: float


@dataclass(frozen=True)
class FacesParity:
    """The faces of all pictures. ``ties``: faces that one side has under its score threshold or behind a neighbour of
    the same score, and the other side kept; ``missing`` and ``extra`` have no such reason, ``examples`` says where.

    Differences are the largest among matched faces; landmarks as a share of the square root of the box's area.
    """

    pictures: int
    reference: int
    candidate: int
    matched: int
    ties: int
    missing: int
    extra: int
    iou_least: float
    score_difference: float
    landmark_difference: float
    pose_difference_deg: float
    examples: list[str]


@dataclass(frozen=True)
class ParityReport:
    """What ``edgeface convert`` ends in; ``failures`` is empty when the model may be used."""

    model: str
    reference: str
    pictures: str
    tolerance: Tolerance
    maps: list[MapParity]
    faces: FacesParity
    failures: list[str] = field(init=False)
    passed: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "failures", _failures(self.maps, self.faces, self.tolerance))
        object.__setattr__(self, "passed", not self.failures)

    def summary(self) -> dict[str, object]:
        """The few figures that bundle.json keeps."""
        worst = max(self.maps, key=lambda m: m.share)
        return {
            "reference": self.reference,
            "pictures": self.pictures,
            "worst_map": worst.name,
            "worst_map_share_of_range": worst.share,
            "faces": self.faces.reference,
            "faces_matched": self.faces.matched,
            "faces_decided_by_a_tie": self.faces.ties,
            "iou_least": self.faces.iou_least,
            "score_difference": self.faces.score_difference,
        }

    def to_json(self) -> bytes:
        """Indented JSON with a line end; what is infinite or not a number is null."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def to_text(self) -> str:
        """The report for a terminal, lines without a line end after the last."""
        lines = [
            f"{self.model} against {self.reference}, on {self.pictures}",
            f"  {'output':<12} {'range':>9} {'largest':>10} {'of range':>9} {'SQNR dB':>8} {'cosine':>10}",
        ]
        for m in self.maps:
            sqnr = "exact" if m.sqnr_db is None else f"{m.sqnr_db:.1f}"
            lines.append(
                f"  {m.name:<12} {m.span:>9.3g} {m.largest_difference:>10.2e} {m.share:>9.2e} {sqnr:>8} "
                f"{m.cosine:>10.7f}"
            )
        f, t = self.faces, self.tolerance
        if f.reference or f.candidate:
            lines.append(
                f"  faces: {f.matched} of {f.reference} matched at IoU {t.iou:g}, {f.ties} decided by a tie, "
                f"{f.missing} missing, {f.extra} extra"
            )
            lines.append(
                f"  matched faces at most apart: IoU {f.iou_least:.4f}, score {f.score_difference:.5f}, "
                f"landmarks {f.landmark_difference:.2%} of the box, pose {f.pose_difference_deg:.2f} degrees"
            )
        else:
            lines.append("  faces: none in these pictures, so only the raw outputs were compared")
        lines += [f"  FAILED: {failure}" for failure in self.failures] or ["  passed"]
        return "\n".join(lines)


class DepartedError(ParityError):
    """Parity missed its tolerance; ``report`` says by how much."""

    def __init__(self, report: ParityReport) -> None:
        self.report = report
        more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
        super().__init__(
            f"{report.model}: {report.failures[0]}{more}: no bundle was written; --force writes it as not verified"
        )


def _failures(maps: list[MapParity], faces: FacesParity, tolerance: Tolerance) -> list[str]:
    failures = [
        f"output {m.name} is off by {m.share:.2g} of its range, {tolerance.raw:g} is allowed"
        for m in maps
        if not m.share <= tolerance.raw
    ]
    if faces.missing or faces.extra:
        where = ", ".join(faces.examples[:3])
        failures.append(f"{faces.missing} faces are missing and {faces.extra} are extra, as in {where}")
    if not faces.score_difference <= tolerance.score:
        failures.append(f"a score is off by {faces.score_difference:.4f}, {tolerance.score:g} is allowed")
    return failures


class MapSums:
    """Running sums over one raw output, so that no map has to be kept."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._low, self._high, self._largest = math.inf, -math.inf, 0.0
        self._signal = self._noise = self._other = self._product = 0.0

    def add(self, reference: Floats, candidate: Floats) -> None:
        """Count one pair of maps of equal shape; raises ParityError when the shapes differ."""
        if reference.shape != candidate.shape:
            raise ParityError(f"output {self.name} has shape {candidate.shape}, the reference {reference.shape}")
        y, z = reference.astype(np.float64), candidate.astype(np.float64)
        self._low, self._high = min(self._low, float(y.min())), max(self._high, float(y.max()))
        # np.maximum keeps a NaN that max() would lose.
        self._largest = float(np.maximum(self._largest, np.abs(y - z).max()))
        self._signal += float((y * y).sum())
        self._other += float((z * z).sum())
        self._product += float((y * z).sum())
        self._noise += float(((y - z) ** 2).sum())

    def parity(self) -> MapParity:
        """The figures over everything added."""
        norm = math.sqrt(self._signal * self._other)
        sqnr = 10 * math.log10(self._signal / self._noise) if self._noise > 0 and self._signal > 0 else None
        cosine = self._product / norm if norm else 1.0
        span = self._high - self._low
        scale = max(span, _LEAST_SPAN * max(abs(self._low), abs(self._high)))
        share = self._largest / scale if scale > 0 else self._largest * math.inf if self._largest else 0.0
        return MapParity(self.name, span, self._largest, math.inf if math.isnan(share) else share, sqnr, cosine)


def match(reference: Faces, candidate: Faces, iou_least: float) -> list[tuple[int, int, float]]:
    """Pairs (index in reference, index in candidate, IoU >= ``iou_least``), one to one, the best IoU first."""
    if not len(reference) or not len(candidate):
        return []
    overlap = iou(reference.boxes, candidate.boxes)
    pairs = np.argwhere(overlap >= iou_least)
    pairs = pairs[np.argsort(-overlap[pairs[:, 0], pairs[:, 1]], kind="stable")]
    used_reference: set[int] = set()
    used_candidate: set[int] = set()
    chosen = []
    for i, j in pairs.tolist():
        if i not in used_reference and j not in used_candidate:
            used_reference.add(i)
            used_candidate.add(j)
            chosen.append((i, j, float(overlap[i, j])))
    return chosen


class FaceSums:
    """Running comparison of the faces of one picture after the other."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._count = dict.fromkeys(("pictures", "reference", "candidate", "matched", "ties", "missing", "extra"), 0)
        self._iou_least = 1.0
        self._score = self._landmarks = self._pose_deg = 0.0
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
        pairs = match(reference, candidate, self._tolerance.iou)
        self._differences(reference, candidate, pairs)
        missing = _without(reference, {i for i, _, _ in pairs})
        extra = _without(candidate, {j for _, j, _ in pairs})
        lost = len(missing) - self._tied(missing, candidate_contenders)
        added = len(extra) - self._tied(extra, reference_contenders)
        counts: Mapping[str, int] = {
            "pictures": 1, "reference": len(reference), "candidate": len(candidate), "matched": len(pairs),
            "ties": len(missing) - lost + len(extra) - added, "missing": lost, "extra": added,
        }
        for name, value in counts.items():
            self._count[name] += value
        if (lost or added) and len(self._examples) < _EXAMPLES:
            self._examples.append(f"{picture} ({lost} missing, {added} extra)")

    def _tied(self, alone: Faces, contenders: Callable[[], Faces]) -> int:
        if not len(alone):
            return 0
        other = contenders()
        return sum(
            1
            for i, j, _ in match(alone, other, self._tolerance.iou)
            if abs(float(alone.scores[i]) - float(other.scores[j])) <= self._tolerance.score
        )

    def _differences(self, reference: Faces, candidate: Faces, pairs: list[tuple[int, int, float]]) -> None:
        for i, j, overlap in pairs:
            self._iou_least = min(self._iou_least, overlap)
            self._score = _largest(self._score, reference.scores[i] - candidate.scores[j])
            if reference.landmarks is not None and candidate.landmarks is not None:
                x1, y1, x2, y2 = reference.boxes[i].tolist()
                side = math.sqrt(max((x2 - x1) * (y2 - y1), 1e-6))
                self._landmarks = _largest(self._landmarks, (reference.landmarks[i] - candidate.landmarks[j]) / side)
            if reference.pose is not None and candidate.pose is not None:
                self._pose_deg = _largest(self._pose_deg, reference.pose[i] - candidate.pose[j])

    def parity(self) -> FacesParity:
        """The figures over every picture added."""
        return FacesParity(
            **self._count, iou_least=self._iou_least, score_difference=self._score,
            landmark_difference=self._landmarks, pose_difference_deg=self._pose_deg, examples=self._examples,
        )


def _largest(so_far: float, difference: np.float32 | Floats) -> float:
    return float(np.maximum(so_far, np.abs(difference).max()))


def _without(faces: Faces, taken: set[int]) -> Faces:
    keep = [i for i in range(len(faces)) if i not in taken]
    return Faces(faces.boxes[keep], faces.scores[keep])
