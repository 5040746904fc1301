"""Apparent age, gender and ethnicity as sources label them, in the words that models give: how a face seems to those
who labelled it, and not who a person is."""

from __future__ import annotations

import re

from edgeface.data.annotations import Face

OLDEST = 100.0
_FROM_TO = re.compile(r"(\d+)-(\d+)")
_FROM = re.compile(r"(\d+)\+")


def years_of(face: Face) -> tuple[float, float] | None:
    """The least and the most years of a face's age: the same where its source says one, else its bin; None where
    neither is known."""
    if face.age_years is not None:
        return face.age_years, face.age_years
    if face.age_bin is None:
        return None
    if found := _FROM_TO.fullmatch(face.age_bin):
        return float(found[1]), float(found[2])
    if found := _FROM.fullmatch(face.age_bin):
        return float(found[1]), OLDEST
    return None


def gender_of(face: Face) -> str | None:
    """"female" or "male", or what else the source says in lower case; None where it says nothing."""
    return None if face.gender is None else _words(face.gender)


def ethnicity_of(face: Face) -> str | None:
    """The group that the source says, such as "southeast asian"; None where it says nothing."""
    return None if face.race is None else _words(face.race)


def _words(label: str) -> str:
    return " ".join(label.lower().replace("_", " ").split())
