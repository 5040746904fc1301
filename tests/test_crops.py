"""Crops: the letterbox of a padded region in every format, size and place, and squares about boxes by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camera_pictures import frames, random_frame, views
from edgeface.errors import InputError, OptionError
from edgeface.frames import FORMATS, Format, Frame
from edgeface.runtime import crops as module
from edgeface.runtime.crops import (
    MAX_SIDE_PX,
    crop_planes,
    crop_planes_reference,
    crop_signed,
    crop_signed_reference,
    crops,
    crops_reference,
    square_crops,
)
from edgeface.runtime.kernels import library
from edgeface.runtime.preprocess import letterbox, letterbox_reference, normalise, signed
from edgeface.runtime.resampling import yuv_to_bgr

# The module's fixture below does not change between examples.
FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
NORMAL = {"mean": 123.675, "scale": 1 / 58.395}


@pytest.fixture(params=["C", "NumPy"], autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on the C kernel and on what replaces it."""
    if request.param == "C" and library() is None:
        pytest.skip("the C kernels are not built here")
    if request.param == "NumPy":
        monkeypatch.setattr(module, "library", lambda: None)


def squares(*rows: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, 3)


def whole_bgr(frame: Frame) -> NDArray[np.uint8]:
    """The picture in full size by the formulas, each pixel with the chroma sample that covers it."""
    pixels, height = frame.pixels, frame.height
    if frame.format == "bgr":
        return pixels
    if frame.format == "rgb":
        return pixels[:, :, ::-1]
    if frame.format == "grey":
        return np.dstack([pixels] * 3)
    if frame.format == "nv12":
        u, v = (np.repeat(np.repeat(pixels[height:, k::2], 2, axis=0), 2, axis=1) for k in (0, 1))
        return yuv_to_bgr(pixels[:height], u, v)
    u, v = (np.repeat(pixels[:, k::2, 1], 2, axis=1) for k in (0, 1))
    return yuv_to_bgr(pixels[:, :, 0], u, v)


def region(frame: Frame, x: int, y: int, side: int) -> NDArray[np.uint8]:
    """The square of the picture, pixel by pixel as it is defined: 128 where there is no picture."""
    bgr = np.pad(whole_bgr(frame), ((side, side), (side, side), (0, 0)), constant_values=128)
    x, y = (min(max(at + side, 0), size - side) for at, size in ((x, bgr.shape[1]), (y, bgr.shape[0])))
    return bgr[y : y + side, x : x + side]


_corner = st.integers(-260, 260)


@FUZZ
@given(
    frame=frames(120), corner=st.tuples(_corner, _corner), side=st.integers(1, 250),
    size_px=st.sampled_from([1, 5, 12, 24, 48]),
)  # fmt: skip
@example(frame=random_frame("bgr", 90, 70, 1), corner=(10, 20), side=48, size_px=48)     # copied
@example(frame=random_frame("bgr", 120, 110, 1), corner=(7, 5), side=96, size_px=48)     # halved
@example(frame=random_frame("bgr", 120, 110, 1), corner=(7, 40), side=97, size_px=48)    # halved, over an edge
@example(frame=random_frame("nv12", 90, 70, 1), corner=(11, 13), side=31, size_px=24)    # from between two samples
@example(frame=random_frame("yuyv", 90, 70, 1), corner=(-3, 61), side=75, size_px=24)
@example(frame=random_frame("grey", 30, 20, 1), corner=(30, 0), side=10, size_px=24)     # just beside
@example(frame=random_frame("rgb", 1, 1, 1), corner=(-130, -120), side=250, size_px=24)
def test_a_crop_is_the_letterbox_of_its_region(frame: Frame, corner: tuple[int, int], side: int, size_px: int) -> None:
    assume(size_px <= 2 * side)         # a letterbox enlarges no further
    expected = letterbox_reference(region(frame, *corner, side), (size_px, size_px), 1).pixels
    square = squares((*corner, side))
    np.testing.assert_array_equal(crops_reference(frame, square, size_px)[0], expected)
    np.testing.assert_array_equal(crops(frame, square, size_px)[0], expected)


