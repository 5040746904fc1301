"""Head pose: mean absolute error of pitch, yaw and roll."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face
from edgeface.evaluation.locate import locate
from edgeface.faces import Faces


@dataclass(frozen=True)
class PoseReport:
    """Mean absolute errors in degrees over the ``found`` ones of ``faces`` faces; None where none was found.

    ``mean_deg`` is the mean of the three. A face that was not found has no angle to be wrong by: read the errors
    beside ``missed_share`` (0..1).
    """

    faces: int
    found: int
    missed_share: float
    pitch_deg: float | None
    yaw_deg: float | None
    roll_deg: float | None
    mean_deg: float | None


def angle_errors(predicted: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Absolute differences of angles in degrees, the short way round: any equal shapes, results in 0..180."""
    turned = predicted.astype(np.float64) - truth
    return np.asarray(np.abs((turned + 180) % 360 - 180))


def evaluate_pose(faces: Sequence[tuple[Face, Faces]]) -> PoseReport:
    """MAE over annotated faces (not teacher's), each with its picture's detections; ``locate`` chooses the detection.

    Raises ValueError when there are no faces, when one has no pose, or when a found one's detector gives none.
    """
    if not faces:
        raise ValueError("evaluate_pose needs at least one face")
    predicted, truth = [], []
    for face, found in faces:
        index = locate(found, face)
        if index is None:
            continue
        if found.pose is None or face.pose is None:
            raise ValueError("evaluate_pose needs a pose on both sides")
        predicted.append(found.pose[index])
        truth.append(face.pose)
    missed_share = 1 - len(predicted) / len(faces)
    if not predicted:
        return PoseReport(len(faces), 0, missed_share, None, None, None, None)
    pitch, yaw, roll = angle_errors(np.array(predicted), np.array(truth)).mean(axis=0).tolist()
    return PoseReport(len(faces), len(predicted), missed_share, pitch, yaw, roll, (pitch + yaw + roll) / 3)
