"""What a detector is opened with, as all commands that find faces take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from edgeface.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from edgeface.runtime.detector import Detector

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class DetectorOptions:
    """Arguments of ``edgeface.load`` under their names there, with what each may be; None leaves a choice to the model.
    """

    model: str = DEFAULT_MODEL
    size: Count | None = None
    score: Share | None = None
    nms: Share | None = None
    threads: Count | None = None
    engine: str | None = None
    precision: Literal["fp32", "fp16", "int8"] | None = None
    refine: str | None = None
    min_face: Annotated[float, Meta(ge=1)] | None = None
    thresholds: tuple[Share, ...] | None = None
    candidates: Count | None = None

    def open(self, *, classes: bool = True, device: str = "cpu") -> Detector:
        """The detector; ``classes`` and ``device`` are arguments of ``edgeface.load`` too. Raises what it raises."""
        from edgeface.runtime.loading import load

        return load(
            self.model, engine=self.engine, precision=self.precision, threads=self.threads, size=self.size,
            score=self.score, nms=self.nms, refine=self.refine, min_face=self.min_face, thresholds=self.thresholds,
            candidates=self.candidates, classes=classes, device=device,
        )
