"""IDF1 and switches on clips small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeface.evaluation.tracking import Labelled, score_tracks


def picture(**places: int) -> Labelled:
    """Faces of 10 px: number -> left edge, as in ``picture(n1=0, n2=100)``."""
    boxes = np.array([(left, 0, left + 10, 10) for left in places.values()], np.float32).reshape(-1, 4)
    return Labelled(boxes, np.array([int(name[1:]) for name in places], np.int64))


def test_a_perfect_clip() -> None:
    clip = [picture(n1=i, n2=100 - i) for i in range(5)]
    scores = score_tracks(clip, [picture(n7=i, n3=100 - i) for i in range(5)])
    assert (scores.idf1, scores.recall, scores.precision, scores.switches, scores.persons) == (1.0, 1.0, 1.0, 0, 2)


def test_one_number_that_changes_halfway_is_one_switch_and_half_an_identity() -> None:
    clip = [picture(n1=0) for _ in range(8)]
    scores = score_tracks(clip, [picture(n5=0)] * 4 + [picture(n6=0)] * 4)
    assert scores.switches == 1
    assert scores.idf1 == 2 * 4 / 16
    assert scores.recall == 1.0


def test_two_numbers_exchanged_are_two_switches() -> None:
    clip = [picture(n1=0, n2=100)] * 4
    scores = score_tracks(clip, [picture(n1=0, n2=100)] * 3 + [picture(n2=0, n1=100)])
    assert scores.switches == 2
    assert scores.idf1 == 2 * 6 / 16


def test_misses_and_false_faces_count_against_both_sides() -> None:
    clip = [picture(n1=0)] * 4
    found = [picture(n9=0), picture(), picture(n9=0, n4=200), picture(n9=0)]
    scores = score_tracks(clip, found)
    assert scores.recall == 3 / 4
    assert scores.precision == 3 / 4
    assert scores.idf1 == 2 * 3 / 8
    assert scores.switches == 0


def test_a_person_keeps_its_track_while_another_overlaps_better() -> None:
    clip = [picture(n1=0)] * 2
    scores = score_tracks(clip, [picture(n5=1), picture(n5=2, n6=0)])
    assert scores.switches == 0


def test_clips_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 pictures are labelled and 2"):
        score_tracks([picture(n1=0)], [picture(), picture()])
    with pytest.raises(ValueError, match="no face is labelled"):
        score_tracks([picture()], [picture(n1=0)])
