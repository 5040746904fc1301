"""The samples of T-CNN: what a dense detector finds, true and false, and single faces with landmarks and attributes,
cut with jitter, turned and spoilt (mhcnn.txt, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Picture
from edgeface.data.detection import SourceSet
from edgeface.data.pixels import ProgressBar, open_pixels
from edgeface.data.sets import describe, open_data
from edgeface.data.targets import face_box, face_box_of_points, targets_of
from edgeface.models.patch_export import TCNN_MARGIN
from edgeface.models.patch_nets import O_NET
from edgeface.runtime.crops import crops, square_crops
from edgeface.runtime.nms import iou
from edgeface.training.patches.degrade import DEGRADATIONS, seen_at
from edgeface.training.patches.labels import LABELS, MASK, QUALITY, SUNGLASSES, labels_of
from edgeface.training.patches.samples import LANDMARK, NEGATIVE, POSITIVE, SampleList
from edgeface.training.patches.windows import (
    Judged,
    Known,
    add_judged,
    findable,
    judge_boxes,
    near_squares,
    turned_landmarks,
    turned_patches,
)

Floats = NDArray[np.float32]

SIZE_PX = O_NET.size_px
NEGATIVE_IOU, POSITIVE_IOU = 0.35, 0.4      # mhcnn.txt, section 3.3
_SAME_FACE_IOU = 0.4


class Drawing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is detected, how many windows are drawn, and how they are jittered."""

    scenes: dict[str, list[int]]        # sets of complete pictures, and the longest sides that they are looked at with
    faces: list[str]                    # sets whose labelled faces are cut one by one
    detector: str = "mos_s-fp16-ncnn"
    face_sizes_px: tuple[int, ...] = (160,)
    scene_score: float = 0.1
    face_score: float = 0.3
    min_face_px: float = 4.0            # of the shorter side: smaller faces are neither faces nor background
    min_landmarks_px: float = 12.0
    positives: int = 16                 # detections a picture at most
    negatives: int = 48                 # half of them the best ones
    landmark_tries: int = 4             # windows a face with landmarks
    masked_tries: int = 8               # a face with a mask, and
    bare_tries: int = 28                # one in the same pictures without, so that both are as many
    sunglasses_tries: int = 24
    eyeglasses_tries: int = 6
    quality_tries: int = 8              # a face of high quality
    shift: float = 0.08                 # of a window's side, on each axis
    scale: float = 0.15
    turn_deg: float = 12.0              # standard deviation, cut at twice that
    small: float = 0.6                  # share of attribute faces brought down to a window of small_px
    small_px: tuple[int, int] = (13, 44)
    spoilt: float = 0.35                # share that one more degradation spoils
    seed: int = 1


@dataclass(frozen=True)
class Labelled:
    """A set with labels: ``labels`` a picture (n, len(LABELS)), ``boxes`` a picture (n, 4), NaN where nothing places
    the face, ``landmarks`` (n, 5, 2), NaN where unknown; rows are the annotation's faces."""

    source: SourceSet
    labels: list[Floats]
    boxes: list[Floats]
    landmarks: list[Floats]


def read_labelled(data: Path, name: str, split: str, cache: Path, progress: ProgressBar) -> Labelled:
    """The ``split`` of one set below ``data``, with all its pictures. Raises DataError."""
    folder = open_data(data)
    pictures = folder.pictures(name, split)
    targets = [targets_of(picture, regress_boxes=describe(folder.directory(name)).regress) for picture in pictures]
    source = SourceSet(
        name, pictures, open_pixels(pictures, cache, progress), targets, all(p.complete for p in pictures)
    )
    return Labelled(
        source, [labels_of(p, name, train=split == "train") for p in pictures], [_boxes(p) for p in pictures],
        [_landmarks(p) for p in pictures],
    )


def _boxes(picture: Picture) -> Floats:
    """Where each face is (n, 4), NaN where nothing places it."""
    boxes = np.full((len(picture.faces), 4), np.nan, np.float32)
    for box, face in zip(boxes, picture.faces, strict=True):
        found = face_box_of_points(face, picture.complete)
        if found is not None:
            box[:] = found
    return boxes


