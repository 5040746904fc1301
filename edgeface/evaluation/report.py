"""What an evaluation says: one dataclass, as a JSON record for machines and as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from edgeface.evaluation.attributes import AttributeReport, MaskRecall
from edgeface.evaluation.classes import ClassReport
from edgeface.evaluation.close_ups import CloseUpReport
from edgeface.evaluation.landmarks import LandmarkReport
from edgeface.evaluation.operating import OperatingReport
from edgeface.evaluation.pose import PoseReport
from edgeface.evaluation.wider import DetectionReport

_WITHOUT_REASON = {"not_measured", "operating", "pose_from_landmarks", "close_ups", "landmarks68"}


@dataclass(frozen=True)
class FalseAlarmReport:
    """Detections in pictures that have no faces: ``false_faces`` of at least ``score`` in ``pictures`` pictures, and
    how many in 100 pictures there are from the model's own ``default_score`` on."""

    pictures: int
    score: float
    false_faces: int
    per_100_pictures: float
    default_score: float
    per_100_at_default: float


@dataclass(frozen=True)
class Measures:
    """What could be measured; None where it could not, and ``not_measured`` says why, by the field's name.

    ``operating`` belongs to ``detection``, and ``pose_from_landmarks``, the head pose that the five points give
    (``edgeface.pose_from_points``), to ``pose``: they have no reason of their own. ``close_ups`` and ``landmarks68``
    stand alone.
    """

    detection: DetectionReport | None = None
    landmarks: LandmarkReport | None = None
    pose: PoseReport | None = None
    attributes: Mapping[str, AttributeReport] | None = None
    false_alarms: FalseAlarmReport | None = None
    mask_recall: Mapping[str, MaskRecall] | None = None
    operating: OperatingReport | None = None
    pose_from_landmarks: PoseReport | None = None
    close_ups: CloseUpReport | None = None
    landmarks68: LandmarkReport | None = None
    classes: Mapping[str, ClassReport] | None = None
    not_measured: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def names(cls) -> set[str]:
        """The names of the measures that can be missing for a reason, the keys that ``not_measured`` can have."""
        return {entry.name for entry in fields(cls)} - _WITHOUT_REASON


@dataclass(frozen=True)
class Report:
    """Measures of one model on one part of a data set, with all that made them.

    ``data`` is the set's folder name; ``pictures`` of ``pictures_of_split`` were evaluated; ``size_px`` is the longest
    side that a picture is brought to; ``score`` and ``nms_iou`` are the detector's thresholds, ``default_score`` the
    score from which the model counts a face where nobody says. ``scales``: the sizes at which every picture was shown,
    in units of ``size_px``; with ``flip`` each mirrored too; ``merge`` says how the faces of all were made one, None
    where there was one view.
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
    default_score: float
    measures: Measures
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    merge: str | None = None

    def to_record(self) -> dict[str, Any]:
        """The report as plain types that any JSON writer takes; field names are those of the dataclasses."""
        record: dict[str, Any] = msgspec.to_builtins(self)
        return record
