"""What a detector is opened with, as all commands that find faces take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeface.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from edgeface.runtime.detector import Detector


@dataclass(frozen=True)
class DetectorOptions:
    """Arguments of ``edgeface.load`` under their names there; None leaves a choice to the model."""

    model: str = DEFAULT_MODEL
    size: int | None = None
    score: float | None = None
    nms: float | None = None
    threads: int | None = None
    engine: str | None = None
    precision: str | None = None
    refine: str | None = None
    min_face: float | None = None
    thresholds: tuple[float, ...] | None = None
    candidates: int | None = None

    def open(self, *, classes: bool = True, device: str = "cpu") -> Detector:
        """The detector; ``classes`` and ``device`` are arguments of ``edgeface.load`` too. Raises what it raises."""
        from edgeface.runtime.loading import load

        return load(
            self.model, engine=self.engine, precision=self.precision, threads=self.threads, size=self.size,
            score=self.score, nms=self.nms, refine=self.refine, min_face=self.min_face, thresholds=self.thresholds,
            candidates=self.candidates, classes=classes, device=device,
        )
