"""Head pose from points: what a turned mean face gives back, and real annotated faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeface
from edgeface.data.annotations import read_annotations
from edgeface.drawing import head_axes
from edgeface.evaluation.pose import angle_errors
from edgeface.mean_face import MEAN_FACE_68
from edgeface.runtime.head_pose import five_of_68, rotation, rotation_degrees

POSES = np.float64([[0, 0, 0], [20, 0, 0], [-25, 10, 5], [5, 60, -30], [-10, -75, 80], [0, 0, 170]])
LANDMARKS68 = Path(__file__).parents[2] / "shared" / "data" / "landmarks68"


def seen(pose: np.ndarray) -> np.ndarray:
    """The mean face (N, 68, 2) at poses (N, 3), 90 pixels between the eyes, somewhere in a picture."""
    return 90 * np.einsum("nij,pj->npi", rotation(pose)[:, :2], np.array(MEAN_FACE_68)) + np.float64([300, 200])


@pytest.mark.parametrize("points", [seen(POSES), five_of_68(seen(POSES))], ids=["68", "5"])
def test_a_turned_mean_face_gives_its_turn_back(points: np.ndarray) -> None:
    found = edgeface.pose_from_points(points.astype(np.float32))
    assert found.dtype == np.float32
    assert np.abs(found - POSES).max() < 0.05


def test_rotations_are_those_that_are_drawn_and_come_back() -> None:
    turned = rotation(POSES)
    for pose, one in zip(POSES, turned, strict=True):
        assert head_axes(pose) == pytest.approx(one[:2].T)
    assert np.linalg.det(turned) == pytest.approx(np.ones(len(POSES)))
    assert rotation_degrees(turned) == pytest.approx(POSES)


def test_signs_are_aflw2000_s() -> None:
    points = five_of_68(seen(np.zeros((1, 3))))
    up, left, clockwise = points.copy(), points.copy(), points[:, :, ::-1].copy()
    up[:, 2, 1] -= 8
    left[:, 2, 0] -= 8
    clockwise[..., 0] *= -1
    assert edgeface.pose_from_points(up)[0, 0] > 5
    assert edgeface.pose_from_points(left)[0, 1] > 5
    assert edgeface.pose_from_points(clockwise)[0, 2] == pytest.approx(90, abs=0.05)


def test_points_without_a_face_in_them_have_no_pose() -> None:
    points = five_of_68(seen(np.zeros((3, 3))))
    points[0, 1, 0] = np.nan
    points[1] = 7
    found = edgeface.pose_from_points(points)
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2]).all()
    assert edgeface.pose_from_points(np.empty((0, 5, 2))).shape == (0, 3)
    assert np.isfinite(edgeface.pose_from_points(np.float32([[[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]]]))).all()
    with pytest.raises(ValueError, match="neither"):
        edgeface.pose_from_points(np.zeros((5, 2)))


def test_annotated_points_give_the_annotated_pose() -> None:
    if not LANDMARKS68.is_dir():
        pytest.skip("needs the set landmarks68")
    faces = [face for picture in read_annotations(LANDMARKS68, "dev") for face in picture.faces]
    pose = np.array([face.pose for face in faces])
    errors68 = angle_errors(edgeface.pose_from_points(np.array([face.landmarks68 for face in faces])), pose).mean(0)
    errors5 = angle_errors(edgeface.pose_from_points(np.array([face.landmarks for face in faces])), pose).mean(0)
    assert (errors68 < [2.5, 2.5, 1]).all(), errors68
    assert (errors5 < [3.7, 2.6, 1.3]).all(), errors5