@FUZZ
@given(
    frame=frames(90),
    rows=st.lists(st.tuples(_corner, _corner, st.integers(1, 50) | st.integers(1, 9000)), max_size=5),
    size_px=st.sampled_from([1, 24, 48, 100]), view=st.integers(0, 5),
)  # fmt: skip
def test_strips_are_crops_one_below_the_other(
    frame: Frame, rows: list[tuple[int, int, int]], size_px: int, view: int
) -> None:
    square = squares(*rows)
    seen = Frame([frame.pixels, *views(frame).values()][view], frame.format)
    expected = crops_reference(frame, square, size_px)
    assert expected.shape == (len(rows), size_px, size_px, 3)
    found = crops(seen, square, size_px)
    np.testing.assert_array_equal(found, expected, strict=True)
    strip = expected.reshape(-1, size_px, 3)
    planes = crop_planes(seen, square, size_px, **NORMAL)
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, normalise(strip, **NORMAL), strict=True)
    np.testing.assert_array_equal(planes, crop_planes_reference(frame, square, size_px, **NORMAL), strict=True)
    less = crop_signed(seen, square, size_px)
    assert less.flags.c_contiguous
    np.testing.assert_array_equal(less, signed(strip), strict=True)
    np.testing.assert_array_equal(less, crop_signed_reference(frame, square, size_px), strict=True)


