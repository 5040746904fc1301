"""Run a detector over annotated pictures and measure whatever their annotations allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture
from edgeface.errors import DataError
from edgeface.evaluation.attributes import evaluate_attributes, evaluate_mask_recall, labelled
from edgeface.evaluation.classes import evaluate_classes, labelled_classes
from edgeface.evaluation.landmarks import evaluate_landmarks
from edgeface.evaluation.locate import has_place
from edgeface.evaluation.operating import evaluate_operating
from edgeface.evaluation.pose import evaluate_pose
from edgeface.evaluation.report import FalseAlarmReport, Measures
from edgeface.evaluation.wider import evaluate_detection
from edgeface.faces import Faces
from edgeface.runtime.head_pose import pose_from_points

FALSE_ALARM_SCORE = 0.5

Image = NDArray[np.uint8]
T = TypeVar("T")


def spread(pictures: Sequence[T], limit: int | None) -> list[T]:
    """``limit`` pictures (1 or more) at even distances, or all where there are no more; the order stays."""
    if limit is None or limit >= len(pictures):
        return list(pictures)
    return [pictures[i * len(pictures) // limit] for i in range(limit)]


def detect_all(
    detector: Callable[[Image], Faces], pictures: Iterable[Picture], read: Callable[[Path], Image]
) -> list[Faces]:
    """The detector's faces for every picture; ``read`` gives a file as uint8 (H, W, 3) BGR. Raises as
    ``detect_batches`` does."""
    return detect_batches(lambda images: [detector(image) for image in images], pictures, read, 1)


def detect_batches(
    detect: Callable[[list[Image]], list[Faces]],
    pictures: Iterable[Picture],
    read: Callable[[Path], Image],
    count: int,
) -> list[Faces]:
    """The faces for every picture by ``detect``, which is given ``count`` of them at once, as ``Detector.batch`` takes
    them.

    Raises DataError when a picture is not of its annotated size, because its coordinates would then mean nothing,
    and whatever ``read`` and the detector raise: a measurement that leaves pictures out is none.
    """
    detections: list[Faces] = []
    iterator = iter(pictures)
    while batch := list(islice(iterator, count)):
        images = []
        for picture in batch:
            image = read(picture.path)
            check_size(picture, image)
            images.append(image)
        detections += detect(images)
    return detections


def check_size(picture: Picture, image: Image) -> None:
    """Raise DataError when a picture (H, W, 3) is not of its annotated size."""
    height, width = image.shape[:2]
    if (width, height) != (picture.width, picture.height):
        raise DataError(
            f"{picture.path}: is {width}x{height}, its annotation says {picture.width}x{picture.height}: "
            "mend the annotation or the picture"
        )


def reasons_against(pictures: Sequence[Picture]) -> dict[str, str]:
    """What these pictures' annotations do not allow to measure, by the name of the field of ``Measures``, and why.

    Raises DataError where a face's two eyes are one point, because its landmark error would have no unit.
    """
    for picture in pictures:
        for face in picture.faces:
            points = face.landmarks
            if points is not None and _own_landmarks(face) and (points[0] == points[1]).all():
                raise DataError(f"{picture.path}: the eyes of an annotated face are one point: mend its landmarks")
    faces = [face for picture in pictures for face in picture.faces]
    complete = [face for picture in pictures if picture.complete for face in picture.faces if face.box is not None]
    reasons = {}
    if not any(not face.ignore for face in complete):
        reasons["detection"] = "no complete picture with annotated boxes"
    elif any(face.teacher for face in complete) and not any(face.subset for face in complete):
        # Faces of WIDER FACE, known by their subset, keep the source's own box beside a teacher's landmarks.
        reasons["detection"] = "the boxes were put there by detectors"
    if not any(_own_landmarks(face) for face in faces):
        reasons["landmarks"] = "no landmarks of the source's own"
    if not any(_own_pose(face) for face in faces):
        reasons["pose"] = "no head pose of the source's own"
    if not labelled(pictures):
        reasons["attributes"] = "no mask, sunglasses or quality of the source's own"
    if not labelled_classes(pictures):
        reasons["classes"] = "no age, gender or ethnicity of the source's own"
    if not any(_masked(face) for face in faces):
        reasons["mask_recall"] = "no face is annotated with a mask"
    if faces or not all(picture.complete for picture in pictures):
        reasons["false_alarms"] = "not a set of pictures without faces"
    return reasons


def measure(
    pictures: Sequence[Picture],
    detections: Sequence[Faces],
    default_score: float = FALSE_ALARM_SCORE,
    precision: float | None = None,
) -> Measures:
    """Every measure that the annotations and the model allow; ``detections`` are one ``Faces`` a picture.

    ``default_score``: from which the model counts a face by itself; recall and precision are given there.
    ``precision`` (0..1) asks for the least score that reaches it.
    """
    reasons = reasons_against(pictures)
    pairs = list(zip(pictures, detections, strict=True))
    for name in ("landmarks", "pose"):
        if name not in reasons and not any(getattr(found, name) is not None for found in detections):
            reasons[name] = "the model gives none"
    attributes = {} if "attributes" in reasons else evaluate_attributes(pictures, detections)
    if "attributes" not in reasons and not attributes:
        reasons["attributes"] = f"the model gives no {' or '.join(labelled(pictures))}"
    classes = {} if "classes" in reasons else evaluate_classes(pictures, detections)
    if "classes" not in reasons and not classes:
        reasons["classes"] = f"the model gives no {' or '.join(labelled_classes(pictures))}"
    complete = [(picture, found) for picture, found in pairs if picture.complete]
    boxed = "detection" not in reasons
    many = [(face, found) for p, found in pairs for face in p.faces if _own_landmarks68(face)]
    own_pose = [(face, found) for p, found in pairs for face in p.faces if _own_pose(face)]
    pointed = own_pose and any(found.landmarks is not None for found in detections)
    return Measures(
        detection=evaluate_detection(*_unzipped(complete)) if boxed else None,
        operating=evaluate_operating(*_unzipped(complete), default_score, precision) if boxed else None,
        landmarks=None
        if "landmarks" in reasons
        else evaluate_landmarks([(face, found) for p, found in pairs for face in p.faces if _own_landmarks(face)]),
        pose=None if "pose" in reasons else evaluate_pose(own_pose),
        pose_from_landmarks=evaluate_pose([(face, _posed_by_points(found)) for face, found in own_pose])
        if pointed
        else None,
        landmarks68=evaluate_landmarks(many, 68)
        if many and any(found.landmarks68 is not None for found in detections)
        else None,
        attributes=attributes or None,
        classes=classes or None,
        mask_recall=None if "mask_recall" in reasons else evaluate_mask_recall(pictures, detections, default_score),
        false_alarms=None if "false_alarms" in reasons else _false_alarms(detections, default_score),
        not_measured=reasons,
    )


def _unzipped(pairs: Sequence[tuple[Picture, Faces]]) -> tuple[list[Picture], list[Faces]]:
    return [picture for picture, _ in pairs], [found for _, found in pairs]


def _posed_by_points(found: Faces) -> Faces:
    """The faces with the head pose that their five points give; points that are all one look straight ahead."""
    points = np.zeros((len(found), 5, 2), np.float32) if found.landmarks is None else found.landmarks
    return replace(found, pose=np.nan_to_num(pose_from_points(points)))


def _masked(face: Face) -> bool:
    return face.mask is not None and has_place(face) and not face.ignore and not face.teacher


def _own_landmarks(face: Face) -> bool:
    return face.landmarks is not None and not face.teacher and not face.ignore


def _own_landmarks68(face: Face) -> bool:
    return face.landmarks68 is not None and has_place(face) and not face.teacher and not face.ignore


def _own_pose(face: Face) -> bool:
    return face.pose is not None and has_place(face) and not face.teacher and not face.ignore


def _false_alarms(detections: Sequence[Faces], default_score: float) -> FalseAlarmReport:
    scores = np.concatenate([np.empty(0, np.float32), *(found.scores for found in detections)])
    pictures = max(len(detections), 1)
    false_faces, at_default = (int((scores >= np.float32(s)).sum()) for s in (FALSE_ALARM_SCORE, default_score))
    return FalseAlarmReport(
        pictures=len(detections),
        score=FALSE_ALARM_SCORE,
        false_faces=false_faces,
        per_100_pictures=100 * false_faces / pictures,
        default_score=default_score,
        per_100_at_default=100 * at_default / pictures,
    )
