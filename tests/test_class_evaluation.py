"""Apparent age, gender and ethnicity against labels: shares and errors, all and by group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeface.class_names import ClassNames
from edgeface.data.annotations import Face, Picture
from edgeface.evaluation.classes import class_lines, evaluate_classes, groups_of, labelled_classes
from edgeface.evaluation.measure import measure, reasons_against
from edgeface.faces import Distribution, Faces

GENDER = ClassNames(("female", "male"))
AGE = ClassNames(tuple(str(year) for year in range(101)), tuple(float(year) for year in range(101)))


def picture(*faces: Face) -> Picture:
    return Picture(Path("x.png"), 100, 100, "dev", False, faces)


def told(female: float, years: int, box: tuple[float, ...] = (20, 20, 80, 80)) -> Faces:
    ages = np.zeros((1, 101), np.float32)
    ages[0, years] = 1
    return Faces(
        np.array([box], np.float32), np.ones(1, np.float32),
        classes={
            "gender": Distribution(GENDER, np.array([[female, 1 - female]], np.float32)),
            "age": Distribution(AGE, ages),
        },
    )


def test_shares_and_errors_are_over_the_faces_found_and_by_group() -> None:
    pictures = [
        picture(Face(gender="female", age_years=30.0)), picture(Face(gender="male", age_bin="20-29", race="Black")),
        picture(Face(gender="female", age_bin="70+")), picture(Face(gender="male", age_years=50.0)),
    ]
    detections = [told(0.9, 34), told(0.6, 29), told(0.8, 60), told(0.1, 52, (0, 0, 10, 10))]
    reports = evaluate_classes(pictures, detections)
    assert list(reports) == ["age", "gender"]
    gender, age = reports["gender"], reports["age"]
    assert (gender.faces, gender.found, gender.overall.accuracy) == (4, 3, pytest.approx(2 / 3))
    assert gender.by_group["gender female"].accuracy == 1.0
    assert gender.by_group["ethnicity black"].accuracy == 0.0
    assert (age.overall.error_years, age.overall.accuracy) == (4.0, 0.5)
    assert age.by_group["age 80-99"].accuracy == 0.0        # 70 to 100 years, about 85
    assert age.by_group["gender male"].error_years is None
    lines = list(class_lines("age", age))
    assert lines[1].startswith("apparent age, 3 of 4 faces found")
    assert lines[2].split() == ["all", "3", "0.500", "4.00"]


def test_labels_that_are_no_class_of_the_model_are_left_out() -> None:
    report = evaluate_classes([picture(Face(gender="unknown")), picture(Face(gender="male"))], [told(1, 3), told(0, 3)])
    assert (report["gender"].faces, report["gender"].overall.accuracy) == (1, 1.0)


def test_groups_are_of_what_is_known() -> None:
    assert groups_of(Face()) == {}
    assert groups_of(Face(age_bin="40-49", race="East Asian")) == {"age": "40-59", "ethnicity": "east asian"}
    assert labelled_classes([picture(Face(gender="male", ignore=True)), picture(Face(age_years=2.0))]) == ["age"]


def test_an_evaluation_says_why_classes_are_not_measured() -> None:
    pictures = [picture(Face(gender="female"))]
    assert "classes" not in reasons_against(pictures)
    plain = Faces(np.array([[20, 20, 80, 80]], np.float32), np.ones(1, np.float32))
    measures = measure(pictures, [plain])
    assert measures.classes is None
    assert measures.not_measured["classes"] == "the model gives no gender"
    measures = measure(pictures, [told(0.9, 20)])
    assert measures.classes is not None
    assert measures.classes["gender"].overall.accuracy == 1.0
    assert reasons_against([picture(Face(mask="worn"))])["classes"] == "no age, gender or ethnicity of the source's own"
