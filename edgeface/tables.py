"""Faces as the tables and detections of other libraries, which are imported when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeface.errors import MissingExtraError
from edgeface.faces import Faces

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
_BOX = ("x1", "y1", "x2", "y2")
_ANGLES = ("pitch_deg", "yaw_deg", "roll_deg")


def columns(faces: Faces) -> dict[str, list[Any]]:
    """A column a value, by name: the box, the score, and of what the model predicts each landmark's x and y, those of
    the 68 points of 300-W (``point1_x`` to ``point68_y``), the pose, each attribute's probability and ``has_`` it, each
    distribution's likeliest class, expectation and spread."""
    found: dict[str, list[Any]] = {name: faces.boxes[:, i].tolist() for i, name in enumerate(_BOX)}
    found["score"] = faces.scores.tolist()
    if faces.landmarks is not None:
        for i, point in enumerate(POINTS):
            found |= {f"{point}_{axis}": faces.landmarks[:, i, j].tolist() for j, axis in enumerate("xy")}
    if faces.landmarks68 is not None:
        for i in range(faces.landmarks68.shape[1]):
            found |= {f"point{i + 1}_{axis}": faces.landmarks68[:, i, j].tolist() for j, axis in enumerate("xy")}
    if faces.pose is not None:
        found |= {name: faces.pose[:, i].tolist() for i, name in enumerate(_ANGLES)}
    for name, values in faces.attributes.items():
        found |= {name: values.tolist(), f"has_{name}": faces.has(name).tolist()}
    for name, each in faces.classes.items():
        found[name] = each.likeliest()
        for what, numbers in (("expected", each.expectation()), ("spread", each.spread())):
            if numbers is not None:
                found[f"{name}_{what}"] = numbers.tolist()
    return found


def to_pandas(faces: Faces) -> Any:
    """A pandas.DataFrame with a row a face and ``columns``. Raises MissingExtraError without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError(f"a DataFrame needs pandas ({error}): pip install pandas") from None
    return pandas.DataFrame(columns(faces))


def to_supervision(faces: Faces) -> Any:
    """supervision.Detections: boxes, scores, class 0 named "face", and in ``data`` the landmarks (N, 5, 2), the pose
    and attributes that there are. Raises MissingExtraError without supervision."""
    try:
        import supervision
    except ImportError as error:
        raise MissingExtraError(f"Detections need supervision ({error}): pip install supervision") from None
    data: dict[str, Any] = {"class_name": np.array(["face"] * len(faces), np.str_)}
    data |= {
        name: array for name, array in faces.arrays().items() if name not in ("boxes", "scores")
    }
    return supervision.Detections(
        xyxy=faces.boxes.astype(np.float32), confidence=faces.scores.astype(np.float32),
        class_id=np.zeros(len(faces), int), data=data,
    )
