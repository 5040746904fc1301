"""Yes or no about a face, such as a mask or its quality: accuracy, balanced accuracy and area under the ROC curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture
from edgeface.data.quality import is_high_quality
from edgeface.evaluation.locate import face_box, has_place, locate, locate_labelled
from edgeface.faces import Faces

# Faces by the longer side of their box, in pixels of the picture: over the lower bound, up to the upper one.
BANDS_PX: dict[str, tuple[float, float]] = {"16-32": (16.0, 32.0), "over 32": (32.0, np.inf)}

LABELLED = ("mask", "sunglasses", "quality")

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class BinaryFigures:
    """How well probabilities tell yes from no on ``faces`` faces, of which ``positives`` are a yes; shares in 0..1.

    ``accuracy`` is over all faces, None where there are none. ``balanced_accuracy``, the mean of the shares of right
    answers among the yes and among the no, and ``auc``, the area under the ROC curve, need both and are None otherwise.
    """

    faces: int
    positives: int
    accuracy: float | None
    balanced_accuracy: float | None
    auc: float | None


@dataclass(frozen=True)
class AttributeReport:
    """One attribute on a set: of ``faces`` labelled faces ``found`` were detected, on which the figures are.

    ``threshold`` is the probability from which it is a yes, which was chosen elsewhere. ``by_side_px``: by the longer
    side of the face's box, in pixels of the picture; faces whose place was not annotated are in none. ``incorrect``
    masks, worn so that they cover too little, are neither and not in the figures; ``incorrect_as_worn`` is the share
    of those found that count as worn.
    """

    faces: int
    found: int
    threshold: float
    overall: BinaryFigures
    by_side_px: Mapping[str, BinaryFigures] = field(default_factory=dict)
    incorrect: int = 0
    incorrect_as_worn: float | None = None


@dataclass(frozen=True)
class MaskRecall:
    """Of ``faces`` faces annotated with one state of the mask, the ``share`` (0..1) found at ``score`` and more.

    ``by_side_px``: band of the longer side of the face's box in pixels of the picture -> (faces, share).
    """

    score: float
    faces: int
    share: float
    by_side_px: Mapping[str, tuple[int, float]]


def roc_auc(probabilities: Floats, labels: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve in 0..1: the share of pairs of a yes and a no (``labels`` (N,) bool) that
    ``probabilities`` (N,) put in order, ties counting half. None where there is no such pair."""
    yes, no = np.sort(probabilities[labels]), np.sort(probabilities[~labels])
    if not len(yes) or not len(no):
        return None
    below = np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")
    return float(below.mean() / 2 / len(no))


def binary_figures(probabilities: Floats, labels: NDArray[np.bool_], threshold: float) -> BinaryFigures:
    """The figures of ``probabilities`` (N,) in 0..1 for ``labels`` (N,) bool; at least ``threshold`` is a yes.

    The threshold counts in the probabilities' type. Raises ValueError when the shapes differ or a probability is not a
    number.
    """
    if probabilities.shape != labels.shape or labels.ndim != 1 or labels.dtype != np.bool_:
        raise ValueError(f"probabilities {probabilities.shape} and labels {labels.shape} are not (N,) and (N,) bool")
    if np.isnan(probabilities).any():
        raise ValueError("a probability is not a number")
    right = (probabilities >= probabilities.dtype.type(threshold)) == labels
    positives = int(labels.sum())
    both = 0 < positives < len(labels)
    return BinaryFigures(
        faces=len(labels),
        positives=positives,
        accuracy=float(right.mean()) if len(labels) else None,
        balanced_accuracy=float((right[labels].mean() + right[~labels].mean()) / 2) if both else None,
        auc=roc_auc(probabilities, labels),
    )


def figures_by_side(
    probabilities: Floats, labels: NDArray[np.bool_], sides_px: Floats, threshold: float
) -> dict[str, BinaryFigures]:
    """``binary_figures`` of the faces in each band of BANDS_PX; ``sides_px`` (N,) are the longer sides of the faces'
    boxes, NaN where unknown. Raises ValueError as ``binary_figures``, and when there is not one side a face."""
    if sides_px.shape != labels.shape:
        raise ValueError(f"{sides_px.shape} sides for {labels.shape} faces")
    bands = {name: (sides_px > low) & (sides_px <= high) for name, (low, high) in BANDS_PX.items()}
    return {name: binary_figures(probabilities[in_it], labels[in_it], threshold) for name, in_it in bands.items()}


