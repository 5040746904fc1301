"""The bundled model on a real face: it finds what is there, and what it found when it was bundled."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeface
from edgeface.runtime.nms import iou
from tiny_data import FACE_BOX, FACE_POINTS

# What mos_s-fp16-ncnn gave when its weights were committed, at 512 px.
GOLDEN_BOX = (179.5, 54.4, 265.6, 172.9)
GOLDEN_SCORE = 1.000
GOLDEN_POSE_DEG = (-1.3, -0.1, 0.2)


@pytest.fixture(scope="module")
def faces(astronaut: NDArray[np.uint8]) -> edgeface.Faces:
    return edgeface.load("mos_s", size=512)(astronaut)


def test_the_one_face_is_found_where_it_is(faces: edgeface.Faces) -> None:
    assert len(faces) == 1
    assert faces.scores[0] > 0.8
    assert iou(faces.boxes, np.array([FACE_BOX], np.float32))[0, 0] > 0.6


def test_its_landmarks_are_on_the_face(faces: edgeface.Faces) -> None:
    assert faces.landmarks is not None
    truth = np.array(FACE_POINTS, np.float32)
    eyes_px = float(np.linalg.norm(truth[1] - truth[0]))
    error = np.linalg.norm(faces.landmarks[0] - truth, axis=1) / eyes_px
    assert error.mean() < 0.2, error


def test_it_looks_at_the_camera(faces: edgeface.Faces) -> None:
    assert faces.pose is not None
    assert np.abs(faces.pose[0]).max() < 25, faces.pose


def test_nothing_moved_since_the_weights_were_committed(faces: edgeface.Faces) -> None:
    # Instruction sets round differently: a pixel, a hundredth and a degree are more than that ever makes.
    assert faces.boxes[0].tolist() == pytest.approx(GOLDEN_BOX, abs=1.0)
    assert float(faces.scores[0]) == pytest.approx(GOLDEN_SCORE, abs=0.01)
    assert faces.pose is not None
    assert faces.pose[0].tolist() == pytest.approx(GOLDEN_POSE_DEG, abs=1.0)
