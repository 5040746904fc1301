"""Landmark error against hand values, with faces that were not found, and how a face is found in the first place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeface.data.annotations import Face, Picture, read_annotations
from edgeface.evaluation.landmarks import auc, evaluate_landmarks, nme, nme68, nose_ratios
from edgeface.evaluation.locate import face_box, locate
from edgeface.evaluation.measure import measure
from edgeface.evaluation.report_text import measure_lines
from edgeface.faces import Faces

# Eyes 40 apart.
POINTS = np.float32([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]])
BOX = np.float32([20, 10, 80, 100])
NOWHERE = np.float32([500, 500, 560, 590])


def face(points: np.ndarray = POINTS, box: np.ndarray | None = BOX) -> Face:
    return Face(box=box, landmarks=points)


def found(points: np.ndarray = POINTS, box: np.ndarray = BOX) -> Faces:
    return Faces(box[None], np.float32([0.9]), landmarks=points[None])


def test_the_nose_ratio_is_of_the_line_between_eyes_and_mouth_however_the_picture_is_turned() -> None:
    # Eyes at 40, mouth at 80, nose at 60.
    assert nose_ratios(POINTS[None]).tolist() == [0.5]
    quarter = np.stack([-POINTS[:, 1], POINTS[:, 0]], axis=1)
    assert nose_ratios(quarter[None]).tolist() == [0.5]
    assert np.isnan(nose_ratios(np.zeros((1, 5, 2)))).all()


def test_points_of_a_mean_face_have_a_nose_ratio_that_does_not_follow() -> None:
    def nosed(y: float) -> np.ndarray:
        return np.float32([*POINTS[:2], [50, y], *POINTS[3:]])

    mean = [(face(nosed(y)), found()) for y in (54, 58, 62, 66)]
    stuck = evaluate_landmarks(mean).nose_ratio
    assert stuck is not None
    assert (stuck.count, stuck.slope, stuck.correlation) == (4, 0.0, None)
    follows = evaluate_landmarks([(f, found(nosed(f.landmarks[2][1]))) for f, _ in mean if f.landmarks is not None])
    assert follows.nose_ratio is not None
    assert follows.nose_ratio.slope == pytest.approx(1)


def shifted(distance: float) -> np.ndarray:
    """The points moved by 3-4-5 triangles: every one by ``distance``."""
    return (POINTS + np.float32([0.6, 0.8]) * distance).astype(np.float32)


def test_nme_is_the_mean_distance_over_the_distance_between_the_eyes() -> None:
    one_off = POINTS.copy()
    one_off[2] += [6, 8]  # the nose by 10: 10 / 5 / 40
    turned = np.float32([[0, 0], [3, 4], [0, 0], [0, 0], [0, 0]])  # eyes 5 apart, at an angle
    truth = np.stack([POINTS, POINTS, turned])
    result = nme(np.stack([shifted(4), one_off, turned + np.float32([1, 0])]), truth)
    assert result == pytest.approx([0.1, 0.05, 0.2])


def test_coinciding_eyes_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        nme(POINTS[None], np.zeros((1, 5, 2), np.float32))


def test_auc_is_the_exact_area_under_the_ced() -> None:
    # 0 % covers the whole range, 5 % half of it, 10 % and a face not found nothing: 1.5 of 4.
    assert auc(np.array([0, 5, 10, np.inf]), 10) == pytest.approx(1.5 / 4)


def test_report_over_found_and_over_all_faces() -> None:
    # Errors of 2.5, 5 and 15 %, and one face whose only detection is elsewhere.
    faces = [(face(), found(shifted(distance))) for distance in (1, 2, 6)]
    report = evaluate_landmarks([*faces, (face(), found(box=NOWHERE))])
    assert (report.faces, report.found) == (4, 3)
    assert report.missed_share == pytest.approx(1 / 4)
    assert report.nme_percent == pytest.approx(7.5, abs=1e-4)
    assert report.median_percent == pytest.approx(5, abs=1e-4)
    assert report.over_10_share == pytest.approx(1 / 3)
    assert report.failure_share == pytest.approx(2 / 4)
    assert report.auc_10 == pytest.approx((0.75 + 0.5) / 4, abs=1e-4)
    errors, shares = zip(*report.ced, strict=True)
    assert errors == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert shares[:4] == (0, 0, 0.25, 0.25)
    assert shares[5:] == (0.5,) * 5


def test_an_error_on_a_step_is_covered_by_it() -> None:
    # The nose 10 off, of eyes 100 apart: 10 / 5 / 100 is 2 %.
    points = np.float32([[0, 0], [100, 0], [50, 50], [20, 80], [80, 80]])
    off = points + np.float32([[0, 0], [0, 0], [10, 0], [0, 0], [0, 0]])
    box = np.float32([0, 0, 100, 100])
    ced = evaluate_landmarks([(face(points, box), found(off, box))]).ced
    assert ced[:3] == [(1, 0), (2, 1), (3, 1)]


def test_no_face_found_has_no_mean_and_all_failures() -> None:
    report = evaluate_landmarks([(face(), Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32)))])
    assert (report.found, report.missed_share, report.failure_share, report.auc_10) == (0, 1, 1, 0)
    assert report.nme_percent is report.median_percent is report.over_10_share is None


def test_68_points_are_measured_by_the_outer_eye_corners() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 80, (68, 2)).astype(np.float32)
    points[36], points[45] = (30, 50), (70, 50)
    moved = points + np.array([3, 4], np.float32)
    face = Face(box=np.array([10, 10, 90, 90], np.float32), landmarks68=points)
    found = Faces(np.array([[10, 10, 90, 90]], np.float32), np.ones(1, np.float32), landmarks68=moved[None])
    report = evaluate_landmarks([(face, found), (face, Faces.empty())], 68)
    assert report.nme_percent == pytest.approx(100 * 5 / 40)
    assert (report.faces, report.found, report.nose_ratio) == (2, 1, None)
    with pytest.raises(ValueError, match="coincide"):
        nme68(points[None], np.zeros((1, 68, 2), np.float32))


def test_68_points_are_measured_where_the_source_and_the_model_have_them() -> None:
    points = np.random.default_rng(0).uniform(20, 80, (68, 2)).astype(np.float32)
    face = Face(box=np.array([10, 10, 90, 90], np.float32), landmarks68=points)
    picture = Picture(Path("a.png"), 100, 100, "dev", False, [face])
    boxes, scores = np.array([[10, 10, 90, 90]], np.float32), np.ones(1, np.float32)
    assert measure([picture], [Faces(boxes, scores)]).landmarks68 is None
    measures = measure([picture], [Faces(boxes, scores, landmarks68=points[None] + 1)])
    assert measures.landmarks68 is not None
    text = "\n".join(measure_lines(measures))
    assert "68 landmarks, error in % of the distance between the outer eye corners, 1 of 1 faces found" in text


def test_needs_faces_and_landmarks() -> None:
    with pytest.raises(ValueError, match="at least one face"):
        evaluate_landmarks([])
    with pytest.raises(ValueError, match="landmarks on both sides"):
        evaluate_landmarks([(face(), Faces(BOX[None], np.float32([0.9])))])


def test_the_best_overlap_is_the_face_and_not_the_best_score() -> None:
    boxes = np.stack([NOWHERE, BOX + np.float32([30, 0, 30, 0]), BOX + np.float32([5, 0, 5, 0])])
    detections = Faces(boxes, np.float32([0.99, 0.9, 0.1]))
    assert locate(detections, face()) == 2
    assert locate(Faces(boxes[:2], np.float32([0.99, 0.9])), face()) == 1  # IoU 1/3
    assert locate(Faces(boxes[:1], np.float32([0.99])), face()) is None


def test_a_face_without_a_box_gets_one_from_its_landmarks() -> None:
    # The points span 40 by 40 round (50, 60): 1.9 * 40 wide and 2.2 * 40 high.
    np.testing.assert_allclose(face_box(face(box=None)), [12, 16, 88, 104])
    np.testing.assert_array_equal(face_box(face()), BOX)
    with pytest.raises(ValueError, match="no place"):
        face_box(Face())


def test_derived_boxes_lie_on_annotated_ones(shared_data: Path) -> None:
    faces = [p.faces[0] for p in read_annotations(shared_data / "landmarks5", "dev")]
    boxed = [f for f in faces if f.box is not None]
    assert len(boxed) > 300
    for f in boxed:
        assert f.box is not None
        assert locate(Faces(f.box[None], np.float32([1])), Face(landmarks=f.landmarks)) == 0
