"""Parity: how far a converted model's raw maps and faces are from its reference's, and whether that is near enough."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ParityError
from edgeface.evaluation.report import Measures

from .face_parity import IOU, FacesParity

Floats = NDArray[np.float32]
# A map that hardly varies, as an untrained net's, differs by the rounding of its values: 1e-3 of this is 1e-5 of them.
_LEAST_SPAN = 0.01


@dataclass(frozen=True)
class Tolerance:
    """By how much a converted model may differ.

    ``raw``: the largest difference of a map as a share of its range; ``sqnr_db``: the least SQNR of a map. ``iou`` and
    ``score`` say what the same face is, and ``share`` how many of them there must be, among those of at least
    ``least_score`` (None: the bundle's own). ``cascade_share`` is ``share`` where nets look at crops: a box that an
    earlier net leaves a hair beside where it was may move its crop by a pixel, and then later nets see another one.
    ``ap_loss``: how much lower an AP may be.
    """

    iou: float
    score: float
    raw: float = math.inf
    sqnr_db: float | None = None
    share: float = 1.0
    cascade_share: float = 1.0
    least_score: float | None = None
    ap_loss: float | None = None


FP32 = Tolerance(raw=1e-3, iou=0.99, score=0.005, cascade_share=0.98)
# The raw bound is on the one worst of all values: at 640 px and on 100 pictures that is one of millions.
FP16 = Tolerance(raw=0.03, iou=0.95, score=0.02, cascade_share=0.95)
# int8 against the float network is another network: only what it finds can be held against it.
INT8_AGAINST_FLOAT = Tolerance(iou=0.9, score=1.0, share=0.0, ap_loss=0.005)


# The same network, rounded otherwise here and there: after fifty layers most values are a level off, and faces are not.
INT8_FAST = Tolerance(iou=0.9, score=0.1, share=0.97, least_score=0.5)


def int8(sqnr_db: float) -> Tolerance:
    """An int8 model's tolerance against the same network with fake quantisation.

    A value between two integers that falls to the other side moves its output by a whole step and others after it, so
    that the largest difference says little; the power of the differences does.
    """
    return Tolerance(sqnr_db=sqnr_db, iou=0.95, score=0.05, share=0.99, least_score=0.5)


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
class SizeParity:
    """The two sides at one input size, the longest side in px; with labels also what both are worth on them.

    A model that finds no faces by itself has no ``faces`` to compare, and its size is that of its crops.
    """

    size_px: int
    maps: list[MapParity]
    faces: FacesParity | None
    reference: Measures | None = None
    candidate: Measures | None = None


@dataclass(frozen=True)
class Departure:
    """The first layer of a network whose output is not the reference's: ``layer`` in torch, ``found`` in the file.

    ``by_itself``: it gives other values than torch's layer for the same input; else it is given other values, by
    something between it and the convolutions before it. ``before_db`` is the least SQNR among these, None where there
    are none or all were equal.
    """

    net: str
    layer: str
    found: str
    sqnr_db: float
    before_db: float | None
    same_weights: bool
    by_itself: bool

    def __str__(self) -> str:
        name = self.layer if self.found == self.layer else f"{self.layer} ({self.found} in the file)"
        why = "" if self.by_itself else ", by what it is given"
        weights = "" if self.same_weights else ", and its weights are not the checkpoint's"
        before = "all exact" if self.before_db is None else f"{self.before_db:.1f} dB or more"
        return (
            f"the first layer that departs is {name} of {self.net}: {self.sqnr_db:.1f} dB, {before} before it"
            f"{why}{weights}"
        )


@dataclass(frozen=True)
class Walk:
    """What walking the network layer by layer gave: ``layers`` were compared, ``departure`` is the first wrong one.

    ``least_db`` is the least SQNR, None where all was equal; ``obstacle`` says why nothing could be compared.
    """

    layers: int
    least_db: float | None
    departure: Departure | None
    obstacle: str | None = None

    def __str__(self) -> str:
        if self.obstacle is not None:
            return f"the layers could not be compared one by one ({self.obstacle})"
        if self.departure is not None:
            return str(self.departure)
        least = "all exact" if self.least_db is None else f"{self.least_db:.1f} dB or more"
        return f"no layer departs by itself: {self.layers} of them, {least}"


@dataclass(frozen=True)
class ParityReport:
    """What a conversion ends in; ``failures`` is empty when the model may be used.

    ``reference`` says in words what computed the other side, ``pictures`` what both saw. ``walk`` is taken when
    something failed.
    """

    model: str
    reference: str
    pictures: str
    tolerance: Tolerance
    sizes: list[SizeParity]
    walk: Walk | None = None
    failures: list[str] = field(init=False)
    passed: bool = field(init=False)

    def __post_init__(self) -> None:
        many = len(self.sizes) > 1
        failures = [
            f"at {size.size_px} px {failure}" if many else failure
            for size in self.sizes
            for failure in _failures(size, self.tolerance)
        ]
        object.__setattr__(self, "failures", failures)
        object.__setattr__(self, "passed", not failures)

    def summary(self) -> dict[str, object]:
        """The few figures that bundle.json keeps."""
        return {
            "reference": self.reference,
            "pictures": self.pictures,
            "sizes": [_summary(size) for size in self.sizes],
        }

    def to_json(self) -> bytes:
        """Indented JSON with a line end; what is infinite or not a number is null."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def to_text(self) -> str:
        """The report for a terminal, lines without a line end after the last."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.model} against {self.reference}, on {self.pictures}"
        for size in self.sizes:
            yield f"at {size.size_px} px"
            if size.maps:
                yield from _map_lines(size.maps)
            yield from _face_lines(size.faces, self.tolerance)
            if size.reference is not None and size.candidate is not None:
                yield from _measure_lines(size.reference, size.candidate)
        for failure in self.failures:
            yield f"  FAILED: {failure}"
        if self.walk is not None:
            yield f"  {self.walk}"
        if self.passed:
            yield "  passed"


class DepartedError(ParityError):
    """Parity missed its tolerance; ``report`` says by how much, ``advice`` what to do."""

    def __init__(self, report: ParityReport, advice: str) -> None:
        self.report = report
        more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
        walked = "" if report.walk is None else f"; {report.walk}"
        super().__init__(f"{report.model}: {report.failures[0]}{more}{walked}: {advice}")


def _summary(size: SizeParity) -> dict[str, object]:
    figures: dict[str, object] = {"size_px": size.size_px}
    if size.maps:
        worst = max(size.maps, key=lambda m: m.share)
        decibels = [m.sqnr_db for m in size.maps if m.sqnr_db is not None]
        figures |= {
            "worst_map": worst.name,
            "worst_map_share_of_range": worst.share,
            "sqnr_least_db": min(decibels, default=None),
        }
    if size.faces is not None:
        figures |= {
            "faces": size.faces.reference,
            "faces_matched": size.faces.matched,
            "faces_of_candidate": size.faces.candidate,
            "faces_decided_by_a_tie": size.faces.ties,
            "faces_decided_by_a_tie_at_the_threshold": size.faces.ties_at_threshold,
            "faces_missing": size.faces.missing,
            "faces_extra": size.faces.extra,
            "iou_least": size.faces.iou_least,
            "score_difference": size.faces.score_difference,
            "attribute_difference": size.faces.attribute_difference,
            "ap": {name: [round(ap, 4) for ap in both] for name, both in _aps(size).items()},
        }
    return figures


def _aps(size: SizeParity) -> dict[str, tuple[float, float]]:
    """AP of the reference and of the candidate by subset; none without labels that allow it."""
    sides = [side.detection for side in (size.reference, size.candidate) if side is not None]
    reference, candidate = sides if len(sides) == 2 else (None, None)
    if reference is None or candidate is None:
        return {}
    return {name: (row.ap, candidate.ap[name].ap) for name, row in reference.ap.items()}


def _failures(size: SizeParity, tolerance: Tolerance) -> Iterator[str]:
    for m in size.maps:
        if not m.share <= tolerance.raw:
            yield f"output {m.name} is off by {m.share:.2g} of its range, {tolerance.raw:g} is allowed"
        elif tolerance.sqnr_db is not None and m.sqnr_db is not None and not m.sqnr_db >= tolerance.sqnr_db:
            yield f"output {m.name} has {m.sqnr_db:.1f} dB, {tolerance.sqnr_db:g} is asked for"
        elif math.isinf(m.share):
            yield f"output {m.name} is not finite, or not 0 where the reference is"
    if size.faces is not None:
        yield from _face_failures(size.faces, tolerance)
    if tolerance.ap_loss is None:
        return
    aps = _aps(size)
    if size.faces is None:
        yield "a model that finds no faces has no AP to be held against a float one by: give the quantised checkpoint"
    elif not aps:
        yield "without labels there is no AP to hold an int8 model against a float one by: give --data with labels"
    for name, (reference, candidate) in aps.items():
        if not reference - candidate <= tolerance.ap_loss:
            yield f"AP {name} is {candidate:.3f}, the reference's {reference:.3f}, {tolerance.ap_loss:g} is allowed"


def _face_failures(faces: FacesParity, tolerance: Tolerance) -> Iterator[str]:
    where = f", as in {', '.join(faces.examples[:3])}" if faces.examples else ""
    if tolerance.share < 1:
        lost = faces.missing + faces.shifted
        allowed = 1 - tolerance.share
        if lost > allowed * faces.reference or faces.extra > allowed * faces.candidate:
            yield (
                f"of {faces.reference} faces {faces.missing} are missing, {faces.shifted} have another score and "
                f"{faces.extra} are extra, {allowed:.0%} of them are allowed{where}"
            )
        return
    if faces.missing or faces.extra:
        yield f"{faces.missing} faces are missing and {faces.extra} are extra{where}"
    if not faces.score_difference <= tolerance.score:
        yield f"a score is off by {faces.score_difference:.4f}, {tolerance.score:g} is allowed"


def _map_lines(maps: list[MapParity]) -> Iterator[str]:
    yield f"  {'output':<12} {'range':>9} {'largest':>10} {'of range':>9} {'SQNR dB':>8} {'cosine':>10}"
    for m in maps:
        sqnr = "exact" if m.sqnr_db is None else f"{m.sqnr_db:.1f}"
        yield f"  {m.name:<12} {m.span:>9.3g} {m.largest_difference:>10.2e} {m.share:>9.2e} {sqnr:>8} {m.cosine:>10.7f}"


def _face_lines(faces: FacesParity | None, tolerance: Tolerance) -> Iterator[str]:
    if faces is None:
        yield "  faces: the model finds none by itself, so only the raw outputs were compared"
        return
    if not faces.reference and not faces.candidate:
        yield "  faces: none in these pictures, so only the raw outputs were compared"
        return
    scored = "" if tolerance.least_score is None else f" of score {tolerance.least_score:g} and more"
    ties = f"{faces.ties} decided by a tie"
    if faces.ties:
        ties += f" ({faces.ties_at_threshold} at the score threshold, the others in the NMS)"
    yield (
        f"  faces{scored}: {faces.matched} of {faces.reference} matched at IoU {tolerance.iou:g} "
        f"({faces.overlapping} at {IOU:g}), {ties}, {faces.missing} missing, {faces.extra} extra"
    )
    yield (
        f"  matched faces at most apart: IoU {faces.iou_least:.4f}, score {faces.score_difference:.5f} "
        f"(mean {faces.score_difference_mean:.5f}), landmarks {faces.landmark_difference:.2%} of the box "
        f"(mean {faces.landmark_difference_mean:.2%}), pose {faces.pose_difference_deg:.2f} degrees, "
        f"attributes {faces.attribute_difference:.5f}"
    )
    if faces.shifted:
        yield f"  {faces.shifted} of them differ in score by more than {tolerance.score:g}"


def _measure_lines(reference: Measures, candidate: Measures) -> Iterator[str]:
    rows: list[tuple[str, float, float]] = []
    if reference.detection is not None and candidate.detection is not None:
        rows += [(f"AP {n}", row.ap, candidate.detection.ap[n].ap) for n, row in reference.detection.ap.items()]
    if reference.landmarks is not None and candidate.landmarks is not None:
        one, two = reference.landmarks.nme_percent, candidate.landmarks.nme_percent
        rows += [("NME %", one, two)] if one is not None and two is not None else []
    if reference.pose is not None and candidate.pose is not None:
        one, two = reference.pose.mean_deg, candidate.pose.mean_deg
        rows += [("pose MAE deg", one, two)] if one is not None and two is not None else []
    if rows:
        yield f"  {'by the labels':<14} {'reference':>9} {'this':>9} {'change':>9}"
    for name, one, two in rows:
        yield f"  {name:<14} {one:>9.4f} {two:>9.4f} {two - one:>+9.4f}"


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
        cosine = self._product / norm if norm else 1.0
        span = self._high - self._low
        scale = max(span, _LEAST_SPAN * max(abs(self._low), abs(self._high)))
        share = self._largest / scale if scale > 0 else self._largest * math.inf if self._largest else 0.0
        if math.isnan(share):
            share = math.inf
        return MapParity(self.name, span, self._largest, share, sqnr_db(self._signal, self._noise), cosine)


def sqnr_db(signal: float, noise: float) -> float | None:
    """10 log10 of a signal's power over its noise's; None without noise, minus infinity where nothing can be said."""
    if noise == 0:
        return None
    if not (signal > 0 and math.isfinite(noise)):
        return -math.inf
    return 10 * math.log10(signal / noise)