def _landmarks(picture: Picture) -> Floats:
    known = np.full((len(picture.faces), 5, 2), np.nan, np.float32)
    for row, face in zip(known, picture.faces, strict=True):
        if face.landmarks is not None:
            row[:] = face.landmarks
    return known


def add_detections(
    out: SampleList, labelled: Labelled, found: Sequence[Floats], drawing: Drawing, rng: np.random.Generator,
    progress: ProgressBar,
) -> None:
    """Add what the detector found in complete pictures: faces above an IoU of 0.4 as positives, with their boxes,
    landmarks and labels, others below 0.35 as negatives."""
    source = labelled.source
    for i in progress(range(len(source.pictures)), f"detections, {source.name}", len(source.pictures)):
        known, labels = _known(labelled, i, drawing)
        boxes = np.ascontiguousarray(found[i][:, :4])
        judged = judge_boxes(boxes, known, negative=NEGATIVE_IOU, positive=POSITIVE_IOU)
        positives = rng.permutation(np.nonzero(judged.kind == POSITIVE)[0])[: drawing.positives]
        ranked = np.nonzero(judged.kind == NEGATIVE)[0][np.argsort(-found[i][judged.kind == NEGATIVE, 4])]
        best, rest = np.split(ranked, [drawing.negatives // 2])
        chosen = np.concatenate((positives, best, rng.permutation(rest)[: drawing.negatives - len(best)]))
        if len(chosen):
            picked = Judged(judged.kind[chosen], judged.face[chosen], judged.overlap[chosen])
            squares = square_crops(boxes[chosen], TCNN_MARGIN)
            add_judged(out, source.pixels[i], squares, picked, known, SIZE_PX, labels)


def _known(labelled: Labelled, i: int, drawing: Drawing) -> tuple[Known, Floats]:
    """A picture's faces as ``add_judged`` takes them, and their labels but the quality, which has its own samples."""
    targets = labelled.source.targets[i]
    keep = findable(targets, drawing.min_face_px)
    landmarks = targets.landmarks.copy()
    sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]).max(1, initial=0)
    landmarks[sides < drawing.min_landmarks_px] = np.nan
    # Targets are of those faces alone that something places.
    placed = [face_box(face) is not None for face in labelled.source.pictures[i].faces]
    labels = labelled.labels[i][placed]
    labels[:, QUALITY] = np.nan
    known = Known(targets.boxes[keep], landmarks[keep], targets.regress[keep], targets.boxes[~keep])
    return known, labels[keep]


def framed(boxes: Floats, found: Floats) -> list[Floats]:
    """For each face (n, 4) the boxes (k, 4) that frame it: its own, where it is known, and what the detector found
    there. A face that nothing places is the detection nearest to the middle of all, in pictures of one face."""
    frames = []
    for box in boxes:
        if np.isnan(box).any():
            frames.append(found[found[:, 4].argsort()[::-1][:1], :4])
            continue
        same = iou(box[None], np.ascontiguousarray(found[:, :4]))[0] > _SAME_FACE_IOU
        frames.append(np.concatenate((box[None], found[same, :4])))
    return frames


def add_faces(
    out: SampleList, labelled: Labelled, found: Sequence[Floats], drawing: Drawing, rng: np.random.Generator,
    progress: ProgressBar,
) -> None:
    """Add windows about faces with labels or landmarks, moved, turned and spoilt, as samples of the kind LANDMARK."""
    source = labelled.source
    for i in progress(range(len(source.pictures)), f"faces, {source.name}", len(source.pictures)):
        for row, frames in enumerate(framed(labelled.boxes[i], found[i])):
            labels = labelled.labels[i][row].copy()
            labels[QUALITY] = np.nan
            landmarks = labelled.landmarks[i][row]
            tries = _tries(labels, landmarks, source.name, source.pictures[i], row, drawing)
            if not tries or not len(frames):
                continue
            patches, points = _cut(source.pixels[i], frames, landmarks, tries, drawing, rng)
            for patch in patches:
                patch[:] = _spoilt(patch, drawing, rng)
            out.add(patches, LANDMARK, landmarks=points, labels=np.repeat(labels[None], tries, 0))


