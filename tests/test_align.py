"""Faces turned upright: the transform against least squares, the warp against OpenCV's, the kernel against NumPy."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camera_pictures import frames, random_frame, views
from edgeface.errors import InputError, OptionError
from edgeface.frames import FORMATS, Format, Frame
from edgeface.runtime import align as align_module
from edgeface.runtime.align import SIZE_PX, TEMPLATE, align, align_reference, similarity
from edgeface.runtime.kernels import library

Points = NDArray[np.float64]


@pytest.fixture(params=["C", "NumPy"], autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on the C kernel and on what replaces it."""
    if request.param == "C" and library() is None:
        pytest.skip("the C kernels are not built here")
    if request.param == "NumPy":
        monkeypatch.setattr(align_module, "library", lambda: None)


def placed(x: float, y: float, scale: float, degrees: float) -> Points:
    """A face (5, 2) as the template has it, at another place, size and turn."""
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees))) * scale
    points = (TEMPLATE + 0.5) @ np.array([1, 1j]) * turn + complex(x, y)
    return np.stack((points.real, points.imag), axis=1)


faces = st.lists(
    st.builds(
        placed, st.floats(-300, 300), st.floats(-300, 300), st.floats(0.01, 20), st.floats(-180, 180)
    ),
    max_size=3,
)  # fmt: skip


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=frames(120), found=faces, size_px=st.sampled_from([1, 2, 7, 40, 112]))
@example(frame=random_frame("nv12", 2, 2, 1), found=[placed(-50, -50, 1, 0)], size_px=112)
@example(frame=random_frame("bgr", 112, 112, 1), found=[placed(0, 0, 1, 0)], size_px=112)
def test_the_crops_equal_the_references(frame: Frame, found: list[Points], size_px: int) -> None:
    landmarks = np.array(found).reshape(-1, 5, 2)
    crops = align(frame, landmarks, size_px=size_px)
    assert crops.shape == (len(found), size_px, size_px, 3)
    assert crops.dtype == np.uint8
    np.testing.assert_array_equal(crops, align_reference(frame, landmarks, size_px=size_px))


@pytest.mark.parametrize("format", FORMATS)
def test_views_are_read_as_numpy_sees_them(format: Format) -> None:
    frame = random_frame(format, 100, 60, 5)
    landmarks = np.stack((placed(10, -20, 0.8, 20), placed(40, 3, 0.2, -100)))
    for view in views(frame).values():
        np.testing.assert_array_equal(align(Frame(view, format), landmarks), align_reference(frame, landmarks))


def test_a_face_that_lies_as_the_template_is_cut_out_as_it_is() -> None:
    picture = random_frame("bgr", 200, 160, 0).pixels
    crops = align(picture, placed(30, 20, 1, 0)[None])
    np.testing.assert_array_equal(crops[0], picture[20:132, 30:142])
    crops = align(picture, placed(-100, 0, 1, 0)[None])
    np.testing.assert_array_equal(crops[0, :, 100:], picture[:112, :12])
    assert (crops[0, :, :100] == 0).all()


def test_a_quarter_turn_by_hand() -> None:
    # The face's right is the picture's down.
    picture = random_frame("bgr", 200, 200, 0).pixels
    crops = align(picture, placed(150, 20, 1, 90)[None])
    np.testing.assert_array_equal(crops[0], np.rot90(picture[20:132, 38:150]))


@pytest.mark.parametrize("format", ["nv12", "yuyv"])
def test_outside_is_black_in_every_format(format: Format) -> None:
    crops = align(random_frame(format, 20, 20, 0), placed(500, 500, 1, 30)[None])
    assert (crops == 0).all()


def test_the_transform_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = placed(*rng.uniform(-100, 100, 2), rng.uniform(0.2, 5), rng.uniform(-180, 180))
        points += rng.normal(0, 8, (5, 2))
        # x' = a x - b y + c, y' = b x + a y + d, solved as ten equations.
        rows = []
        for x, y in points:
            rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        a, b, c, d = np.linalg.lstsq(np.array(rows), (TEMPLATE + 0.5).ravel(), rcond=None)[0]
        np.testing.assert_allclose(similarity(points[None])[0], [[a, -b, c], [b, a, d]], rtol=1e-9, atol=1e-9)


