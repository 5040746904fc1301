"""Letterbox and normalisation: hand values for the reference, and the fast paths equal to the reference bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camera_pictures import frames, random_frame, sizes, views
from edgeface.errors import InputError, OptionError
from edgeface.frames import FORMATS, Format, Frame
from edgeface.runtime import preprocess
from edgeface.runtime.kernels import library
from edgeface.runtime.preprocess import (
    PADDING,
    Letterboxed,
    letterbox,
    letterbox_planes,
    letterbox_reference,
    letterbox_signed,
    normalise,
    signed,
)
from edgeface.runtime.resampling import yuv_to_bgr

Fit = Callable[[NDArray[np.uint8], int | tuple[int, int], int], Letterboxed]

BOTH = pytest.mark.parametrize("fit", [letterbox, letterbox_reference])
# The module's fixture below does not change between examples.
FUZZ = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["C", "NumPy"], autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on the C kernel and on what replaces it."""
    if request.param == "C" and library() is None:
        pytest.skip("the C kernels are not built here")
    if request.param == "NumPy":
        monkeypatch.setattr(preprocess, "library", lambda: None)



def noise(height: int, width: int, seed: int = 0, *, extremes: bool = False) -> NDArray[np.uint8]:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (picture >> 7) * np.uint8(255) if extremes else picture


def grey(rows: list[list[int]]) -> NDArray[np.uint8]:
    return np.repeat(np.array(rows, np.uint8)[:, :, None], 3, axis=2)


def assert_equal(a: Letterboxed, b: Letterboxed) -> None:
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert (a.scale_x, a.scale_y) == (b.scale_x, b.scale_y)


side = st.integers(1, 150)
frame = st.one_of(side, st.tuples(side, side))


@FUZZ
@given(frame=frames(), size=sizes(), multiple=st.sampled_from([1, 7, 32]))
@example(frame=random_frame("bgr", 640, 480, 1), size=(320, 256), multiple=32)
@example(frame=random_frame("nv12", 640, 480, 1), size=(320, 256), multiple=32)
@example(frame=random_frame("yuyv", 640, 480, 1), size=(320, 256), multiple=32)
@example(frame=random_frame("bgr", 1280, 720, 1), size=320, multiple=32)
@example(frame=random_frame("rgb", 600, 600, 1), size=2, multiple=1)       # boxes wider than 16-bit sums hold
@example(frame=random_frame("nv12", 1200, 700, 1), size=2, multiple=1)
@example(frame=random_frame("yuyv", 2, 1, 1), size=100, multiple=32)
@example(frame=random_frame("nv12", 2, 2, 1), size=1, multiple=1)
@example(frame=random_frame("grey", 1, 1, 1), size=90, multiple=32)
def test_every_format_and_output_equals_the_reference(
    frame: Frame, size: int | tuple[int, int], multiple: int
) -> None:
    expected = letterbox_reference(frame, size, multiple)
    assert_equal(letterbox(frame, size, multiple), expected)
    for mean, scale in ((128.0, 1 / 128), (123.675, 1 / 58.395)):
        planes = letterbox_planes(frame, size, multiple, mean=mean, scale=scale)
        assert planes.x.dtype == np.float32
        assert planes.x.flags.c_contiguous
        np.testing.assert_array_equal(planes.x, normalise(expected.pixels, mean, scale))
        assert (planes.scale_x, planes.scale_y) == (expected.scale_x, expected.scale_y)
    less = letterbox_signed(frame, size, multiple)
    assert less.x.dtype == np.int8
    assert less.x.flags.c_contiguous
    np.testing.assert_array_equal(less.x, expected.pixels.astype(int) - 128)
    assert (less.scale_x, less.scale_y) == (expected.scale_x, expected.scale_y)


@FUZZ
@given(
    height=st.integers(1, 330), width=st.integers(1, 330), size=frame, seed=st.integers(0, 9), extremes=st.booleans()
)
def test_fast_path_equals_reference(
    height: int, width: int, size: int | tuple[int, int], seed: int, extremes: bool
) -> None:
    picture = noise(height, width, seed, extremes=extremes)
    assert_equal(letterbox(picture, size, 32), letterbox_reference(picture, size, 32))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (480, 640, 640), (427, 640, 640), (1080, 1920, 640), (1500, 2000, 480), (1, 70_000, 640), (40_000, 2, 32),
        (4500, 4500, 32), (3, 2, 640), (2300, 2300, 100), (719, 1281, (640, 360)),
    ],
)  # fmt: skip
def test_fast_path_equals_reference_on_whole_pictures(height: int, width: int, size: int | tuple[int, int]) -> None:
    picture = noise(height, width, extremes=True)
    assert_equal(letterbox(picture, size, 32), letterbox_reference(picture, size, 32))


