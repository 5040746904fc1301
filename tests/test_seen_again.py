"""Boxes that show one large face twice are told from two faces side by side or one before the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.nms import seen_again

Floats = NDArray[np.float32]
# Eyes, nose and mouth corners of an upright face, in parts of its box.
FACE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)


def points(boxes: Floats) -> Floats:
    """The five points of a face that fills each box, (N, 4) -> (N, 5, 2)."""
    return np.asarray(boxes[:, None, :2] + FACE * (boxes[:, None, 2:] - boxes[:, None, :2]), np.float32)


def again(rows: list[list[float]], of: list[int] | None = None) -> list[bool]:
    """``of``: by number, whose points each box has; its own by default."""
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    own = points(boxes if of is None else boxes[of])
    return [bool(value) for value in seen_again(boxes, lambda chosen: own[chosen], 640)]


def test_boxes_within_a_close_face_that_share_its_points_are_that_face() -> None:
    face, upper, inner = [100.0, 60, 420, 460], [110.0, 50, 400, 300], [160.0, 120, 380, 400]
    assert again([face, upper, inner], of=[0, 0, 0]) == [False, True, True]
    # The best is kept, also where it is the smaller one.
    assert again([inner, face], of=[1, 1]) == [False, True]


def test_two_faces_side_by_side_and_one_before_the_other_stay_two() -> None:
    assert again([[100, 100, 300, 360], [260, 110, 460, 370]]) == [False, False]
    mother, child = [100.0, 60, 420, 460], [300.0, 330, 440, 500]
    assert again([mother, child]) == [False, False]


def test_small_faces_are_left_to_nms() -> None:
    assert again([[100, 100, 140, 150], [105, 105, 138, 148]], of=[0, 0]) == [False, False]


def test_points_are_asked_for_only_where_they_decide() -> None:
    asked: list[int] = []

    def points_of(chosen: NDArray[np.int64]) -> Floats:
        asked.extend(int(i) for i in chosen)
        return points(boxes[chosen])

    boxes = np.array([[100, 60, 420, 460], [500, 20, 520, 45], [120, 70, 400, 450]], np.float32)
    assert seen_again(boxes, points_of, 640).tolist() == [False, False, True]
    assert asked == [0, 2]
    asked.clear()
    assert not seen_again(boxes[:2], points_of, 640).any()
    assert not seen_again(boxes[:0], points_of, 640).any()
    assert asked == []
