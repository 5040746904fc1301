"""Dev figures of T-CNN while it trains: attributes, quality and landmarks of annotated faces, and what it makes of a
dense detector's detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.data.annotations import Picture
from edgeface.evaluation.attributes import BANDS_PX, binary_figures, figures_by_side, roc_auc
from edgeface.evaluation.landmarks import nme
from edgeface.evaluation.measure import FALSE_ALARM_SCORE
from edgeface.evaluation.wider import SUBSETS, evaluate_detection
from edgeface.faces import Faces
from edgeface.models.patch_export import TCNN_MARGIN
from edgeface.models.patch_nets import PatchOutput
from edgeface.runtime.crops import crops, offset_boxes, square_crops
from edgeface.runtime.nms import nms
from edgeface.training.patches.faces import SIZE_PX, Labelled, framed
from edgeface.training.patches.labels import LABELS, MASK, QUALITY, SUNGLASSES
from edgeface.training.patches.training import predict

Floats = NDArray[np.float32]

_BANDS = dict(zip(BANDS_PX, ("16_to_32", "over_32"), strict=True))
_NMS_IOU = 0.4
_CHOSEN_BY = ("mask_over_32", "mask_16_to_32", "sunglasses_balanced", "ap_easy", "ap_medium", "ap_hard")
_LANDMARKS_SHARE = 0.5      # of the mean landmark error, in the choice of the best weights


@dataclass(frozen=True)
class Annotated:
    """N annotated dev faces: ``patches`` uint8 (N, S, S, 3), ``labels`` (N, len(LABELS)), ``landmarks`` (N, 10) in
    their patch, ``sides_px`` (N,), and ``incorrect`` (N,) bool, a mask worn wrongly."""

    patches: NDArray[np.uint8]
    labels: Floats
    landmarks: Floats
    sides_px: Floats
    incorrect: NDArray[np.bool_]


@dataclass(frozen=True)
class Refinable:
    """One complete picture's detections as T-CNN refines them: ``squares`` (n, 3) and ``found`` (n, 5) of its boxes and
    scores, and the ``patches``."""

    picture: Picture
    squares: NDArray[np.int64]
    found: Floats
    patches: NDArray[np.uint8]


def annotated(sets: Sequence[Labelled], found: Mapping[str, Sequence[Floats]]) -> Annotated:
    """Every dev face with a label or landmarks of its own, framed by its annotation, else by the detector."""
    patches, labels, landmarks, sides, incorrect = [], [], [], [], []
    for labelled in sets:
        for i, picture in enumerate(labelled.source.pictures):
            frames = framed(labelled.boxes[i], found[labelled.source.name][i])
            for row, face in enumerate(picture.faces):
                points = labelled.landmarks[i][row]
                wrongly = face.mask == "incorrect"
                known = not np.isnan(labelled.labels[i][row]).all() or wrongly
                marked = not face.teacher and not np.isnan(points).any()
                if face.ignore or not len(frames[row]) or not (known or marked):
                    continue
                square = square_crops(frames[row][:1], TCNN_MARGIN)
                x, y, side = square[0].tolist()
                patches.append(crops(labelled.source.pixels[i], square, SIZE_PX)[0])
                labels.append(labelled.labels[i][row])
                landmarks.append(((points - [x, y]) / side - 0.5).ravel() if marked else np.full(10, np.nan))
                sides.append((frames[row][0, 2:] - frames[row][0, :2]).max())
                incorrect.append(wrongly)
    n = len(patches)
    return Annotated(
        np.array(patches, np.uint8).reshape(n, SIZE_PX, SIZE_PX, 3),
        np.array(labels, np.float32).reshape(n, len(LABELS)), np.array(landmarks, np.float32).reshape(n, 10),
        np.array(sides, np.float32), np.array(incorrect, bool),
    )


def refinable(labelled: Labelled, found: Sequence[Floats]) -> list[Refinable]:
    """A complete dev set's detections, cut."""
    out = []
    for i, picture in enumerate(labelled.source.pictures):
        squares = square_crops(np.ascontiguousarray(found[i][:, :4]), TCNN_MARGIN)
        out.append(Refinable(picture, squares, found[i], crops(labelled.source.pixels[i], squares, SIZE_PX)))
    return out