@pytest.mark.parametrize("box", range(2, 12))
def test_every_box_rounds_ties_up(box: int) -> None:
    # Half of each box at v + 1 and half at v, or one more: the mean is a tie or just beside it.
    picture = np.zeros((box * 4, box * 4, 3), np.uint8)
    picture[::2] += 1
    assert_equal(letterbox(picture, 4, 1), letterbox_reference(picture, 4, 1))
    picture[box:, ::3] += 2
    assert_equal(letterbox(picture, 4, 1), letterbox_reference(picture, 4, 1))


@pytest.mark.parametrize("view", ["flipped", "rgb", "strided", "cropped", "fortran", "read-only"])
def test_views_are_read_as_numpy_sees_them(view: str) -> None:
    picture = noise(200, 300)
    views = {
        "flipped": picture[::-1, ::-1],
        "rgb": picture[:, :, ::-1],
        "strided": picture[::3, ::2],
        "cropped": picture[11:150, 7:201],
        "fortran": np.asfortranarray(picture),
        "read-only": picture.copy(),
    }
    views["read-only"].setflags(write=False)
    for size in (64, 100, 160, 500):
        expected = letterbox_reference(np.ascontiguousarray(views[view]), size, 32)
        assert_equal(letterbox(views[view], size, 32), expected)
        assert_equal(letterbox_reference(views[view], size, 32), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_views_of_every_format_are_read_as_numpy_sees_them(format: Format) -> None:
    frame = random_frame(format, 100, 60, 5)
    for size in (23, 50, 64, 160):
        expected = letterbox_reference(frame, size, 32)
        for view in views(frame).values():
            assert_equal(letterbox(Frame(view, format), size, 32), expected)
            np.testing.assert_array_equal(letterbox_signed(Frame(view, format), size, 32).x, signed(expected.pixels))


def test_a_picture_may_lie_in_memory_as_one_row_or_one_pixel_again_and_again() -> None:
    pixel = np.array([[[10, 20, 30]]], np.uint8)
    whole = np.broadcast_to(pixel, (40, 50, 3))
    assert_equal(letterbox(whole, 32, 32), letterbox_reference(np.ascontiguousarray(whole), 32, 32))
    rows = np.broadcast_to(noise(1, 50), (40, 50, 3))
    assert_equal(letterbox(rows, 32, 32), letterbox_reference(np.ascontiguousarray(rows), 32, 32))


def test_rgb_and_grey_are_the_same_picture_in_bgr() -> None:
    bgr = random_frame("bgr", 97, 61, 1).pixels
    for size in (20, 48, 64, 200):
        expected = letterbox(bgr, size, 32)
        assert_equal(letterbox(Frame(np.ascontiguousarray(bgr[:, :, ::-1]), "rgb"), size, 32), expected)
        plane = bgr[:, :, 1]
        assert_equal(letterbox(Frame(plane, "grey"), size, 32), letterbox(np.dstack([plane] * 3), size, 32))


def test_colours_are_opencvs() -> None:
    """All 2^24 colours, in rows that share U and V: at its own size, where nothing is resampled but V within U."""
    y, u = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for v in range(0, 256, 5):
        pixels = np.empty((256, 512, 2), np.uint8)
        pixels[:, :, 0] = np.repeat(y, 2, axis=1)
        pixels[:, ::2, 1], pixels[:, 1::2, 1] = u, v
        expected = cv2.cvtColor(pixels, cv2.COLOR_YUV2BGR_YUYV)[:, ::2]
        np.testing.assert_array_equal(yuv_to_bgr(y, u, np.full_like(u, v)), expected)


@pytest.mark.parametrize("size", [33, 64, 100, 128, 300])
@pytest.mark.parametrize("format", ["nv12", "yuyv"])
def test_an_even_colour_is_kept_exactly(format: Format, size: int) -> None:
    frame = random_frame(format, 128, 96, 0)
    luma, u, v = 90, 40, 220
    if format == "nv12":
        frame.pixels[:96] = luma
        frame.pixels[96:, ::2], frame.pixels[96:, 1::2] = u, v
    else:
        frame.pixels[:, :, 0] = luma
        frame.pixels[:, ::2, 1], frame.pixels[:, 1::2, 1] = u, v
    boxed = letterbox(frame, size, 1)
    expected = yuv_to_bgr(*(np.array(value, np.uint8) for value in (luma, u, v)))
    assert (boxed.pixels == expected).all()


@pytest.mark.parametrize("format", ["nv12", "yuyv"])
def test_colour_stays_where_light_is(format: Format) -> None:
    """A step in luma and the same step in chroma meet after resizing: chroma is resampled with its own geometry."""
    width, height = 256, 128
    step = np.where(np.arange(width) < 100, 60, 180).astype(np.uint8)
    plain = np.repeat(step[None], height, axis=0)
    chroma = plain[:, ::2]
    frame = random_frame(format, width, height, 0)
    if format == "nv12":
        frame.pixels[:height] = plain
        frame.pixels[height:, ::2] = frame.pixels[height:, 1::2] = chroma[::2]
    else:
        frame.pixels[:, :, 0] = plain
        frame.pixels[:, ::2, 1] = frame.pixels[:, 1::2, 1] = chroma
    for size in (32, 64, 90, 200, 500):
        pixels = letterbox(frame, size, 1).pixels.astype(int)
        edges = [int(np.abs(np.diff(pixels[size // 8, :, c])).argmax()) for c in (0, 2)]    # mostly U, mostly V
        assert all(abs(edge + 1 - 100 * size / width) <= 1 + size / width for edge in edges)


def test_a_given_array_is_used_where_it_fits_and_left_alone_where_not() -> None:
    if preprocess.library() is None:
        pytest.skip("NumPy makes new arrays")
    picture = noise(64, 64)
    for out, used in (
        (np.empty((3, 32, 32), np.float32), True),
        (np.empty((3, 32, 64), np.float32), False),
        (np.empty((3, 32, 32), np.float64), False),
        (np.empty((3, 32, 64), np.float32)[:, :, ::2], False),
    ):
        out[...] = 5
        made: Any = letterbox_planes(picture, 32, 32, mean=0, scale=1, out=out)
        assert (made.x is out) == used
        assert used or (out == 5).all()
        np.testing.assert_array_equal(made.x, normalise(letterbox_reference(picture, 32, 32).pixels, 0, 1))
    fixed = np.full((32, 32, 3), 5, np.int8)
    fixed.setflags(write=False)
    assert letterbox_signed(picture, 32, 32, out=fixed).x is not fixed
    assert (fixed == 5).all()


@BOTH
def test_longest_side_becomes_the_size_and_the_rest_is_128(fit: Fit) -> None:
    boxed = fit(np.full((427, 641, 3), 7, np.uint8), 640, 32)
    assert boxed.pixels.shape == (448, 640, 3)      # 427 * 640 / 641 = 426.3 -> 426, raised to 448
    assert (boxed.pixels[:426] == 7).all()
    assert (boxed.pixels[426:] == 128).all()
    assert boxed.scale_x == 640 / 641
    assert boxed.scale_y == 426 / 427


@BOTH
def test_a_side_that_ends_in_a_half_is_rounded_up(fit: Fit) -> None:
    boxed = fit(noise(5, 10), 5, 1)
    assert boxed.pixels.shape == (3, 5, 3)


@BOTH
def test_fixed_frame_is_filled_from_the_top_left(fit: Fit) -> None:
    boxed = fit(np.full((100, 100, 3), 9, np.uint8), (320, 200), 32)
    assert boxed.pixels.shape == (224, 320, 3)
    assert (boxed.pixels[:200, :200] == 9).all()
    assert (boxed.pixels[200:] == 128).all()
    assert (boxed.pixels[:, 200:] == 128).all()


@BOTH
def test_bilinear_by_hand(fit: Fit) -> None:
    # 2 -> 4 pixels: centres at -1/4, 1/4, 3/4, 5/4 of the source, the outer two beyond the last centres.
    boxed = fit(grey([[0, 100]]), 4, 1)
    assert boxed.pixels[:, :, 0].tolist() == [[0, 25, 75, 100]] * 2


@BOTH
def test_box_average_by_hand(fit: Fit) -> None:
    # Sums 2, 10, 5 and 1020 over 4 pixels: a mean that ends in 1/2 goes up.
    picture = grey([[0, 1, 2, 3], [1, 0, 4, 1], [2, 0, 255, 255], [1, 2, 255, 255]])
    boxed = fit(picture, 2, 1)
    assert boxed.pixels[:, :, 0].tolist() == [[1, 3], [1, 255]]


@BOTH
def test_scale_counts_only_the_pixels_that_the_boxes_cover(fit: Fit) -> None:
    boxed = fit(noise(100, 1283), 640, 32)
    assert boxed.scale_x == 640 / 1282      # boxes of 2: the last column is not seen
    assert boxed.scale_y == 50 / 100


@BOTH
@pytest.mark.parametrize(("height", "width"), [(480, 640), (1200, 1600), (97, 61), (1481, 999)])
def test_a_ramp_stays_where_it_was(fit: Fit, height: int, width: int) -> None:
    # Geometry: grey levels as coordinates. A resampler that shifts by half a pixel would show here.
    ramp = np.round(np.arange(width) * 255 / (width - 1)).astype(np.uint8)
    boxed = fit(np.repeat(np.tile(ramp, (height, 1))[:, :, None], 3, 2), 320, 32)
    box = max(1, max(height, width) // 320)
    new_w = round(boxed.scale_x * (width // box * box))
    in_original = (np.arange(new_w) + 0.5) / boxed.scale_x - 0.5
    expected = (in_original * 255 / (width - 1)).clip(0, 255)
    inner = slice(2, new_w - 2)     # at the borders the outermost pixel is repeated
    assert np.abs(boxed.pixels[0, :new_w, 0].astype(float) - expected)[inner].max() <= 1.6


@BOTH
@pytest.mark.parametrize("size", [64, (64, 64)])
def test_a_picture_is_enlarged_at_most_twofold(fit: Fit, size: int | tuple[int, int]) -> None:
    boxed = fit(np.full((3, 20, 3), 200, np.uint8), size, 32)
    assert boxed.pixels.shape == ((32, 64, 3) if size == 64 else (64, 64, 3))
    assert (boxed.pixels[:6, :40] == 200).all()
    assert (boxed.pixels[6:] == PADDING).all()
    assert (boxed.scale_x, boxed.scale_y) == (2, 2)
    assert fit(np.full((20, 33, 3), 200, np.uint8), 64, 32).scale_x == 64 / 33


@BOTH
@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint16), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(fit: Fit, picture: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="uint8"):
        fit(picture, 64, 32)


@BOTH
@pytest.mark.parametrize("size", [0, -5, (0, 10), (10, 0)])
def test_sizes_below_one_are_refused(fit: Fit, size: int | tuple[int, int]) -> None:
    with pytest.raises(OptionError, match="input size"):
        fit(noise(4, 4), size, 32)


def test_the_result_is_not_the_picture() -> None:
    picture = noise(64, 64)
    letterbox(picture, 64, 32).pixels[:] = 0
    np.testing.assert_array_equal(picture, noise(64, 64))


@BOTH
def test_sides_beyond_all_pictures_are_refused(fit: Fit) -> None:
    with pytest.raises(InputError, match="has more than 16777216 pixels a side"):
        fit(np.broadcast_to(np.uint8(0), (1, (1 << 24) + 1, 3)), 32, 32)


def test_normalise_by_hand() -> None:
    out = normalise(np.array([[[0, 64, 128], [192, 255, 1]]], np.uint8), 128.0, 1 / 128)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, [[[-1.0, 0.5]], [[-0.5, 127 / 128]], [[0.0, -127 / 128]]])


def test_normalise_rounds_each_step_to_float32() -> None:
    pixels = noise(9, 11)
    mean, scale = np.float32(123.675), np.float32(1 / 58.395)
    expected = (pixels.astype(np.float32) - mean) * scale
    np.testing.assert_array_equal(normalise(pixels, 123.675, 1 / 58.395), expected.transpose(2, 0, 1))
