"""Average precision by WIDER FACE's own protocol, and the same by face height.

What the official ``eval_tools`` do is done here: scores are normalised to 0..1 over the whole set; each detection is
matched with the one annotated face that it overlaps most, and only if the IoU reaches 0.5; where that face is not
counted (another subset, ``ignore``), the detection is neither a hit nor a false one; the first detection by score on
a counted face is a hit and every further one is false; precision and recall are taken at the 1,000 thresholds
1 - t / 1000; AP is VOC's area under the precision envelope.

Three details are settled here. IoU is that of the runtime, on continuous coordinates: the official code adds one
pixel to every width and height, which on pictures of another size than the original ones has no meaning and makes
small faces easier. Detections in pictures without any face are false, as in the official set, where such pictures
carry one empty box. Precision where a threshold lets no detection through is 0, and not 0 / 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture
from edgeface.faces import Faces
from edgeface.runtime.nms import iou

IOU_MATCH = 0.5
THRESHOLDS = 1000
SUBSETS = ("easy", "medium", "hard")
HEIGHT_BINS_PX: tuple[tuple[float, float], ...] = (
    (0, 8), (8, 16), (16, 32), (32, 64), (64, 128), (128, float("inf")),
)  # fmt: skip


@dataclass(frozen=True)
class AveragePrecision:
    """AP in 0..1 over ``faces`` counted faces, and the share of them that was found at any score."""

    ap: float
    recall: float
    faces: int


@dataclass(frozen=True)
class DetectionReport:
    """AP by name: ``easy``, ``medium``, ``hard`` where the set has WIDER's subsets, else ``all``; and by face height.

    A subset or bin that counts no face is not in the mapping. Heights are those of the annotated boxes in pixels of
    the set's pictures, before the detector resizes them.
    """

    ap: dict[str, AveragePrecision]
    ap_by_height_px: dict[str, AveragePrecision]


@dataclass(frozen=True)
class Matches:
    """D detections of a whole set against its M annotated faces, pictures one after the other.

    ``scores`` (D,) float64 in 0..1, normalised over the set; ``heights_px`` (D,) float32; ``face`` (D,) int64, the
    index in 0..M-1 of the face that the detection is matched with, or -1. ``faces`` is M.
    """

    scores: NDArray[np.float64]
    heights_px: NDArray[np.float32]
    face: NDArray[np.int64]
    faces: int


def match_faces(boxes: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each of ``boxes`` (N, 4) the index of the box of ``truth`` (M, 4) with the highest IoU, or -1 below 0.5.

    Boxes are float32 x1 y1 x2 y2; of equal overlaps the first counts.
    """
    if not len(boxes) or not len(truth):
        return np.full(len(boxes), -1, np.int64)
    overlap = iou(boxes, truth)
    best = overlap.argmax(axis=1)
    return np.where(overlap[np.arange(len(boxes)), best] >= IOU_MATCH, best, -1).astype(np.int64)


def match_set(detections: Sequence[Faces], truths: Sequence[NDArray[np.float32]]) -> Matches:
    """Match every picture's detections with its annotated boxes (M_i, 4), and normalise the scores over the set.

    Where all scores are equal, each becomes 1: there is no order among them to keep.
    """
    face, scores, heights_px = [], [], []
    offset = 0
    for found, truth in zip(detections, truths, strict=True):
        matched = match_faces(found.boxes, truth)
        face.append(np.where(matched >= 0, matched + offset, -1))
        scores.append(found.scores.astype(np.float64))
        heights_px.append(found.boxes[:, 3] - found.boxes[:, 1])
        offset += len(truth)
    joined = np.concatenate([np.empty(0), *scores])
    if len(joined):
        low, high = joined.min(), joined.max()
        joined = (joined - low) / (high - low) if high > low else np.ones_like(joined)
    return Matches(
        joined,
        np.concatenate([np.empty(0, np.float32), *heights_px]),
        np.concatenate([np.empty(0, np.int64), *face]),
        offset,
    )


