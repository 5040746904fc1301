"""One model under evaluation: how it is asked, and the report of what it answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeface.data.annotations import Picture
from edgeface.evaluation.measure import detect_all, detect_batches
from edgeface.evaluation.multi_scale import Merge, MultiScale
from edgeface.evaluation.parts import Part
from edgeface.evaluation.report import Report
from edgeface.faces import Faces
from edgeface.runtime.detector import Detector


@dataclass(frozen=True)
class Evaluation:
    """``detectors`` are the model opened once for each of ``scales``, with an input of that times ``size_px``.

    With ``flip`` every picture is shown mirrored too; the faces of several views are merged by ``merge``. ``batch``
    pictures are computed at once, where there is one view. ``score`` and ``nms_iou`` are the detectors' thresholds.
    """

    detectors: Sequence[Detector]
    size_px: int
    score: float
    nms_iou: float
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    merge: Merge = "vote"
    batch: int = 1

    @property
    def is_merged(self) -> bool:
        """Whether a picture is shown more than once."""
        return len(self.detectors) > 1 or self.flip

    @property
    def default_score(self) -> float:
        """The score from which the model counts a face by itself."""
        return self.detectors[0].bundle.defaults.score

    def detect(self, part: Part, pictures: Iterable[Picture]) -> list[Faces]:
        """The faces of ``pictures``, those of ``part`` in their order. Raises as ``detect_batches``."""
        if self.is_merged:
            several = MultiScale(self.detectors, flip=self.flip, nms_iou=self.nms_iou, merge=self.merge)
            return detect_all(several, pictures, part.read)
        if self.batch == 1:
            return detect_all(self.detectors[0], pictures, part.read)
        return detect_batches(self.detectors[0].batch, pictures, part.read, self.batch)

    def report(self, part: Part, detections: Sequence[Faces], precision: float | None) -> Report:
        """The report of ``detections``, one ``Faces`` a picture of ``part``; ``precision`` as ``measure`` takes it."""
        bundle = self.detectors[0].bundle
        return Report(
            model=bundle.name,
            engine=bundle.engine,
            data=part.name,
            split=part.split,
            pictures=len(part.pictures),
            pictures_of_split=part.available,
            size_px=self.size_px,
            score=self.score,
            nms_iou=self.nms_iou,
            default_score=self.default_score,
            measures=part.measure(detections, self.default_score, precision),
            scales=self.scales,
            flip=self.flip,
            merge=self.merge if self.is_merged else None,
        )
