"""The tracker: assignment against SciPy, motion, numbers that stay, and what ends them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from edgeface.errors import OptionError
from edgeface.faces import Faces
from edgeface.stream.tracking import Tracked, Tracker, TrackerOptions
from edgeface.stream.tracking.assignment import assign
from edgeface.stream.tracking.motion import Motion

RATE = 25


def faces_at(*centres: tuple[float, float], size: float = 60.0, score: float = 0.95, turned: float = 0.0) -> Faces:
    """Square faces; ``turned`` moves the landmarks within the box, in shares of it."""
    middle = np.array(centres, np.float32).reshape(-1, 2)
    boxes = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
    layout = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)], np.float32)
    layout[:, 0] += turned
    points = boxes[:, None, :2] + layout[None] * size
    n = len(middle)
    return Faces(boxes, np.full(n, score, np.float32), points.astype(np.float32), np.zeros((n, 3), np.float32))


def joined(*parts: Faces) -> Faces:
    landmarks = [part.landmarks for part in parts if part.landmarks is not None]
    pose = [part.pose for part in parts if part.pose is not None]
    return Faces(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(landmarks),
        np.concatenate(pose),
    )


def place_of(tracked: Tracked, number: int) -> NDArray[np.float32]:
    (index,) = np.flatnonzero(tracked.ids == number)
    box: NDArray[np.float32] = tracked.faces.boxes[index]
    return (box[:2] + box[2:]) / 2


@given(st.data())
def test_an_assignment_without_limit_costs_as_little_as_scipys(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    values = data.draw(st.lists(st.integers(0, 30), min_size=rows * columns, max_size=rows * columns))
    cost = np.array(values, np.float64).reshape(rows, columns)
    row, column = assign(cost, 1000.0)
    assert len(row) == len(set(row.tolist())) == len(set(column.tolist())) == min(rows, columns)
    assert cost[row, column].sum() == cost[linear_sum_assignment(cost)].sum()


@given(st.data())
def test_an_assignment_never_pairs_over_the_limit_and_pairs_as_many_as_can_be(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    values = data.draw(st.lists(st.integers(0, 9), min_size=rows * columns, max_size=rows * columns))
    cost = np.array(values, np.float64).reshape(rows, columns)
    row, column = assign(cost, 4.0)
    assert (cost[row, column] <= 4.0).all()
    most = -(cost <= 4.0).astype(float)
    assert len(row) == -most[linear_sum_assignment(most)].sum()


def test_nothing_is_assigned_where_there_is_nothing() -> None:
    for shape in ((0, 3), (3, 0), (0, 0)):
        row, column = assign(np.zeros(shape), 1.0)
        assert len(row) == len(column) == 0


def test_motion_learns_a_velocity_and_goes_on_with_it() -> None:
    motion = Motion.starting(np.array([[0.0, 0.0, 50.0, 50.0]]))
    for step in range(1, 20):
        left = 4.0 * step
        motion = motion.predicted(1 / RATE).corrected(np.array([[left, 0.0, left + 50.0, 50.0]]))
    ahead = motion.predicted(5 / RATE).boxes()[0]
    assert ahead == pytest.approx([4.0 * 24, 0.0, 4.0 * 24 + 50, 50.0], abs=2.0)
    assert motion.predicted(1.0).uncertainty_px()[0] > motion.uncertainty_px()[0]


def test_a_moving_face_keeps_its_number_when_looked_for_in_every_third_picture() -> None:
    tracker = Tracker()
    for i in range(75):
        centre = (50.0 + 7 * i, 200.0)
        tracked = tracker.update(faces_at(centre), i / RATE) if i % 3 == 0 else tracker.predict(i / RATE)
        assert tracked.ids.tolist() == [1]
        assert tracked.seen.tolist() == [i % 3 == 0]
        if i > 12:
            assert np.abs(place_of(tracked, 1) - centre).max() < 4.0
            assert tracked.faces.landmarks is not None
            assert np.abs(tracked.faces.landmarks[0, 2] - (centre[0], centre[1] + 6)).max() < 8.0


def test_faces_that_cross_keep_their_numbers() -> None:
    tracker = Tracker()
    for i in range(80):
        tracked = tracker.update(joined(faces_at((80.0 + 6 * i, 150.0)), faces_at((554.0 - 6 * i, 230.0))), i / RATE)
        assert sorted(tracked.ids.tolist()) == [1, 2]
        assert place_of(tracked, 1)[1] == 150.0


def test_landmarks_tell_heads_apart_that_pass_through_one_place() -> None:
    tracker = Tracker()
    for i in range(80):
        left, right = 100.0 + 5 * i, 500.0 - 5 * i
        found = joined(faces_at((left, 200.0), turned=0.15), faces_at((right, 205.0), turned=-0.15))
        if abs(left - right) < 40:      # one hides the other
            found = faces_at((left, 200.0), turned=0.15)
        tracked = tracker.update(found, i / RATE)
    assert place_of(tracked, 1) == pytest.approx((left, 200.0))
    assert place_of(tracked, 2) == pytest.approx((right, 205.0))


def test_a_face_that_was_hidden_for_a_second_comes_back_under_its_number_and_later_under_a_new_one() -> None:
    tracker = Tracker()
    for i in range(10):
        tracker.update(faces_at((200.0, 200.0)), i / RATE)
    nobody = faces_at()
    assert tracker.update(nobody, 1.3).ids.tolist() == []
    assert tracker.update(faces_at((215.0, 200.0)), 1.4).ids.tolist() == [1]
    gone = tracker.update(nobody, 3.5)
    assert gone.ended == (1,)
    assert tracker.update(faces_at((215.0, 200.0)), 3.6).ids.tolist() == [2]


def test_weak_detections_continue_a_track_and_start_none() -> None:
    tracker = Tracker()
    tracker.update(faces_at((100.0, 100.0)), 0.0)
    tracked = tracker.update(joined(faces_at((102.0, 100.0), score=0.5), faces_at((400.0, 300.0), score=0.5)), 0.04)
    assert tracked.ids.tolist() == [1]
    assert tracked.seen.all()
    assert tracker.update(faces_at((104.0, 100.0), score=0.3), 0.08).seen.tolist() == [False]


def test_a_face_that_is_not_sure_needs_a_second_sighting() -> None:
    tracker = Tracker()
    assert len(tracker.update(faces_at((100.0, 100.0), score=0.8), 0.0).ids) == 0
    assert tracker.update(faces_at((100.0, 100.0), score=0.8), 0.04).ids.tolist() == [1]


def test_what_flashes_up_once_never_gets_a_number() -> None:
    tracker = Tracker()
    tracker.update(faces_at((100.0, 100.0), score=0.8), 0.0)
    assert tracker.update(faces_at(), 0.3).ended == ()
    assert tracker.update(faces_at((100.0, 100.0), score=0.95), 0.34).ids.tolist() == [1]


def test_faces_without_landmarks_or_pose_are_tracked_too() -> None:
    tracker = Tracker()
    for i in range(3):
        tracked = tracker.update(replace(faces_at((100.0 + i, 100.0)), landmarks=None, pose=None), i / RATE)
    assert tracked.ids.tolist() == [1]
    assert tracked.faces.landmarks is None
    assert tracked.faces.pose is None


def test_attributes_and_the_order_by_score_go_through() -> None:
    found = joined(faces_at((100.0, 100.0), score=0.91), faces_at((300.0, 100.0), score=0.99))
    given = {"mask": np.array([0.2, 0.7], np.float32)}
    tracked = Tracker().update(replace(found, attributes=given, thresholds={"mask": 0.6}), 0.0)
    assert tracked.ids.tolist() == [2, 1]
    assert tracked.faces.scores.tolist() == pytest.approx([0.99, 0.91])
    assert tracked.faces.attributes["mask"].tolist() == pytest.approx([0.7, 0.2])
    assert tracked.faces.has("mask").tolist() == [True, False]


def test_time_that_goes_back_is_refused() -> None:
    tracker = Tracker()
    tracker.predict(1.0)
    with pytest.raises(ValueError, match=r"cannot go back from 1\.0 to 0\.5"):
        tracker.update(faces_at(), 0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"low_score": 0.9}, {"start_score": 1.2}, {"confirm_sightings": 0}, {"reach": 0.0}, {"shown_unseen_s": 9.0}],
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="tracking: "):
        TrackerOptions(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_landmarks_that_are_no_numbers_do_not_cost_a_face_its_number() -> None:
    tracker = Tracker()
    for i in range(6):
        faces = faces_at((100 + 2 * i, 100))
        assert faces.landmarks is not None
        if i in (2, 3):
            faces.landmarks[0, 1] = np.nan
        assert tracker.update(faces, i / RATE).ids.tolist() == [1]
