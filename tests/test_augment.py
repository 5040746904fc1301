"""Augmentation: faces move with the pixels, flips mirror what they must, nothing is invented as background."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeface.data import augment
from edgeface.data.annotations import Face
from edgeface.data.augment import Crop
from edgeface.data.targets import Targets, box_from_landmarks5, box_from_landmarks68, face_box, joined


def targets(boxes: list[list[float]], complete: bool = True) -> Targets:
    n = len(boxes)
    array = np.array(boxes, np.float32).reshape(n, 4)
    corners = array[:, [0, 1, 2, 1, 0, 1, 0, 3, 2, 3]].reshape(n, 5, 2).copy()
    corners[:, 2] = (array[:, :2] + array[:, 2:]) / 2
    pose = np.tile(np.array([5, 20, -7], np.float32), (n, 1))
    return Targets(array, corners, pose, np.zeros(n, bool), np.ones(n, bool), complete)


def picture_with_square(box: list[int], shape: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    image = np.zeros((*shape, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(0.4, 2.5), x=st.integers(-40, 100), y=st.integers(-40, 70), flip=st.booleans(),
)
def test_a_face_moves_with_its_pixels(scale: float, x: int, y: int, flip: bool) -> None:
    box = [60, 40, 100, 80]
    crop = augment.cut(picture_with_square(box), targets([list(map(float, box))]), (x, y), scale, 128)
    if flip:
        crop = augment.flip(crop)
    bright = (crop.image[..., 0] > 200).nonzero()
    if len(crop.targets) == 0 or crop.targets.ignore[0] or len(bright[0]) == 0:
        return
    seen = [bright[1].min(), bright[0].min(), bright[1].max() + 1, bright[0].max() + 1]
    expected = crop.targets.boxes[0].clip(0, 128)
    assert np.abs(np.array(seen) - expected).max() <= 2 + 1.5 * scale


def test_flip_swaps_landmarks_and_turns_yaw_and_roll() -> None:
    crop = Crop(np.zeros((50, 100, 3), np.uint8), targets([[10, 10, 30, 40]]))
    flipped = augment.flip(crop).targets
    assert flipped.boxes[0].tolist() == [70, 10, 90, 40]
    assert flipped.landmarks[0].tolist() == [[70, 10], [90, 10], [80, 25], [70, 40], [90, 40]]
    assert flipped.pose[0].tolist() == [5, -20, 7]
    twice = augment.flip(augment.flip(crop))
    assert np.array_equal(twice.targets.landmarks, crop.targets.landmarks)


def test_a_turned_face_keeps_its_points_on_their_pixels() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    points = [(30, 40), (70, 45), (50, 55), (35, 70), (66, 72)]
    for x, y in points:
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    crop = Crop(image, targets([[20, 20, 80, 90]]))
    crop.targets.landmarks[0] = np.array(points) + 0.5
    turned = augment.turn(crop, 25)
    for x, y in turned.targets.landmarks[0] - 0.5:
        assert turned.image[round(float(y)), round(float(x)), 0] > 150
    # Clockwise: what was right of the centre is lower now.
    assert turned.targets.landmarks[0, 1, 1] > crop.targets.landmarks[0, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.floats(-40, 40), st.floats(-60, 60), st.floats(-40, 40), st.floats(-45, 45))
def test_turning_multiplies_the_head_s_rotation(pitch: float, yaw: float, roll: float, angle: float) -> None:
    before = targets([[10, 10, 30, 40]])
    before.pose[0] = pitch, yaw, roll
    after = before.turned(angle, (25, 25))
    expected = _rotation(0, 0, angle) @ _rotation(pitch, yaw, roll)
    assert np.abs(_rotation(*after.pose[0]) - expected).max() < 1e-5
    assert np.abs(after.turned(-angle, (25, 25)).pose - before.pose).max() < 1e-2


def _rotation(pitch: float, yaw: float, roll: float) -> NDArray[np.float64]:
    """Rx(pitch) Ry(-yaw) Rz(roll), degrees."""
    p, y, r = np.radians([pitch, -yaw, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    product: NDArray[np.float64] = about_x @ about_y @ about_z
    return product


def test_a_face_whose_centre_is_cut_off_is_ignored_and_one_outside_is_gone() -> None:
    faces = targets([[50, 50, 80, 80], [90, 50, 120, 80], [140, 50, 155, 80]])
    crop = augment.cut(np.zeros((120, 160, 3), np.uint8), faces, (0, 0), 1.0, 100)
    assert crop.targets.ignore.tolist() == [False, True]
    assert crop.targets.boxes[1].tolist() == [90, 50, 100, 80]


def test_what_is_outside_the_picture_is_padded() -> None:
    crop = augment.cut(np.zeros((40, 40, 3), np.uint8), targets([]), (-20, -20), 1.0, 96)
    assert (crop.image[:20] == augment.PAD_VALUE).all()
    assert (crop.image[25:55, 25:55] == 0).all()


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), left=st.integers(0, 580), top=st.integers(0, 400), side=st.integers(6, 60))
def test_the_window_holds_the_chosen_faces_centre(seed: int, left: int, top: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    faces = targets([[left, top, left + side, top + side]])
    scale, face = augment.choose_scale(rng, faces, 320, 0.5, 8.0, 0.8, (0.25, 2.0))
    assert 0.25 <= scale <= 2.0
    x, y = augment.crop_window(rng, (480, 640, 3), faces, face, 320 / scale)
    centre = np.array([left + side / 2, top + side / 2])
    assert (centre >= np.array([x, y]) - 1e-6).all()
    assert (centre <= np.array([x, y]) + 320 / scale + 1e-6).all()


def test_paste_puts_the_face_where_the_annotation_says() -> None:
    rng = np.random.default_rng(3)
    face_image = picture_with_square([40, 30, 80, 80])
    scene = Crop(np.full((128, 128, 3), 60, np.uint8), targets([[0, 0, 64, 128]]))
    pasted = augment.paste(rng, scene, face_image, targets([[40, 30, 80, 80]], complete=False), 24.0)
    assert len(pasted.targets) == 2
    x1, y1, x2, y2 = pasted.targets.boxes[1]
    assert np.sqrt((x2 - x1) * (y2 - y1)) == pytest.approx(24, abs=1)
    assert x1 >= 64 - 4
    inside = pasted.image[round((y1 + y2) / 2), round((x1 + x2) / 2), 0]
    assert inside > 100
    assert pasted.targets.complete
    assert (scene.image == 60).all()


def test_paste_leaves_a_full_scene_alone() -> None:
    scene = Crop(np.zeros((64, 64, 3), np.uint8), targets([[0, 0, 64, 64]]))
    face = targets([[10, 10, 30, 30]])
    assert augment.paste(np.random.default_rng(0), scene, np.zeros((40, 40, 3), np.uint8), face, 16.0) is scene


def test_stitching_places_the_quarters_and_an_incomplete_one_spoils_the_background() -> None:
    quarters = [Crop(np.full((32, 32, 3), i, np.uint8), targets([[1, 2, 11, 12]], complete=i != 3)) for i in range(4)]
    whole = augment.stitch(quarters)
    assert whole.image[0, 0, 0] == 0
    assert whole.image[0, 63, 0] == 1
    assert whole.image[63, 0, 0] == 2
    assert whole.image[63, 63, 0] == 3
    assert whole.targets.boxes[3].tolist() == [33, 34, 43, 44]
    assert not whole.targets.complete
    assert joined([q.targets for q in quarters[:3]]).complete


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_colour_and_degradation_keep_shape_and_type(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)
    for changed in (augment.colour(rng, image, 0.35), augment.degrade(rng, image)):
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8


def test_derived_boxes_cover_the_points() -> None:
    points = np.array([[40, 50], [60, 50], [50, 60], [42, 72], [58, 72]], np.float32)
    x1, y1, x2, y2 = box_from_landmarks5(points)
    assert x1 < 40
    assert x2 > 60
    assert y1 < 50
    assert y2 > 72
    many = np.stack([np.linspace(10, 50, 68), np.linspace(20, 80, 68)], 1).astype(np.float32)
    assert box_from_landmarks68(many).tolist() == pytest.approx([10, 2, 50, 80])
    assert face_box(Face()) is None


def test_grey_pictures_stay_readable_by_opencv() -> None:
    image = np.full((16, 16, 3), 90, np.uint8)
    blurred = cv2.GaussianBlur(augment.colour(np.random.default_rng(1), image, 0.0), (0, 0), 1)
    assert blurred.std() < 40