def _tries(
    labels: Floats, landmarks: Floats, set_name: str, picture: Picture, row: int, drawing: Drawing
) -> int:
    if picture.faces[row].ignore:
        return 0
    tries = 0 if np.isnan(landmarks).any() else drawing.landmark_tries
    if labels[SUNGLASSES] == 1:
        return max(tries, drawing.sunglasses_tries)
    if picture.faces[row].eyeglasses and labels[SUNGLASSES] == 0:
        tries = max(tries, drawing.eyeglasses_tries)
    if picture.faces[row].mask is not None and not math.isnan(labels[MASK]):
        return max(tries, drawing.masked_tries if labels[MASK] == 1 else drawing.bare_tries)
    return tries or int(not np.isnan(labels[:QUALITY]).all())


def _cut(
    picture: NDArray[np.uint8], frames: Floats, landmarks: Floats, tries: int, drawing: Drawing,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], Floats]:
    """Patches (tries, S, S, 3) and landmarks (tries, 10) in them."""
    chosen = frames[rng.integers(len(frames), size=tries)]
    squares = near_squares(rng, widened(chosen, TCNN_MARGIN), 1, drawing.shift, drawing.scale)
    limit = 2 * drawing.turn_deg
    angles = rng.normal(0, drawing.turn_deg, tries).clip(-limit, limit).astype(np.float32)
    angles[squares[:, 2] < SIZE_PX / 2] = 0         # turning so few pixels would only blur them
    points = np.repeat(landmarks[None], tries, 0)
    return turned_patches(picture, squares, angles, SIZE_PX), turned_landmarks(squares, angles, points)


def widened(boxes: Floats, margin: float) -> Floats:
    """Boxes (n, 4) with ``margin`` times the sides about the same centres."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, margin * (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.concatenate((middle - half, middle + half), 1).astype(np.float32)


def _spoilt(patch: NDArray[np.uint8], drawing: Drawing, rng: np.random.Generator) -> NDArray[np.uint8]:
    if rng.random() < drawing.small:
        low, high = drawing.small_px
        patch = seen_at(patch, round(math.exp(rng.uniform(math.log(low), math.log(high)))))
    if rng.random() < drawing.spoilt:
        name = list(DEGRADATIONS)[rng.integers(len(DEGRADATIONS))]
        patch = DEGRADATIONS[name](rng, patch, float(rng.uniform(0, 0.4)))
    return patch


def add_quality(
    out: SampleList, labelled: Labelled, found: Sequence[Floats], drawing: Drawing, rng: np.random.Generator,
    progress: ProgressBar,
) -> None:
    """Add faces of high quality as POSITIVE and of low quality as NEGATIVE, so that a batch's shares balance them.

    Each window of a high one is added spoilt as well, as a low one: what is unrecognisable is of low quality.
    """
    source = labelled.source
    for i in progress(range(len(source.pictures)), f"quality, {source.name}", len(source.pictures)):
        for row, frames in enumerate(framed(labelled.boxes[i], found[i])):
            value = labelled.labels[i][row, QUALITY]
            if math.isnan(value) or not len(frames):
                continue
            tries = drawing.quality_tries if value == 1 else 1
            chosen = frames[rng.integers(len(frames), size=tries)]
            squares = near_squares(rng, widened(chosen, TCNN_MARGIN), 1, drawing.shift, drawing.scale)
            patches = crops(source.pixels[i], squares, SIZE_PX)
            out.add(patches, POSITIVE if value else NEGATIVE, labels=_quality_labels(value, tries))
            if value == 1:
                spoilt = patches[: (tries + 1) // 2].copy()
                for patch in spoilt:
                    patch[:] = unrecognisable(patch, rng)
                out.add(spoilt, NEGATIVE, labels=_quality_labels(0.0, len(spoilt)))


def _quality_labels(value: float, count: int) -> Floats:
    labels = np.full((count, len(LABELS)), np.nan, np.float32)
    labels[:, QUALITY] = value
    return labels


def unrecognisable(patch: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A patch that one of the blurring degradations, strong, has spoilt."""
    names: Mapping[int, str] = dict(enumerate(("down_up_sampling", "gaussian_blur", "motion_blur")))
    return DEGRADATIONS[names[int(rng.integers(len(names)))]](rng, patch, float(rng.uniform(0.6, 1.0)))