def average_precision(
    matches: Matches, counted: NDArray[np.bool_], bystander: NDArray[np.bool_] | None = None
) -> AveragePrecision:
    """AP of a set where only the ``counted`` (M,) faces are asked for.

    ``bystander`` (D,) bool says which detections are left out of the sum when they match no face at all; by default
    none is. Raises ValueError when no face is counted.
    """
    total = int(counted.sum())
    if not total:
        raise ValueError("average_precision needs at least one counted face")
    order = np.argsort(-matches.scores, kind="stable")
    face = matches.face[order]
    scores = matches.scores[order]
    hit, left_out = hits_and_left_out(face, counted)
    if bystander is not None:
        left_out |= (face < 0) & bystander[order]

    thresholds = 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    passed = np.searchsorted(-scores, -thresholds, side="right")
    hits = np.concatenate([[0], np.cumsum(hit)])[passed]
    proposals = np.concatenate([[0], np.cumsum(~left_out)])[passed]
    precision = hits / np.maximum(proposals, 1)
    return AveragePrecision(voc_area(hits / total, precision), float(hits[-1] / total), total)


def hits_and_left_out(
    face: NDArray[np.int64], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of D detections, best score first, are hits, and which are neither hits nor false: each (D,) bool.

    ``face`` (D,) int64 is the face that each is matched with, or -1; ``counted`` (M,) bool says which faces are asked
    for. A detection on a face that is not counted is left out; a further one on a counted face is false.
    """
    on_face = face >= 0
    asked = np.zeros(len(face), np.bool_)
    asked[on_face] = counted[face[on_face]]
    # np.unique gives the first place of each face, and the order is by score: the hit; the others are duplicates.
    places = np.flatnonzero(asked)
    hit = np.zeros(len(face), np.bool_)
    hit[places[np.unique(face[places], return_index=True)[1]]] = True
    return hit, on_face & ~asked


def voc_area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under the precision envelope (VOC 2010 and later): ``recall`` (T,) rising, ``precision`` (T,), both 0..1."""
    steps = np.concatenate([[0.0], recall])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(steps) * envelope))


def evaluate_detection(pictures: Sequence[Picture], detections: Sequence[Faces]) -> DetectionReport:
    """AP of ``detections``, one ``Faces`` a picture, on complete pictures.

    Where any face has a ``subset``, faces without one are in no subset. A face with ``ignore`` is never counted. The
    height bins take the faces of the hard subset (which holds all three), or all faces; other faces and false
    detections whose own height is outside the bin are left out, since they are no fault at that size.
    """
    truths = [annotated_boxes(picture) for picture in pictures]
    matches = match_set(detections, truths)
    counted = counted_faces(pictures)
    everyone = list(counted.values())[-1]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *truths])
    heights_px = boxes[:, 3] - boxes[:, 1]
    by_height = {}
    for low, high in HEIGHT_BINS_PX:
        inside = everyone & (heights_px >= low) & (heights_px < high)
        elsewhere = (matches.heights_px < low) | (matches.heights_px >= high)
        if inside.any():
            by_height[bin_name(low, high)] = average_precision(matches, inside, elsewhere)
    return DetectionReport(
        {name: average_precision(matches, mask) for name, mask in counted.items() if mask.any()}, by_height
    )


def counted_faces(pictures: Sequence[Picture]) -> dict[str, NDArray[np.bool_]]:
    """Which annotated boxes of all ``pictures``, one after the other, each subset asks for: name -> (M,) bool.

    The names are WIDER's subsets where any face has one, each in the next and the last the widest; else "all".
    """
    faces: list[Face] = [face for picture in pictures for face in picture.faces if face.box is not None]
    rank = np.array([SUBSETS.index(face.subset) if face.subset else len(SUBSETS) for face in faces], np.int64)
    wanted = np.array([not face.ignore for face in faces], np.bool_)
    if (rank < len(SUBSETS)).any():
        return {name: wanted & (rank <= place) for place, name in enumerate(SUBSETS)}
    return {"all": wanted}


def annotated_boxes(picture: Picture) -> NDArray[np.float32]:
    """The annotated boxes of a picture, (M, 4) float32, those of ignored faces as well."""
    return np.array([face.box for face in picture.faces if face.box is not None], np.float32).reshape(-1, 4)


def bin_name(low_px: float, high_px: float) -> str:
    """A bin of heights in words, such as ``16-32``."""
    if not low_px:
        return f"<{high_px:.0f}"
    return f">={low_px:.0f}" if high_px == float("inf") else f"{low_px:.0f}-{high_px:.0f}"