class FaceProbe:
    """Dev figures of a net on ``faces`` and on detections; ``attributes`` names its attribute outputs in order."""

    def __init__(
        self, faces: Annotated, scenes: Sequence[Refinable], backgrounds: Sequence[Refinable], attributes: Sequence[str]
    ) -> None:
        self.faces, self._scenes, self._backgrounds = faces, scenes, backgrounds
        self._attributes = tuple(attributes)

    def figures(self, net: nn.Module, thresholds: Mapping[str, float] | None = None) -> dict[str, float]:
        """Shares in 0..1 and the landmark error in percent, those that the dev sets allow.

        Attributes are judged at ``thresholds``, by default 0.5; ``choose`` is what the best weights are chosen by.
        """
        at = dict.fromkeys(LABELS, 0.5) | dict(thresholds or {})
        faces, out = self.faces, predict(net, self.faces.patches)
        figures: dict[str, float] = {}
        probabilities = self.probabilities(out)
        if "mask" in probabilities:
            known = ~np.isnan(faces.labels[:, MASK])
            by_side = figures_by_side(
                probabilities["mask"][known], faces.labels[known, MASK] == 1, faces.sides_px[known], at["mask"]
            )
            for band, name in _BANDS.items():
                figures |= _where_known(f"mask_{name}", by_side[band].accuracy)
            wrongly = probabilities["mask"][faces.incorrect] >= at["mask"]
            figures |= _where_known("mask_incorrect_as_worn", float(wrongly.mean()) if len(wrongly) else None)
        if "sunglasses" in probabilities:
            known = ~np.isnan(faces.labels[:, SUNGLASSES])
            judged = binary_figures(
                probabilities["sunglasses"][known], faces.labels[known, SUNGLASSES] == 1, at["sunglasses"]
            )
            figures |= _where_known("sunglasses_balanced", judged.balanced_accuracy)
        if "quality" in probabilities:
            auc = self.quality_auc(probabilities)
            figures |= {} if auc is None else {"quality_auc": auc}
        marked = ~np.isnan(faces.landmarks).any(1)
        if marked.any():
            said, true = (v[marked].reshape(-1, 5, 2) for v in (out.landmarks.numpy(), faces.landmarks))
            figures["nme_percent"] = 100 * float(nme(said, true).mean())
        figures |= self._refined(net)
        chosen = [figures[name] for name in _CHOSEN_BY if name in figures]
        error = figures.get("nme_percent", 0.0) / 100
        figures["choose"] = (sum(chosen) / len(chosen) if chosen else 0.0) - _LANDMARKS_SHARE * error
        return figures

    def quality_figures(self, net: nn.Module) -> dict[str, float]:
        """``quality_auc``, by which the best weights of the second step are chosen."""
        auc = self.quality_auc(self.probabilities(predict(net, self.faces.patches)))
        return {"choose": 0.0} if auc is None else {"quality_auc": auc, "choose": auc}

    def quality_auc(self, probabilities: Mapping[str, Floats]) -> float | None:
        """None where dev has not both kinds of faces."""
        truth = self.faces.labels[:, QUALITY]
        known = ~np.isnan(truth)
        return roc_auc(probabilities["quality"][known], truth[known] == 1) if "quality" in probabilities else None

    def probabilities(self, out: PatchOutput) -> dict[str, Floats]:
        """By name, (N,) each, of what the net has."""
        found: dict[str, Floats] = {}
        if out.attributes is not None:
            for column, name in enumerate(self._attributes):
                found[name] = torch.sigmoid(out.attributes[:, column]).numpy()
        if out.quality is not None:
            found["quality"] = torch.sigmoid(out.quality).numpy()
        return found

    def thresholds(self, net: nn.Module) -> dict[str, float]:
        """The probability above which each thing is said to be there: where the balanced accuracy on dev is best."""
        probabilities = self.probabilities(predict(net, self.faces.patches))
        chosen = {}
        for name, values in probabilities.items():
            truth = self.faces.labels[:, LABELS.index(name)]
            if (truth == 1).any() and (truth == 0).any():
                chosen[name] = best_threshold(values, truth)
        return chosen

    def _refined(self, net: nn.Module) -> dict[str, float]:
        figures = {}
        if self._scenes:
            found = [refine(net, each) for each in self._scenes]
            report = evaluate_detection([each.picture for each in self._scenes], found)
            figures = {f"ap_{name}": report.ap[name].ap for name in (*SUBSETS, "all") if name in report.ap}
        if self._backgrounds:
            faces = sum(int((refine(net, b).scores >= FALSE_ALARM_SCORE).sum()) for b in self._backgrounds)
            alone = sum(int((b.found[:, 4] >= FALSE_ALARM_SCORE).sum()) for b in self._backgrounds)
            figures |= {"false_faces": float(faces), "false_faces_alone": float(alone)}
        return figures


def refine(net: nn.Module, seen: Refinable) -> Faces:
    """A picture's detections as the pipeline refines them: averaged scores, refined boxes, NMS."""
    if not len(seen.found):
        return Faces.empty()
    out = predict(net, seen.patches)
    boxes = offset_boxes(seen.squares, out.box.numpy())
    scores = np.ascontiguousarray((seen.found[:, 4] + torch.sigmoid(out.score).numpy()) / 2, np.float32)
    kept = nms(boxes, scores, _NMS_IOU)
    return Faces(boxes[kept], scores[kept])


def best_threshold(scores: Floats, truth: Floats) -> float:
    """The threshold of ``scores`` (N,) with the best balanced accuracy on ``truth`` (N,) of 0 and 1, NaN left out.

    Among equally good ones the middle of the widest range, and 0.5 where that is in it.
    """
    high, low = scores[truth == 1], scores[truth == 0]
    edges = np.unique(np.concatenate(([0.0], high, low, [1.0])))
    middles = (edges[1:] + edges[:-1]) / 2
    hits = 1 - np.searchsorted(np.sort(high), middles) / len(high) + np.searchsorted(np.sort(low), middles) / len(low)
    best = np.nonzero(hits >= hits.max() - 1e-9)[0]
    widest = best[np.argmax(edges[best + 1] - edges[best])]
    if edges[widest] < 0.5 <= edges[widest + 1]:
        return 0.5
    return float(middles[widest])


def _where_known(name: str, value: float | None) -> dict[str, float]:
    return {} if value is None else {name: value}