def test_the_transform_brings_points_to_their_places_at_every_size() -> None:
    points = placed(77, -5, 2.5, 33)
    for size_px in (56, SIZE_PX, 224):
        (transform,) = similarity(points[None], size_px=size_px)
        brought = points @ transform[:, :2].T + transform[:, 2]
        np.testing.assert_allclose(brought, (TEMPLATE + 0.5) * size_px / SIZE_PX, atol=1e-9)


@pytest.mark.parametrize(("scale", "degrees"), [(1.7, 0), (0.6, 25), (2.5, -140)])
def test_the_warp_is_opencvs_within_a_level(astronaut: NDArray[np.uint8], scale: float, degrees: float) -> None:
    points = placed(200, 60, scale, degrees)
    (m,) = similarity(points[None])
    m[:, 2] += m[:, :2] @ [0.5, 0.5] - 0.5      # OpenCV counts from pixels' centres
    expected = cv2.warpAffine(astronaut, m, (SIZE_PX, SIZE_PX), flags=cv2.INTER_LINEAR)
    apart = np.abs(align(astronaut, points[None])[0].astype(int) - expected)
    assert apart.max() <= 8     # OpenCV's places are rounded to 32nds of a pixel
    assert apart.mean() < 0.6


def test_formats_agree_on_a_smooth_picture() -> None:
    y, x = np.mgrid[:128, :160]
    light = (40 + x * 0.6 + y * 0.5).astype(np.uint8)
    landmarks = placed(40, 5, 0.8, 15)[None]
    grey = align(Frame(light, "grey"), landmarks).astype(float)
    np.testing.assert_array_equal(align(np.dstack([light] * 3), landmarks), grey)
    colourless = np.full((128, 160), 128, np.uint8)
    limited = np.rint(light.astype(float) * 219 / 255 + 16).astype(np.uint8)
    for frame in (
        Frame(np.concatenate((limited, colourless[:64])), "nv12"), Frame(np.dstack((limited, colourless)), "yuyv"),
    ):  # fmt: skip
        assert np.abs(align(frame, landmarks) - grey).max() <= 2


def test_68_points_are_turned_by_their_five() -> None:
    five = placed(90, 70, 1.2, 20)
    many = np.zeros((1, 68, 2))
    many[0, 36:42], many[0, 42:48], many[0, [30, 48, 54]] = five[0], five[1], five[2:]
    frame = random_frame("bgr", 240, 200, 0)
    np.testing.assert_allclose(similarity(many), similarity(five[None]), rtol=1e-5, atol=1e-4)
    assert np.abs(align(frame, many).astype(int) - align(frame, five[None])).mean() < 0.2


def test_no_face_is_no_crop() -> None:
    assert align(np.zeros((8, 8, 3), np.uint8), np.empty((0, 5, 2), np.float32)).shape == (0, SIZE_PX, SIZE_PX, 3)


@pytest.mark.parametrize(
    ("landmarks", "why"),
    [
        (np.zeros((5, 2)), r"must be \(N, 5, 2\) or \(N, 68, 2\), not \(5, 2\)"),
        (np.zeros((1, 4, 2)), r"must be \(N, 5, 2\)"),
        (np.stack((placed(0, 0, 1, 0), np.full((5, 2), np.nan))), "face 1 are not finite"),
        (np.full((1, 5, 2), np.inf), "face 0 are not finite"),
        (np.full((1, 5, 2), 30.0), "face 0 are all in one place"),
        (placed(1e12, 0, 1, 0)[None], "face 0 lie too far off"),
        (placed(0, 0, 1e12, 0)[None], "face 0 .*"),
    ],
)
def test_landmarks_of_no_face_are_refused(landmarks: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        align(np.zeros((8, 8, 3), np.uint8), landmarks)


@pytest.mark.parametrize("size_px", [0, -1, 4097])
def test_sizes_that_cannot_work_are_refused(size_px: int) -> None:
    with pytest.raises(OptionError, match="cannot work: choose 1 to 4096"):
        align(np.zeros((8, 8, 3), np.uint8), np.empty((0, 5, 2)), size_px=size_px)