@pytest.mark.parametrize("format", FORMATS)
def test_huge_squares_cost_no_more_than_the_picture(format: Format) -> None:
    frame = random_frame(format, 100, 80, 1, extremes=True)
    far = 1 << 25
    square = squares(
        (-2850, -2500, 6200), (-40_000, -30_000, 70_000), (-8_000_000, -8_000_000, MAX_SIDE_PX),
        (far, -far, MAX_SIDE_PX), (-far, far, 1), (50, 40, MAX_SIDE_PX),
    )  # fmt: skip
    expected = crops_reference(frame, square, 24)
    np.testing.assert_array_equal(crops(frame, square, 24), expected)
    assert (expected[3:5] == 128).all()
    # Of the first square's 24 x 24 boxes of 258 x 258 pixels one holds the whole picture: the tenth's twelfth.
    total = whole_bgr(frame).sum(axis=(0, 1), dtype=int) + 128 * (258 * 258 - 100 * 80)
    np.testing.assert_array_equal(expected[0, 9, 11], (total + 258 * 258 // 2) // (258 * 258))
    expected[0, 9, 11] = 128
    assert (expected[0] == 128).all()


def test_a_square_outside_is_128_and_no_squares_are_no_crops() -> None:
    picture = random_frame("bgr", 40, 30, 1).pixels
    assert (crops(picture, squares((40, 0, 10), (-10, 0, 10), (0, -9, 9), (0, 30, 5)), 24) == 128).all()
    none = squares()
    assert crops(picture, none, 24).shape == (0, 24, 24, 3)
    assert crop_planes(picture, none, 24, **NORMAL).shape == (3, 0, 24)
    assert crop_signed(picture, none, 24).shape == (0, 24, 3)


def test_a_crop_at_its_own_size_is_the_picture() -> None:
    picture = random_frame("bgr", 100, 90, 2).pixels
    found = crops(picture, squares((13, 17, 48)), 48)[0]
    np.testing.assert_array_equal(found, picture[17:65, 13:61])
    found[:] = 0
    np.testing.assert_array_equal(picture, random_frame("bgr", 100, 90, 2).pixels)


def test_a_square_of_the_whole_picture_is_its_letterbox() -> None:
    picture = random_frame("bgr", 90, 90, 3).pixels
    np.testing.assert_array_equal(crops(picture, squares((0, 0, 90)), 24)[0], letterbox(picture, 24, 1).pixels)


def test_squares_may_lie_in_memory_in_any_way() -> None:
    picture = random_frame("bgr", 100, 90, 2).pixels
    rows = squares((1, 2, 30), (40, 30, 50), (-5, 60, 70))
    wide = np.zeros((3, 6), np.int64)
    wide[:, ::2] = rows
    for view in (np.asfortranarray(rows), wide[:, ::2], rows[::-1][::-1]):
        np.testing.assert_array_equal(crops(picture, view, 24), crops_reference(picture, rows, 24))


def test_a_given_array_is_used_where_it_fits_and_left_alone_where_not() -> None:
    if module.library() is None:
        pytest.skip("NumPy makes new arrays")
    picture, square = random_frame("bgr", 100, 90, 2).pixels, squares((1, 2, 30), (40, 30, 50))
    expected = crop_planes_reference(picture, square, 24, mean=0, scale=1)
    offered: tuple[tuple[NDArray[Any], bool], ...] = (
        (np.empty((3, 48, 24), np.float32), True),
        (np.empty((3, 72, 24), np.float32), False),
        (np.empty((3, 48, 24), np.float64), False),
        (np.empty((3, 48, 48), np.float32)[:, :, ::2], False),
    )
    for out, used in offered:
        out[...] = 5
        found = crop_planes(picture, square, 24, mean=0, scale=1, out=out)
        assert (found is out) == used
        assert used or (out == 5).all()
        np.testing.assert_array_equal(found, expected)


def test_squares_about_boxes_by_hand() -> None:
    boxes = np.array([[10, 20, 30, 50], [10, 20, 30, 50], [0, 0, 0, 0], [5, 5, 2, 1], [-9, 0, -4, 5]], np.float32)
    assert square_crops(boxes[:1], 1.0).tolist() == [[5, 20, 30]]
    assert square_crops(boxes[1:2], 1.5).tolist() == [[-2, 12, 45]]      # corners at -2.5 and 12.5, to even numbers
    assert square_crops(boxes[2:4], 1.3).tolist() == [[0, 0, 1], [3, 2, 1]]     # no sensible size: one pixel
    assert square_crops(boxes[4:], 1.0).tolist() == [[-9, 0, 5]]
    none = square_crops(np.empty((0, 4), np.float32), 1.0)
    assert (none.shape, none.dtype) == ((0, 3), np.int64)


@pytest.mark.parametrize("value", [1e6, 1e9, 1e30, 3e38])
def test_boxes_of_no_sensible_size_give_squares_that_can_be_cut(value: float) -> None:
    boxes = np.array([[-value, -value, value, value], [value, value, value, value], [0, -value, 9, 5]], np.float32)
    square = square_crops(boxes, 2.0)
    picture = random_frame("bgr", 40, 30, 1).pixels
    np.testing.assert_array_equal(crops(picture, square, 12), crops_reference(picture, square, 12))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_boxes_that_are_not_finite_are_named(value: float) -> None:
    boxes = np.array([[0, 0, 5, 5], [0, value, 5, 5]], np.float32)
    with pytest.raises(FloatingPointError, match="a box is not finite"):
        square_crops(boxes, 1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 4), np.int64), np.zeros(3, np.int64), np.ones((1, 3), np.int32), np.ones((1, 3)),
        squares((0, 0, 0)), squares((0, 0, -5)), squares((0, 0, MAX_SIDE_PX + 1)), squares(((1 << 25) + 1, 0, 1)),
        squares((0, -(1 << 62), 1)), squares((0, -(1 << 63), 1)), squares((1, 1, 1), (0, 0, (1 << 62) + 5)),
    ],
)  # fmt: skip
def test_other_squares_are_refused(wrong: NDArray[np.int64]) -> None:
    picture = random_frame("bgr", 40, 30, 1).pixels
    for cut in (crops, crops_reference, crop_signed):
        with pytest.raises(InputError, match="squares"):
            cut(picture, wrong, 24)


@pytest.mark.parametrize("size_px", [0, -1, 4097])
def test_other_sizes_are_refused(size_px: int) -> None:
    with pytest.raises(OptionError, match="crops of"):
        crops(random_frame("bgr", 40, 30, 1).pixels, squares((0, 0, 5)), size_px)


def test_other_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        crops(np.zeros((4, 4), np.uint8), squares((0, 0, 5)), 24)
