"""A stage per face: what a net says of each face found so far. One that scores faces anew decides which stay; one that
does not waits until it is known which do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgeface.bundle import Box, Bundle, FaceStage, Score
from edgeface.runtime import decode
from edgeface.runtime.gather.gathered import Gathered, Gatherer
from edgeface.runtime.logistic import sigmoid
from edgeface.runtime.nms import nms
from edgeface.runtime.stages.cuts import CutNotice
from edgeface.runtime.stages.stage import Floats, Found, Indices, Late, Scene, require


class FaceNet:
    """A ``NextStage``: stage ``number`` of ``bundle`` from 0, with how its input is gathered. Raises BundleError when a
    net lacks an output that the bundle says it has."""

    def __init__(self, bundle: Bundle, number: int, gatherer: Gatherer) -> None:
        place = number - (len(bundle.stages) - len(bundle.face_stages))
        self.stage, *after = bundle.face_stages[place:]
        self._gatherer, self._number, self._bundle_name = gatherer, number, bundle.name
        self._cut = CutNotice(bundle.name, "faces")
        self._score, self._box = self.stage.one_of(Score), self.stage.one_of(Box)
        self._is_last = all(stage.one_of(Score) is None for stage in after)
        self._told = [output for output in self.stage.outputs if decode.is_told(output)]
        for net in gatherer.nets:
            require(bundle.name, net, self.stage.output_names)

    def needed(self, least: float) -> float:
        if self._score is None:
            return least
        return max(self._score.threshold, _entry_score(self._score, least if self._is_last else 0.0))

    def __call__(self, scene: Scene, found: Found) -> Found:
        if self._score is not None and self._box is not None:
            return self._refined(scene, found, self._score, self._box)
        found = self._limited(found)
        later = _Later(self, scene, found)
        everyone = np.arange(len(found.scores))
        return found.telling({name: later.of(name, everyone) for name in map(decode.name_of, self._told)})

    def _limited(self, found: Found) -> Found:
        """The best faces, as many as are looked at; says once when others are given up."""
        limit = self.stage.limit
        if limit is None or len(found.scores) <= limit:
            return found
        self._cut.tell(len(found.scores), limit)
        return found.select(np.arange(limit))

    def raw(self, scene: Scene) -> dict[str, Floats]:
        """Every output of the net, float32 (C, n, 1), by name with the stage's number."""
        samples = self._gatherer.samples(scene)
        if samples is None:
            return {}
        return {f"{self._number}.{name}": samples.runs[0].output(name) for name in self.stage.output_names}

    def told(self, scene: Scene, found: Found) -> dict[str, Floats]:
        """What is told of faces, by the names of ``Faces.arrays``."""
        return self._decoded(self._gatherer(scene, found))

    def _decoded(self, gathered: Gathered) -> dict[str, Floats]:
        return {decode.name_of(output): decode.decoded(output, gathered) for output in self._told}

    def _refined(self, scene: Scene, found: Found, score: Score, box: Box) -> Found:
        """The faces with this stage's scores and boxes: those that stay, suppressed, best first."""
        least = scene.score if self._is_last else 0.0
        candidates = np.flatnonzero(found.scores >= np.float32(_entry_score(score, least)))
        self._cut.tell(len(candidates), self.stage.limit)
        found = found.select(candidates[: self.stage.limit])
        seen = self._gatherer(scene, found)
        logits = seen.values(score.output, 1)[:, 0]
        if np.isnan(logits).any():
            raise FloatingPointError("a score is not a number")
        scores = sigmoid(logits)
        if score.combine == "mean":
            share = np.float32(score.share_before)
            scores = share * found.scores + (np.float32(1) - share) * scores
        kept = np.flatnonzero(scores >= np.float32(max(least, score.threshold)))
        seen = seen.select(kept)
        boxes = seen.refined(seen.values(box.output, 4))
        if not np.isfinite(boxes).all():
            raise FloatingPointError("a box is not finite")
        best = nms(boxes, scores[kept], scene.nms_iou if self._is_last else score.nms_iou)
        # What a stage before the last one says of a face is said anew by the last.
        told = self._decoded(seen) if self._is_last else {}
        stays = replace(found.select(kept[best]), boxes=boxes[best], scores=scores[kept][best])
        return stays.telling({name: values[best] for name, values in told.items()})


def score_lines(stage: FaceStage) -> Iterator[tuple[str, str]]:
    """Of a stage that scores faces anew what ``StageKind.describe`` says of that; nothing of another one."""
    score = stage.one_of(Score)
    if score is not None:
        is_mean, share = score.combine == "mean", score.share_before
        how = f"{1 - share:g} of it and {share:g} of the one before" if is_mean else "instead of the one before"
        yield "", f"score {score.threshold:g}, {how}{'' if stage.limit is None else f', at most {stage.limit}'}"


def _entry_score(score: Score, least: float) -> float:
    """The score that a face needs to be looked at, where ``least`` is wanted of it after: below it, a mean with a new
    score of 1 cannot reach that."""
    if score.combine != "mean":
        return 0.0
    return max(score.threshold, (least - (1 - score.share_before)) / score.share_before)


class _Later:
    """What a stage tells of faces, once it is asked, in one go for all of its outputs."""

    def __init__(self, stage: FaceNet, scene: Scene, found: Found) -> None:
        self._stage, self._scene, self._found = stage, scene, found
        self._known: tuple[Indices, dict[str, Floats]] | None = None

    def of(self, name: str, rows: Indices) -> Late:
        return Late(lambda chosen: self._told(chosen)[name], rows)

    def _told(self, rows: Indices) -> dict[str, Floats]:
        if self._known is None or not np.array_equal(self._known[0], rows):
            self._known = rows, self._stage.told(self._scene, self._found.select(rows))
        return self._known[1]
