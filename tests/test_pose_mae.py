"""Head pose error against hand values."""

from __future__ import annotations

import numpy as np
import pytest

from edgeface.data.annotations import Face
from edgeface.evaluation.pose import angle_errors, evaluate_pose
from edgeface.faces import Faces

BOX = np.float32([20, 10, 80, 100])
NOWHERE = np.float32([500, 500, 560, 590])


def face(pitch: float, yaw: float, roll: float) -> Face:
    return Face(box=BOX, pose=np.float32([pitch, yaw, roll]))


def found(pitch: float, yaw: float, roll: float, box: np.ndarray = BOX) -> Faces:
    return Faces(box[None], np.float32([0.9]), pose=np.float32([[pitch, yaw, roll]]))


def test_angles_differ_the_short_way_round() -> None:
    predicted, truth = np.float32([10, -10, 179, -90, 0]), np.float32([-10, 10, -179, 90, 360])
    assert angle_errors(predicted, truth).tolist() == [20, 20, 2, 180, 0]


def test_means_are_of_absolute_errors_over_found_faces() -> None:
    # Pitch 4 and -2, yaw -10 and 0, roll 0 and 6: 3, 5, 3; errors of either sign do not cancel.
    report = evaluate_pose(
        [
            (face(0, 0, 0), found(4, -10, 0)),
            (face(10, 20, 30), found(8, 20, 36)),
            (face(0, 0, 0), found(90, 90, 90, NOWHERE)),
        ]
    )
    assert (report.faces, report.found, report.missed_share) == (3, 2, pytest.approx(1 / 3))
    assert [report.pitch_deg, report.yaw_deg, report.roll_deg] == pytest.approx([3, 5, 3], abs=1e-5)
    assert report.mean_deg == pytest.approx(11 / 3, abs=1e-5)


def test_a_head_that_always_says_the_same_is_told_from_one_that_follows() -> None:
    truth = [-20.0, 0.0, 10.0, 30.0]
    stuck = [(face(p, p, 175 + p), found(-2 + 0.1 * p, p + 3, -175 + p)) for p in truth]
    by_angle = evaluate_pose(stuck).by_angle
    # The median is 5: 25, 5, 5 and 25 away.
    assert by_angle["pitch"].constant_error == pytest.approx(15)
    assert by_angle["pitch"].slope == pytest.approx(0.1)
    assert by_angle["pitch"].correlation == pytest.approx(1)
    assert (by_angle["yaw"].slope, by_angle["yaw"].error) == (pytest.approx(1), pytest.approx(3))
    # 10 degrees past 180 each time: the short way round, and no jump in the regression.
    assert (by_angle["roll"].slope, by_angle["roll"].error) == (pytest.approx(1), pytest.approx(10))


def test_the_pose_is_that_of_the_annotated_face() -> None:
    both = Faces(np.stack([NOWHERE, BOX]), np.float32([0.9, 0.1]), pose=np.float32([[50, 50, 50], [1, 2, 3]]))
    report = evaluate_pose([(face(0, 0, 0), both)])
    assert (report.pitch_deg, report.yaw_deg, report.roll_deg) == (1, 2, 3)


def test_no_face_found_has_no_mean() -> None:
    report = evaluate_pose([(face(0, 0, 0), Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32)))])
    assert (report.faces, report.found, report.missed_share) == (1, 0, 1)
    assert report.pitch_deg is report.yaw_deg is report.roll_deg is report.mean_deg is None


def test_needs_faces_and_poses() -> None:
    with pytest.raises(ValueError, match="at least one face"):
        evaluate_pose([])
    with pytest.raises(ValueError, match="pose on both sides"):
        evaluate_pose([(face(0, 0, 0), Faces(BOX[None], np.float32([0.9])))])
