"""What is drawn on a picture, and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeface.drawing import AXES, BOX, LANDMARK, draw_faces, head_axes
from edgeface.faces import Faces

FIVE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)


def one_face(left: float, top: float, side: float, pose: tuple[float, float, float] | None = None) -> Faces:
    return Faces(
        np.array([[left, top, left + side, top + side]], np.float32),
        np.array([0.87], np.float32),
        (FIVE * side + np.array([left, top], np.float32))[None],
        None if pose is None else np.array([pose], np.float32),
    )


def blank(height: int, width: int, grey: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), grey, np.uint8)


def has_colour(pixels: NDArray[np.uint8], colour: tuple[int, int, int], slack: int = 60) -> bool:
    return bool((np.abs(pixels.astype(int) - colour).max(-1) <= slack).any())


@pytest.mark.parametrize(("height", "side"), [(60, 12.0), (200, 60.0), (2000, 700.0)])
def test_box_landmarks_and_axes_are_where_the_face_is(height: int, side: float) -> None:
    image = blank(height, 2 * height)
    left, top = 0.3 * height, 0.5 * height
    drawn = draw_faces(image, one_face(left, top, side, (0, 0, 0)))
    assert drawn.shape == image.shape
    assert (image == 100).all()
    centre = round(left + side / 2)
    for y in (top, top + side):
        assert has_colour(drawn[round(y) - 2 : round(y) + 3, centre : centre + 2], BOX)
    for x, y in FIVE * side + np.array([left, top]):
        assert has_colour(drawn[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2], LANDMARK, slack=90)
    reach = round(max(8, side))
    outside = drawn.copy()
    first_row, first_column = max(0, int(top) - reach), max(0, int(left) - reach)
    outside[first_row : int(top + side) + reach, first_column : int(left + side) + reach] = 100
    assert (outside == 100).all()


def test_without_landmarks_and_pose_only_box_and_score_are_drawn() -> None:
    faces = Faces(np.array([[20, 40, 120, 140]], np.float32), np.array([0.5], np.float32))
    drawn = draw_faces(blank(200, 200), faces)
    assert has_colour(drawn, BOX)
    assert not has_colour(drawn, LANDMARK)
    assert not has_colour(drawn, AXES[0])
    assert (drawn[50:130, 30:110] == 100).all()


def test_the_score_stays_inside_the_picture_and_off_small_faces() -> None:
    plain = Faces(np.array([[50, 0, 150, 100]], np.float32), np.array([0.87], np.float32))
    drawn = draw_faces(blank(200, 200), plain)
    assert (drawn[4:18, 55:80] != 100).any()
    above = draw_faces(blank(200, 200), Faces(plain.boxes + np.float32(60), plain.scores))
    assert (above[45:58, 112:130] != 100).any()
    assert (above[64:150, 114:200] == 100).all()
    small = draw_faces(blank(200, 200), Faces(np.array([[50, 50, 60, 60]], np.float32), plain.scores))
    assert (small[:47] == 100).all()


def test_the_best_face_is_on_top() -> None:
    boxes = np.array([[20, 20, 100, 100], [30, 20, 110, 100]], np.float32)
    points = np.repeat((FIVE * 80 + 20)[None], 2, 0).astype(np.float32)
    poses = np.array([[0, 0, 0], [0, 0, 90]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    both = draw_faces(blank(128, 128), Faces(boxes, scores, points, poses))
    best = draw_faces(blank(128, 128), Faces(boxes[:1], scores[:1], points[:1], poses[:1]))
    nose_to_ear = slice(62, 95)
    assert np.array_equal(both[68, nose_to_ear], best[68, nose_to_ear])


@pytest.mark.parametrize(
    ("pose", "axis", "towards"),
    [
        ((0, 0, 0), 0, (1, 0)),
        ((0, 0, 0), 1, (0, 1)),
        ((0, 0, 0), 2, (0, 0)),
        ((90, 0, 0), 2, (0, -1)),       # looking up
        ((0, 90, 0), 2, (-1, 0)),       # looking to the image's left
        ((0, 0, 90), 0, (0, 1)),        # the eye on the image's right goes down
        ((0, 60, 0), 0, (0.5, 0)),
        ((30, 0, 0), 1, (0, np.cos(np.pi / 6))),
    ],
)
def test_axes_follow_the_signs_of_aflw2000(
    pose: tuple[float, float, float], axis: int, towards: tuple[float, float]
) -> None:
    assert head_axes(np.array(pose, np.float32))[axis] == pytest.approx(towards, abs=1e-6)


def test_axes_agree_with_annotated_faces(shared_data: Path) -> None:
    """The nose of 68 annotated landmarks points along the third axis, and the eyes lie along the first."""
    looks, eyes = [], []
    for line in (shared_data / "landmarks68" / "annotations.jsonl").read_text().splitlines()[:600]:
        for face in json.loads(line)["faces"]:
            if "pose" not in face or "landmarks68" not in face:
                continue
            points = np.array(face["landmarks68"])
            left, right = points[36:42].mean(0), points[42:48].mean(0)
            middle = (left + right + points[48] + points[54]) / 4
            axes = head_axes(np.array(face["pose"]))
            looks.append(((points[30] - middle)[0], axes[2, 0]))
            eyes.append((np.degrees(np.arctan2(*(right - left)[::-1])), np.degrees(np.arctan2(*axes[0, ::-1]))))
    assert len(looks) > 300
    assert np.corrcoef(np.array(looks).T)[0, 1] > 0.9
    assert np.corrcoef(np.array(eyes).T)[0, 1] > 0.9


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4),
    st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_any_box_on_any_picture_can_be_drawn(
    height: int, width: int, box: list[float], pose: tuple[float, float, float]
) -> None:
    faces = Faces(
        np.array([box], np.float32),
        np.ones(1, np.float32),
        np.array([[box[:2]] * 5], np.float32),
        np.array([pose], np.float32),
    )
    assert draw_faces(blank(height, width), faces).shape == (height, width, 3)


def _with_words(side: float, left: float = 100, top: float = 100) -> Faces:
    face = one_face(left, top, side)
    given = {"mask": 0.9, "sunglasses": 0.2, "quality": 0.87}
    attributes = {name: np.array([value], np.float32) for name, value in given.items()}
    return Faces(face.boxes, face.scores, None, None, attributes, {"mask": 0.5, "sunglasses": 0.5})


def test_words_say_what_a_face_has_below_it() -> None:
    image = blank(480, 640)
    drawn = draw_faces(image, _with_words(150))
    below = drawn[256:290, 100:260]
    assert has_colour(below, BOX)
    nothing = Faces(*(getattr(_with_words(150), name) for name in ("boxes", "scores")))
    assert (draw_faces(image, nothing)[256:290, 100:260] == 100).all()
    # What is under its threshold is not said: with it, the words would need more room.
    words = np.flatnonzero((drawn[260] != 100).any(axis=1))
    both = _with_words(150)
    both.attributes["sunglasses"][...] = 0.9
    wider = np.flatnonzero((draw_faces(image, both)[260] != 100).any(axis=1))
    assert wider.max() > words.max()


def test_words_stay_inside_the_picture_and_off_small_faces() -> None:
    assert (draw_faces(blank(480, 640), _with_words(16))[118:, :] == 100).all()
    at_the_edge = draw_faces(blank(480, 640), _with_words(150, top=328))
    assert has_colour(at_the_edge[455:478, 104:200], BOX)
    assert (draw_faces(blank(480, 640), _with_words(60))[100 + 60 + 40 :] == 100).all()


def test_no_faces_leave_the_picture_as_it_is() -> None:
    none = Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32))
    assert (draw_faces(blank(30, 30), none) == 100).all()
