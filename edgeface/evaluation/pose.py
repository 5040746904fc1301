"""Head pose: mean absolute error of pitch, yaw and roll, and whether each follows the annotation at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face
from edgeface.evaluation.fit import Fit, fit
from edgeface.evaluation.locate import locate
from edgeface.faces import Faces

ANGLES = ("pitch", "yaw", "roll")


@dataclass(frozen=True)
class PoseReport:
    """Mean absolute errors in degrees over the ``found`` ones of ``faces`` faces; None where none was found.

    ``mean_deg`` is the mean of the three. ``by_angle``: pitch, yaw and roll -> the ``Fit`` in degrees, which says
    beside the error what a constant would have and whether the angle follows the head. A face that was not found has
    no angle to be wrong by: read the errors beside ``missed_share`` (0..1).
    """

    faces: int
    found: int
    missed_share: float
    pitch_deg: float | None
    yaw_deg: float | None
    roll_deg: float | None
    mean_deg: float | None
    by_angle: Mapping[str, Fit] = field(default_factory=dict)


def angle_differences(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Predicted less true angles in degrees, the short way round: any equal shapes, results in -180..180."""
    turned = predicted.astype(np.float64) - truth
    return np.asarray((turned + 180) % 360 - 180)


def angle_errors(predicted: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Absolute differences of angles in degrees, the short way round: any equal shapes, results in 0..180."""
    return np.asarray(np.abs(angle_differences(predicted, truth)))


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
    true = np.array(truth, np.float64)
    # Near the true angle, so that 179 for -179 counts as 2 degrees in the regression as well.
    said = true + angle_differences(np.array(predicted), true)
    by_angle = {name: fit(said[:, i], true[:, i]) for i, name in enumerate(ANGLES)}
    pitch, yaw, roll = (by_angle[name].error for name in ANGLES)
    return PoseReport(
        len(faces), len(predicted), missed_share, pitch, yaw, roll, (pitch + yaw + roll) / 3, by_angle,
    )
