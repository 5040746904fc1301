"""Apparent age, gender and ethnicity: how often the likeliest class is right, how far the expected age is off, and both
by group, since the same mean can hide that a model is worse for some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeface.data.annotations import Face, Picture
from edgeface.data.apparent import ethnicity_of, gender_of, years_of
from edgeface.evaluation.locate import locate_labelled
from edgeface.faces import Faces

AGE, GENDER, ETHNICITY = "age", "gender", "ethnicity"
_DECADES = 2        # of a group of ages
_YEARS_ALONE = 1.0  # a bin is wider than that


@dataclass(frozen=True)
class ClassFigures:
    """``faces`` faces; ``accuracy``, 0..1, is the share whose likeliest class is the labelled one, of age whose
    expectation lies in the labelled bin, None where no face has one; ``error_years`` is the mean absolute error of the
    expected age where the label is a number of years, None where it nowhere is."""

    faces: int
    accuracy: float | None
    error_years: float | None = None


@dataclass(frozen=True)
class ClassReport:
    """One distribution on a set: of ``faces`` labelled faces ``found`` were detected, on which the figures are, all of
    them and by group, such as "female" or "40-59"."""

    faces: int
    found: int
    overall: ClassFigures
    by_group: Mapping[str, ClassFigures]


@dataclass(frozen=True)
class _Row:
    """One face: its ``groups`` by kind; ``right``, whether the class is; ``error_years``; None where there is none."""

    groups: Mapping[str, str]
    right: bool | None
    error_years: float | None


def labelled_classes(pictures: Sequence[Picture]) -> list[str]:
    """Which of age, gender and ethnicity any face of the pictures has from its source."""
    faces = [face for picture in pictures for face in picture.faces if _counts(face)]
    return [name for name in (AGE, GENDER, ETHNICITY) if any(name in groups_of(face) for face in faces)]


def groups_of(face: Face) -> dict[str, str]:
    """The groups that a face's labels put it in, by kind: "age" in steps of twenty years where a bin fits, "gender" and
    "ethnicity"."""
    found = {}
    years = years_of(face)
    if years is not None:
        step = 10 * _DECADES
        low = int(sum(years) / 2 // step * step)
        found[AGE] = f"{low}-{low + step - 1}"
    for kind, known in ((GENDER, gender_of(face)), (ETHNICITY, ethnicity_of(face))):
        if known is not None:
            found[kind] = known
    return found


def evaluate_classes(pictures: Sequence[Picture], detections: Sequence[Faces]) -> dict[str, ClassReport]:
    """Each of age, gender and ethnicity that is labelled and that the detections, one ``Faces`` a picture, have.

    The detection that is judged is the one that ``locate_labelled`` finds. A label that is none of the model's classes
    is left out.
    """
    given = {name for found in detections for name in found.classes}
    return {
        name: _evaluated(name, pictures, detections) for name in labelled_classes(pictures) if name in given
    }


def _evaluated(name: str, pictures: Sequence[Picture], detections: Sequence[Faces]) -> ClassReport:
    faces, rows = 0, []
    for picture, found in zip(pictures, detections, strict=True):
        for face in picture.faces:
            if not _counts(face) or not _is_known(name, face, found):
                continue
            faces += 1
            index = locate_labelled(picture, face, found)
            if index is not None:
                rows.append(_row(name, face, found, index))
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        for kind, group in row.groups.items():
            groups.setdefault(f"{kind} {group}", []).append(row)
    return ClassReport(
        faces, len(rows), _figures(rows), {group: _figures(groups[group]) for group in sorted(groups)}
    )


def _counts(face: Face) -> bool:
    return not (face.ignore or face.teacher)


def _is_known(name: str, face: Face, found: Faces) -> bool:
    if name == AGE:
        return years_of(face) is not None
    own = gender_of(face) if name == GENDER else ethnicity_of(face)
    return own is not None and (name not in found.classes or own in found.classes[name].classes.names)


def _row(name: str, face: Face, found: Faces, index: int) -> _Row:
    told, groups = found.classes[name], groups_of(face)
    if name != AGE:
        return _Row(groups, told.likeliest()[index] == groups[name], None)
    years, expected = years_of(face), told.expectation()
    assert years is not None
    if expected is None:
        raise ValueError("ages without values have no expectation")
    at, (least, most) = float(expected[index]), years
    if most - least < _YEARS_ALONE:
        return _Row(groups, None, abs(at - least))
    # A bin of 20 to 29 holds all that is 20 and not yet 30.
    return _Row(groups, least <= at < most + 1, None)


def _figures(rows: Sequence[_Row]) -> ClassFigures:
    right = [row.right for row in rows if row.right is not None]
    errors = [row.error_years for row in rows if row.error_years is not None]
    return ClassFigures(
        len(rows), float(np.mean(right)) if right else None, float(np.mean(errors)) if errors else None
    )


def class_lines(name: str, report: ClassReport) -> Iterator[str]:
    """A report as text, without line ends."""
    yield ""
    title = f"apparent {name}, {report.found} of {report.faces} faces found"
    yield f"{title:<52}{'faces':>7}{'accuracy':>10}{'years off':>11}"
    for group, figures in {"all": report.overall, **report.by_group}.items():
        accuracy = "-" if figures.accuracy is None else f"{figures.accuracy:.3f}"
        error = "-" if figures.error_years is None else f"{figures.error_years:.2f}"
        yield f"  {group:<50}{figures.faces:>7}{accuracy:>10}{error:>11}"
