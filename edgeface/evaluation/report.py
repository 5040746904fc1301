"""What an evaluation says: one dataclass, as a JSON record for machines and as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from edgeface.evaluation.attributes import AttributeReport, BinaryFigures
from edgeface.evaluation.landmarks import LandmarkReport
from edgeface.evaluation.pose import PoseReport
from edgeface.evaluation.wider import AveragePrecision, DetectionReport


@dataclass(frozen=True)
class FalseAlarmReport:
    """Detections in pictures that have no faces: ``false_faces`` of at least ``score`` in ``pictures`` pictures."""

    pictures: int
    score: float
    false_faces: int
    per_100_pictures: float


@dataclass(frozen=True)
class Measures:
    """What could be measured; None where it could not, and ``not_measured`` says why, by the field's name."""

    detection: DetectionReport | None
    landmarks: LandmarkReport | None
    pose: PoseReport | None
    attributes: Mapping[str, AttributeReport] | None
    false_alarms: FalseAlarmReport | None
    not_measured: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def names(cls) -> set[str]:
        """The names of the measures, the keys that ``not_measured`` can have."""
        return {entry.name for entry in fields(cls)} - {"not_measured"}


@dataclass(frozen=True)
class Report:
    """Measures of one model on one part of a data set, with all that made them.

    ``data`` is the set's folder name; ``pictures`` of ``pictures_of_split`` were evaluated; ``size_px`` is the longest
    side that a picture is brought to; ``score`` and ``nms_iou`` are the detector's thresholds.
    """

    model: str
    engine: str
    data: str
    split: str
    pictures: int
    pictures_of_split: int
    size_px: int
    score: float
    nms_iou: float
    measures: Measures

    def to_record(self) -> dict[str, Any]:
        """The report as plain types that any JSON writer takes; field names are those of the dataclasses."""
        record: dict[str, Any] = msgspec.to_builtins(self)
        return record

    def to_text(self) -> str:
        """The report for a terminal, lines without a line end after the last."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        part = "" if self.pictures == self.pictures_of_split else f" of {self.pictures_of_split}"
        yield f"{self.model} ({self.engine}) on {self.data}, {self.split} part, {self.pictures}{part} pictures"
        yield f"longest side {self.size_px} px, score >= {self.score:g}, NMS at IoU {self.nms_iou:g}"
        measures = self.measures
        if measures.detection:
            yield from _detection(measures.detection)
        if measures.landmarks:
            yield from _landmarks(measures.landmarks)
        if measures.pose:
            yield from _pose(measures.pose)
        for name, report in (measures.attributes or {}).items():
            yield from _attribute(name, report)
        if measures.false_alarms:
            yield from _false_alarms(measures.false_alarms)
        if measures.not_measured:
            yield ""
        for name, reason in measures.not_measured.items():
            yield f"{name.replace('_', ' ')} not measured: {reason}"


def _detection(report: DetectionReport) -> Iterator[str]:
    protocol = "WIDER FACE's protocol and subsets" if "all" not in report.ap else "WIDER FACE's protocol, all faces"
    yield ""
    yield from _table(f"AP ({protocol}, IoU 0.5)", report.ap)
    yield ""
    yield from _table("AP by face height in the picture, px", report.ap_by_height_px)


def _table(title: str, rows: Mapping[str, AveragePrecision]) -> Iterator[str]:
    yield f"{title:<52}{'AP':>6}{'recall':>8}{'faces':>7}"
    for name, row in rows.items():
        yield f"  {name:<50}{row.ap:>6.3f}{row.recall:>8.3f}{row.faces:>7}"


def _landmarks(report: LandmarkReport) -> Iterator[str]:
    yield ""
    yield f"five landmarks, error in % of the distance between the eyes, {report.found} of {report.faces} faces found"
    if report.nme_percent is not None and report.over_10_share is not None:
        yield (
            f"  NME {report.nme_percent:.2f} %, median {report.median_percent:.2f} %, "
            f"over 10 %: {report.over_10_share:.1%} (of the faces found)"
        )
    yield (
        f"  not found {report.missed_share:.1%}, not found or over 10 %: {report.failure_share:.1%}, "
        f"AUC to 10 % {report.auc_10:.3f} (of all faces)"
    )


def _pose(report: PoseReport) -> Iterator[str]:
    yield ""
    yield f"head pose, mean absolute error in degrees, {report.found} of {report.faces} faces found"
    if report.mean_deg is not None:
        yield (
            f"  pitch {report.pitch_deg:.2f}, yaw {report.yaw_deg:.2f}, roll {report.roll_deg:.2f}, "
            f"mean {report.mean_deg:.2f}; not found {report.missed_share:.1%}"
        )


def _attribute(name: str, report: AttributeReport) -> Iterator[str]:
    yield ""
    title = f"{name}, yes from {report.threshold:g}, {report.found} of {report.faces} faces found"
    yield f"{title:<52}{'faces':>7}{'yes':>6}{'accuracy':>10}{'balanced':>10}{'AUC':>7}"
    yield _binary("all", report.overall)
    for band, figures in report.by_side_px.items():
        yield _binary(f"longer side {band} px", figures)
    if report.incorrect_as_worn is not None:
        yield f"  of {report.incorrect} masks worn wrongly, {report.incorrect_as_worn:.1%} of those found count as worn"


def _binary(name: str, figures: BinaryFigures) -> str:
    shares = [(figures.accuracy, 10), (figures.balanced_accuracy, 10), (figures.auc, 7)]
    cells = "".join(f"{'-' if share is None else f'{share:.3f}':>{width}}" for share, width in shares)
    return f"  {name:<50}{figures.faces:>7}{figures.positives:>6}{cells}"


def _false_alarms(report: FalseAlarmReport) -> Iterator[str]:
    yield ""
    yield (
        f"false faces at score >= {report.score:g}: {report.false_faces} in {report.pictures} pictures without faces, "
        f"{report.per_100_pictures:.1f} in 100"
    )