def label_of(face: Face, picture: Picture, attribute: str) -> bool | None:
    """What the source annotated of a face: "mask" worn or none, "sunglasses", high "quality" or low; None where that is
    not known or neither.

    A face without eyeglasses wears no sunglasses either, as eyeglasses in the sources are dark ones too; clear ones are
    known by their own label. A mask that is worn wrongly is neither. A teacher's face has no label but its quality,
    which no teacher gives.
    """
    if attribute == "quality":
        return is_high_quality(face, picture, derived=False)
    if face.ignore or face.teacher:
        return None
    if attribute == "mask":
        return {"worn": True, "none": False}.get(face.mask or "")
    if attribute == "sunglasses":
        return False if face.sunglasses is None and face.eyeglasses is False else face.sunglasses
    return None


def labelled(pictures: Sequence[Picture]) -> list[str]:
    """The attributes that any face of the pictures has a label of, both answers counted."""
    faces = [(face, picture) for picture in pictures for face in picture.faces]
    return [name for name in LABELLED if any(label_of(*each, name) is not None for each in faces)]


def evaluate_attributes(pictures: Sequence[Picture], detections: Sequence[Faces]) -> dict[str, AttributeReport]:
    """Each attribute that is labelled and that the detections, one ``Faces`` a picture, have, at their threshold.

    The detection that is judged is the one that ``locate`` finds, and where a picture's only face has no place, that at
    its centre. An attribute without a threshold is a yes from 0.5.
    """
    given = {name for found in detections for name in found.attributes}
    return {name: _evaluated(name, pictures, detections) for name in labelled(pictures) if name in given}


def _evaluated(name: str, pictures: Sequence[Picture], detections: Sequence[Faces]) -> AttributeReport:
    threshold = next((found.thresholds[name] for found in detections if name in found.thresholds), 0.5)
    probabilities, labels, sides_px, wrongly = [], [], [], []
    faces = incorrect = 0
    for picture, found in zip(pictures, detections, strict=True):
        for face in picture.faces:
            label = label_of(face, picture, name)
            is_incorrect = name == "mask" and face.mask == "incorrect" and not (face.ignore or face.teacher)
            if label is None and not is_incorrect:
                continue
            incorrect += is_incorrect
            faces += label is not None
            index = locate_labelled(picture, face, found)
            if index is None:
                continue
            probability = float(found.attributes[name][index])
            if label is None:
                wrongly.append(probability >= threshold)
                continue
            probabilities.append(probability)
            labels.append(label)
            sides_px.append(_side_px(face))
    said, truth = np.array(probabilities, np.float32), np.array(labels, np.bool_)
    return AttributeReport(
        faces=faces,
        found=len(truth),
        threshold=threshold,
        overall=binary_figures(said, truth, threshold),
        by_side_px=figures_by_side(said, truth, np.array(sides_px, np.float64), threshold),
        incorrect=incorrect,
        incorrect_as_worn=float(np.mean(wrongly)) if wrongly else None,
    )


def evaluate_mask_recall(
    pictures: Sequence[Picture], detections: Sequence[Faces], score: float
) -> dict[str, MaskRecall]:
    """How many of the faces with a "worn" mask, with "none" and with an "incorrect" one are found at ``score``.

    A face is found where a detection of at least that score is the one that ``locate`` finds for it, which for a model
    that cannot tell masks counts as for one that can. Faces without a place are left out.
    """
    rows: dict[str, list[tuple[float, bool]]] = {}
    for picture, found in zip(pictures, detections, strict=True):
        enough = found.boxes[found.scores >= np.float32(score)]
        passed = Faces(enough, np.ones(len(enough), np.float32))
        for face in picture.faces:
            if face.mask is not None and has_place(face) and not face.ignore and not face.teacher:
                rows.setdefault(face.mask, []).append((_side_px(face), locate(passed, face) is not None))
    return {state: _mask_recall(np.array(rows[state]), score) for state in sorted(rows, reverse=True)}


def _mask_recall(rows: NDArray[np.float64], score: float) -> MaskRecall:
    sides_px, found = rows.T
    bands = {}
    for name, (low, high) in BANDS_PX.items():
        inside = (sides_px > low) & (sides_px <= high)
        if inside.any():
            bands[name] = (int(inside.sum()), float(found[inside].mean()))
    return MaskRecall(score, len(rows), float(found.mean()), bands)


def _side_px(face: Face) -> float:
    if not has_place(face):
        return float("nan")
    box = face_box(face)
    return float(max(box[2] - box[0], box[3] - box[1]))
