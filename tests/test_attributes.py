"""Accuracy of attributes against figures worked out by hand, and which faces they are measured on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.data.annotations import Face, Picture
from edgeface.errors import UnknownAttributeError
from edgeface.evaluation.attributes import (
    binary_figures,
    evaluate_attributes,
    figures_by_side,
    label_of,
    labelled,
    roc_auc,
)
from edgeface.faces import Faces, face_records


def _floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _box(x: float, side: float) -> np.ndarray:
    return _floats(x, 0, x + side, side)


def _picture(*faces: Face, width: int = 400) -> Picture:
    return Picture(Path("x.webp"), width, 100, "dev", True, faces)


def test_accuracy_counts_all_faces_and_balanced_accuracy_both_answers_alike():
    said = _floats(0.9, 0.8, 0.7, 0.2, 0.6)
    figures = binary_figures(said, np.array([True, True, True, True, False]), 0.5)
    assert (figures.faces, figures.positives) == (5, 4)
    assert figures.accuracy == pytest.approx(3 / 5)
    assert figures.balanced_accuracy == pytest.approx((3 / 4 + 0) / 2)
    assert figures.auc == pytest.approx(3 / 4)


def test_a_probability_at_the_threshold_is_a_yes():
    assert binary_figures(_floats(0.3), np.array([True]), 0.3).accuracy == 1.0


def test_without_both_answers_there_is_an_accuracy_alone():
    figures = binary_figures(_floats(0.9, 0.1), np.array([True, True]), 0.5)
    assert (figures.accuracy, figures.balanced_accuracy, figures.auc) == (0.5, None, None)
    assert binary_figures(_floats(), np.empty(0, bool), 0.5).accuracy is None


def test_equal_probabilities_are_half_in_order():
    assert roc_auc(_floats(0.5, 0.5), np.array([True, False])) == 0.5


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=40))
def test_auc_is_the_share_of_pairs_in_order(faces):
    said, truth = _floats(*(value / 8 for value, _ in faces)), np.array([yes for _, yes in faces], bool)
    pairs = [(yes > no) + (yes == no) / 2 for yes in said[truth] for no in said[~truth]]
    assert roc_auc(said, truth) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_bands_are_over_their_lower_and_up_to_their_upper_bound():
    sides = np.array([16, 16.5, 32, 33, np.nan])
    bands = figures_by_side(_floats(1, 1, 0, 1, 1), np.ones(5, bool), sides, 0.5)
    assert {name: (band.faces, band.accuracy) for name, band in bands.items()} == {
        "16-32": (2, 0.5), "over 32": (1, 1.0),
    }


@pytest.mark.parametrize(("said", "labels"), [
    (_floats(0.5), np.array([1])), (_floats(0.5, 0.5), np.array([True])), (_floats(np.nan), np.array([True])),
])
def test_what_is_no_probability_for_a_label_is_refused(said, labels):
    with pytest.raises(ValueError, match="probabilit"):
        binary_figures(said, labels, 0.5)


@pytest.mark.parametrize(("face", "attribute", "label"), [
    (Face(mask="worn"), "mask", True),
    (Face(mask="none"), "mask", False),
    (Face(mask="incorrect"), "mask", None),
    (Face(mask="worn", ignore=True), "mask", None),
    (Face(sunglasses=True), "sunglasses", True),
    (Face(sunglasses=False, eyeglasses=True), "sunglasses", False),
    (Face(eyeglasses=False), "sunglasses", False),
    (Face(eyeglasses=True), "sunglasses", None),
    (Face(sunglasses=True, teacher=True), "sunglasses", None),
    (Face(), "mask", None),
    (Face(box=_box(0, 90), blur=0, occlusion=0), "quality", True),
    (Face(box=_box(0, 90), blur=2, occlusion=0, teacher=True), "quality", False),
    (Face(box=_box(0, 90), blur=1, occlusion=0), "quality", None),
    (Face(box=_box(0, 90)), "quality", None),
])
def test_labels_are_the_sources_own(face, attribute, label):
    assert label_of(face, _picture(face), attribute) is label


def test_detections_are_judged_on_the_labelled_faces_that_they_overlap():
    picture = _picture(
        Face(box=_box(0, 20), mask="worn"), Face(box=_box(100, 50), mask="none"), Face(box=_box(200, 50), mask="worn"),
        Face(box=_box(300, 50), mask="incorrect"),
    )
    boxes = np.stack([_box(0, 22), _box(100, 50), _box(300, 48)])
    found = Faces(boxes, _floats(1, 1, 1), attributes={"mask": _floats(0.4, 0.35, 0.9)}, thresholds={"mask": 0.3})
    report = evaluate_attributes([picture], [found])["mask"]
    assert (report.faces, report.found, report.threshold) == (3, 2, 0.3)
    assert report.overall.accuracy == 0.5
    assert report.by_side_px["16-32"].accuracy == 1.0
    assert report.by_side_px["over 32"].accuracy == 0.0
    assert (report.incorrect, report.incorrect_as_worn) == (1, 1.0)


def test_a_portrait_without_a_place_is_judged_by_the_detection_at_its_centre():
    boxes = np.stack([_box(0, 90), _box(160, 90)])
    found = Faces(boxes, _floats(0.9, 0.8), attributes={"sunglasses": _floats(0.1, 0.9)})
    report = evaluate_attributes([_picture(Face(sunglasses=True))], [found])["sunglasses"]
    assert (report.found, report.overall.accuracy) == (1, 1.0)
    two = _picture(Face(sunglasses=True), Face(sunglasses=True))
    assert evaluate_attributes([two], [found])["sunglasses"].found == 0


def test_what_is_not_labelled_or_not_given_is_not_measured():
    picture = _picture(Face(box=_box(0, 20), mask="worn", eyeglasses=False))
    assert labelled([picture]) == ["mask", "sunglasses"]
    found = Faces(np.empty((0, 4), np.float32), _floats(), attributes={"quality": _floats(), "mask": _floats()})
    reports = evaluate_attributes([picture], [found])
    assert list(reports) == ["mask"]
    assert (reports["mask"].faces, reports["mask"].found, reports["mask"].overall.accuracy) == (1, 0, None)


def test_faces_have_what_reaches_its_threshold():
    faces = Faces(
        np.zeros((2, 4), np.float32), _floats(1, 1),
        attributes={"mask": _floats(0.3, 0.2), "quality": _floats(0.5, 0.4)},
        thresholds={"mask": 0.3},
    )
    assert faces.has("mask").tolist() == [True, False]
    assert faces.has("quality").tolist() == [True, False]
    assert [record["present"] for record in face_records(faces)] == [["mask", "quality"], []]
    with pytest.raises(UnknownAttributeError, match=r"no attribute 'masks'\. Did you mean 'mask'"):
        faces.has("masks")


def test_one_probability_a_face():
    with pytest.raises(ValueError, match="mask"):
        Faces(np.zeros((2, 4), np.float32), _floats(1, 1), attributes={"mask": _floats(1)})
