"""The bundled models on a real face: they find what is there, and what they found when they were bundled."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeface
from edgeface.runtime.catalog import shipped, shipped_checkpoints
from edgeface.runtime.nms import iou
from tiny_data import FACE_BOX, FACE_POINTS

# What each detector gave when its weights were committed, at 512 px: box, score, pose in degrees.
GOLDEN: dict[str, tuple[tuple[float, ...], float, tuple[float, ...] | None]] = {
    "maskface-int8-ncnn": ((176.1, 53.2, 270.9, 179.6), 0.767, None),
    "mhcnn-int8-ncnn": ((180.9, 57.4, 268.2, 175.3), 0.782, (-19.0, -0.4, 2.7)),
    "mhcnn-int8-tflite": ((180.8, 57.2, 268.4, 175.4), 0.784, (-18.3, -0.2, 2.7)),
    "mhcnn_m-int8-ncnn": ((181.4, 53.0, 270.1, 177.2), 0.790, (-26.4, 1.2, 4.0)),
    "mhcnn_m-int8-tflite": ((181.4, 53.4, 270.0, 177.4), 0.788, (-26.7, 0.7, 4.2)),
    "mhcnn_tiny-int8-ncnn": ((183.1, 55.2, 267.5, 174.7), 0.821, (-21.0, 0.2, 2.9)),
    "mhcnn_tiny-int8-tflite": ((183.0, 55.0, 267.6, 174.6), 0.820, (-20.8, 0.3, 2.9)),
    "mos_m-int8-ncnn": ((178.3, 53.2, 270.4, 175.0), 0.702, (-1.7, 0.0, 2.0)),
    "mos_m-int8-tflite": ((178.3, 53.3, 270.3, 175.0), 0.698, (-1.4, -0.1, 2.1)),
    "mos_s-fp16-ncnn": ((177.4, 53.5, 270.1, 177.6), 0.700, (-1.3, -1.4, 2.6)),
    "mos_s-int8-ncnn": ((177.1, 53.4, 270.5, 178.2), 0.690, (-1.4, -1.9, 3.0)),
    "mos_s-int8-tflite": ((177.2, 53.2, 270.6, 178.1), 0.692, (-1.7, -2.1, 3.2)),
    "mos_tiny-fp16-ncnn": ((180.5, 53.9, 269.9, 173.6), 0.733, (-2.5, 0.6, 4.5)),
    "mos_tiny-int8-ncnn": ((178.8, 54.3, 270.9, 173.0), 0.744, (-3.0, -0.3, 4.0)),
    "mos_tiny-int8-tflite": ((179.2, 54.6, 271.0, 172.8), 0.743, (-2.4, -0.9, 4.4)),
    "mtcnn-fp16-ncnn": ((180.0, 56.2, 271.8, 178.3), 1.0, (-22.9, 0.2, 0.9)),
    "mtcnn-int8-ncnn": ((179.8, 58.4, 270.1, 176.9), 1.0, (-21.4, -0.7, 2.1)),
    "tfn-int8-ncnn": ((176.6, 47.6, 271.4, 176.7), 0.904, None),
}
REFINEMENTS = {"tcnn-fp16-ncnn", "tcnn-int8-ncnn", "tcnn-int8-tflite"}


@pytest.fixture(scope="module", params=GOLDEN)
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def faces(astronaut: NDArray[np.uint8], model: str) -> edgeface.Faces:
    return edgeface.load(model, size=512)(astronaut)


def test_all_of_them_come_along_and_int8_is_the_default() -> None:
    assert {entry.name for entry in shipped()} == set(GOLDEN) | REFINEMENTS
    assert [entry.name for entry in shipped() if entry.default] == [
        "maskface-int8-ncnn", "mhcnn-int8-ncnn", "mhcnn_m-int8-ncnn", "mhcnn_tiny-int8-ncnn", "mos_m-int8-ncnn",
        "mos_s-int8-ncnn", "mos_tiny-int8-ncnn", "mtcnn-int8-ncnn", "tcnn-int8-ncnn", "tfn-int8-ncnn",
    ]
    assert all(entry.read().verified for entry in shipped())
    assert set(shipped_checkpoints()) == {
        "maskface", "maskface_int8", "mos_m", "mos_m_int8", "mos_s", "mos_s_qat", "mos_tiny", "mos_tiny_int8",
        "mtcnn", "mtcnn_int8", "tcnn", "tcnn_int8", "tfn", "tfn_int8",
    }


def test_the_one_face_is_found_where_it_is(faces: edgeface.Faces) -> None:
    assert len(faces) == 1
    assert faces.scores[0] > 0.65      # of MOS-S, how good the box is
    assert iou(faces.boxes, np.array([FACE_BOX], np.float32))[0, 0] > 0.6


def test_its_landmarks_are_on_the_face(faces: edgeface.Faces) -> None:
    assert faces.landmarks is not None
    truth = np.array(FACE_POINTS, np.float32)
    eyes_px = float(np.linalg.norm(truth[1] - truth[0]))
    error = np.linalg.norm(faces.landmarks[0] - truth, axis=1) / eyes_px
    assert error.mean() < 0.2, error


def test_it_looks_at_the_camera(faces: edgeface.Faces, model: str) -> None:
    if model.startswith(("maskface", "tfn")):
        assert faces.landmarks68 is not None
        (pose,) = edgeface.pose_from_points(faces.landmarks68)
        assert (np.abs(pose) < 15).all(), pose
        return
    # Five points take a smile, which lifts the mouth's corners, for a head that looks down.
    assert faces.pose is not None
    assert (np.abs(faces.pose[0]) < [30, 10, 10]).all(), faces.pose


def test_only_tfn_says_how_old_it_seems(faces: edgeface.Faces, model: str) -> None:
    if not model.startswith("tfn"):
        assert not faces.classes
        return
    assert set(faces.classes) == {"age", "gender", "ethnicity"}
    assert 20 < faces.classes["age"].expectation()[0] < 60


def test_it_wears_no_mask_and_is_a_good_picture(faces: edgeface.Faces, model: str) -> None:
    if not model.startswith("mhcnn"):
        assert not faces.attributes
        return
    assert not faces.has("mask")[0]
    assert not faces.has("sunglasses")[0]
    assert faces.has("quality")[0]
    assert faces.attributes["quality"][0] > 0.9


@pytest.mark.parametrize("engine", ["ncnn", "tflite"])
def test_a_refinement_at_load_time_is_the_combined_bundle(astronaut: NDArray[np.uint8], engine: str) -> None:
    combined = edgeface.load(f"mhcnn-int8-{engine}", size=320)(astronaut)
    refined = edgeface.load(f"mos_s-int8-{engine}", refine="tcnn", size=320)(astronaut)
    np.testing.assert_array_equal(combined.boxes, refined.boxes)
    np.testing.assert_array_equal(combined.scores, refined.scores)
    assert combined.attributes.keys() == refined.attributes.keys()
    assert all((combined.attributes[name] == refined.attributes[name]).all() for name in combined.attributes)


def test_nothing_moved_since_the_weights_were_committed(faces: edgeface.Faces, model: str) -> None:
    box, score, pose = GOLDEN[model]
    # Instruction sets round floats differently: a pixel, a hundredth and a degree are more than that ever makes.
    assert faces.boxes[0].tolist() == pytest.approx(box, abs=1.0)
    assert float(faces.scores[0]) == pytest.approx(score, abs=0.01)
    if pose is None:
        assert faces.pose is None
        return
    assert faces.pose is not None
    # A pixel of one of five points is as much as three degrees.
    assert faces.pose[0].tolist() == pytest.approx(pose, abs=1.0 if model.startswith("mos") else 3.0)


def test_int8_faces_are_the_quantised_checkpoint_s(astronaut: NDArray[np.uint8]) -> None:
    """Not near them: the same, on any processor, because both compute in whole numbers."""
    torch_faces = edgeface.load("mos_s_qat", engine="torch", size=320)(astronaut)
    tflite = edgeface.load("mos_s-int8-tflite", size=320)(astronaut)
    assert len(tflite) == len(torch_faces) == 1
    assert np.abs(tflite.boxes - torch_faces.boxes).max() < 1e-3
    assert tflite.pose is not None
    assert torch_faces.pose is not None
    assert np.abs(tflite.pose - torch_faces.pose).max() < 1e-3
