"""Letterbox and normalisation: hand values for the reference, and the fast path equal to the reference bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeface.errors import InputError, OptionError
from edgeface.runtime.preprocess import Letterboxed, letterbox, letterbox_reference, normalise

Fit = Callable[[NDArray[np.uint8], int | tuple[int, int], int], Letterboxed]

BOTH = pytest.mark.parametrize("fit", [letterbox, letterbox_reference])


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


@settings(deadline=None, max_examples=300)
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
def test_one_pixel_is_enlarged(fit: Fit) -> None:
    boxed = fit(np.full((1, 1, 3), 200, np.uint8), 64, 32)
    assert boxed.pixels.shape == (64, 64, 3)
    assert (boxed.pixels == 200).all()


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
