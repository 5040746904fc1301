"""Every kernel through its Python door on random arguments: the body of test_kernels_sanitized.py.

Run as a script it fuzzes with whatever library EDGEFACE_KERNELS names, and says which that was; with ``avx2`` those
kernels alone that have a form in AVX2. Results are compared with the references too, but what a sanitized build is run
for is that nothing is read or written out of bounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, is_hypothesis_test, settings
from hypothesis import strategies as st

import test_kernels_decoding as decoding
from camera_pictures import frames, sizes, views
from edgeface.errors import InputError
from edgeface.frames import FORMATS, Frame
from edgeface.runtime.align import align, align_reference
from edgeface.runtime.crops import (
    MAX_SIDE_PX,
    crop_planes,
    crop_planes_reference,
    crop_signed,
    crops,
    crops_reference,
)
from edgeface.runtime.kernels import library, mark_begin, mark_end, status
from edgeface.runtime.kernels.arrays import address
from edgeface.runtime.preprocess import (
    letterbox,
    letterbox_planes,
    letterbox_reference,
    letterbox_signed,
    normalise,
    signed,
)
from edgeface.runtime.pyramid import canvas_planes, canvas_reference, canvas_signed, plan

FUZZ: list[Callable[[], None]] = []
fuzz = settings(deadline=None, max_examples=150, database=None, derandomize=True)


def fuzzed(test: Callable[[], None]) -> Callable[[], None]:
    """Adds a function to those that the script calls."""
    FUZZ.append(test)
    return test


@fuzzed
@fuzz
@given(frame=frames(90), size=sizes(80), multiple=st.sampled_from([1, 5, 32]), view=st.integers(0, 5))
def letterboxes(frame: Frame, size: int | tuple[int, int], multiple: int, view: int) -> None:
    expected = letterbox_reference(frame, size, multiple).pixels
    seen = Frame([frame.pixels, *views(frame).values()][view], frame.format)
    np.testing.assert_array_equal(letterbox(seen, size, multiple).pixels, expected)
    np.testing.assert_array_equal(letterbox_signed(seen, size, multiple).x, signed(expected))
    planes = letterbox_planes(seen, size, multiple, mean=128.0, scale=1 / 128)
    np.testing.assert_array_equal(planes.x, normalise(expected, 128.0, 1 / 128))


_small = st.integers(-1, 40)
_SIDE = st.one_of(st.integers(1, 40), _small)


@fuzzed
@fuzz
@given(
    format=st.integers(-1, 5), sides=st.lists(_SIDE, min_size=8, max_size=8), frame=st.tuples(_small, _small),
    output=st.integers(-1, 3), missing=st.integers(0, 3), wider=st.integers(-1, 3),
)  # fmt: skip
def letterboxes_of_numbers_that_may_not_fit(
    format: int, sides: list[int], frame: tuple[int, int], output: int, missing: int, wider: int
) -> None:
    """The kernel's own check: it refuses what does not fit, and stays inside arrays of the sizes it was told."""
    kernels: Any = library()
    width, height, *_, new_w, new_h = sides
    channels = {"bgr": 3, "rgb": 3, "yuyv": 2}.get(FORMATS[format], 1) if 0 <= format < len(FORMATS) else 3
    step = max(1, width * channels)
    first = np.zeros(step * max(1, height), np.uint8)
    second = np.zeros(step * max(1, height // 2), np.uint8)
    needed = kernels.ef_letterbox_scratch(format, *sides)
    scratch = np.empty(max(1, needed - (missing == 1)), np.uint8)
    frame_w, frame_h = (new_w + frame[0], new_h + frame[1])
    # As a part of an array: its last row ends where the part does.
    pixels = (frame_w + wider) * (frame_h - 1) + frame_w if output else (frame_w + wider) * frame_h
    out = np.empty(max(1, pixels) * (3 if output else 12), np.uint8)
    result = kernels.ef_letterbox(
        format, address(first) if missing != 2 else None, step, address(second) if missing != 3 else None, step, *sides,
        output, address(out), frame_w + wider, (frame_w + wider) * frame_h, frame_w, frame_h, 1.0, 1.0,
        address(scratch), scratch.size,
    )  # fmt: skip
    assert result in (0, -1)
    if needed < 0 or missing in (1, 2) or min(*frame, wider) < 0 or output not in (0, 1, 2):
        assert result == -1


_CORNER = st.integers(-150, 150) | st.integers(-(1 << 25), 1 << 25)
_SQUARE = st.tuples(_CORNER, _CORNER, st.integers(1, 60) | st.integers(1, 400) | st.integers(1, MAX_SIDE_PX))


@fuzzed
@fuzz
@given(
    frame=frames(90), corners=st.lists(_SQUARE, max_size=4), size_px=st.sampled_from([1, 2, 7, 24, 48, 65]),
    view=st.integers(0, 5),
)  # fmt: skip
def squares_of_pictures(frame: Frame, corners: list[tuple[int, int, int]], size_px: int, view: int) -> None:
    squares = np.array(corners, np.int64).reshape(-1, 3)
    seen = Frame([frame.pixels, *views(frame).values()][view], frame.format)
    expected = crops_reference(frame, squares, size_px)
    np.testing.assert_array_equal(crops(seen, squares, size_px), expected)
    less = crop_signed(seen, squares, size_px)
    np.testing.assert_array_equal(less, signed(expected).reshape(less.shape))
    np.testing.assert_array_equal(
        crop_planes(seen, squares, size_px, mean=123.675, scale=1 / 58.395),
        crop_planes_reference(frame, squares, size_px, mean=123.675, scale=1 / 58.395),
    )


@fuzzed
@fuzz
@given(
    format=st.integers(-1, 5), sides=st.tuples(_SIDE, _SIDE), size=_small, count=st.integers(-1, 3),
    square=st.tuples(*[st.integers(-40, 40) | st.integers(-(1 << 62), 1 << 62)] * 3), output=st.integers(-1, 3),
    missing=st.integers(0, 5),
)  # fmt: skip
def squares_of_numbers_that_may_not_fit(
    format: int, sides: tuple[int, int], size: int, count: int, square: tuple[int, int, int], output: int, missing: int
) -> None:
    kernels: Any = library()
    width, height = sides
    channels = {"bgr": 3, "rgb": 3, "yuyv": 2}.get(FORMATS[format], 1) if 0 <= format < len(FORMATS) else 3
    step = max(1, width * channels)
    first, second = np.zeros(step * max(1, height), np.uint8), np.zeros(step * max(1, height // 2), np.uint8)
    squares = np.array([[0, 0, 5]] * (max(count, 1) - 1) + [square], np.int64)
    needed = kernels.ef_crops_scratch(format, width, height, size)
    scratch = np.empty(max(1, needed - (missing == 1)), np.uint8)
    out = np.empty(max(1, count) * max(1, size) ** 2 * (3 if output else 12), np.uint8)
    result = kernels.ef_crops(
        format, address(first) if missing != 2 else None, step, address(second) if missing != 3 else None, step, width,
        height, address(squares) if missing != 4 else None, count, size, output,
        address(out) if missing != 5 else None, 1.0, 1.0, address(scratch), scratch.size,
    )  # fmt: skip
    assert result in (0, -1)
    x, y, side = square
    sound = max(abs(x), abs(y)) <= 1 << 25 and 1 <= side <= MAX_SIDE_PX
    if needed < 0 or missing in (1, 2, 4, 5) or count < 0 or output not in (0, 1, 2) or (count > 0 and not sound):
        assert result == -1


@fuzzed
@fuzz
@given(
    frame=frames(120), cell_px=st.sampled_from([1, 12, 24]), stride=st.sampled_from([1, 2, 4]),
    factor=st.floats(0.2, 0.9), face_px=st.floats(4, 60), view=st.integers(0, 5),
)  # fmt: skip
def canvases(frame: Frame, cell_px: int, stride: int, factor: float, face_px: float, view: int) -> None:
    canvas = plan(frame.width, frame.height, cell_px, stride, factor, face_px)
    seen = Frame([frame.pixels, *views(frame).values()][view], frame.format)
    expected = canvas_reference(frame, canvas)
    np.testing.assert_array_equal(canvas_signed(seen, canvas), signed(expected))
    planes = canvas_planes(seen, canvas, mean=123.675, scale=1 / 58.395)
    np.testing.assert_array_equal(planes, normalise(expected, 123.675, 1 / 58.395))


_POINT = st.tuples(*[st.floats(-200, 300) | st.floats(-1e7, 1e7) | st.floats()] * 2)


@fuzzed
@fuzz
@given(
    frame=frames(60), faces=st.lists(st.lists(_POINT, min_size=5, max_size=5), max_size=3),
    size_px=st.sampled_from([1, 3, 16, 112]), view=st.integers(0, 5),
)  # fmt: skip
def alignments(frame: Frame, faces: list[list[tuple[float, float]]], size_px: int, view: int) -> None:
    landmarks = np.array(faces, float).reshape(-1, 5, 2)
    seen = Frame([frame.pixels, *views(frame).values()][view], frame.format)
    try:
        expected = align_reference(frame, landmarks, size_px=size_px)
    except InputError:
        return
    np.testing.assert_array_equal(align(seen, landmarks, size_px=size_px), expected)


@fuzzed
@fuzz
@given(
    maps=st.lists(st.integers(-(1 << 45), 1 << 45) | st.integers(-(1 << 18), 1 << 18), min_size=12, max_size=12),
    format=st.integers(-1, 5), sides=st.tuples(_SIDE, _SIDE), size=_small,
)  # fmt: skip
def alignments_of_numbers_that_may_not_fit(maps: list[int], format: int, sides: tuple[int, int], size: int) -> None:
    kernels: Any = library()
    width, height = sides
    step = max(1, width * 3)
    pixels = np.zeros(step * max(1, height), np.uint8)
    numbers = np.array(maps, np.int64)
    out = np.empty(max(1, size) ** 2 * 3, np.uint8)
    first = address(pixels)
    result = kernels.ef_align(format, first, step, first, step, width, height, address(numbers), 1, size, address(out))
    assert result in (0, -1)
    if size < 1 or max(abs(n) for n in maps) >= 1 << 44 or not 0 <= format < len(FORMATS) or min(sides) < 1:
        assert result == -1


@fuzzed
def marks() -> None:
    mark_begin()
    mark_end()


# Those that have a form in AVX2.
WITH_AVX2 = [
    letterboxes, letterboxes_of_numbers_that_may_not_fit, squares_of_pictures, squares_of_numbers_that_may_not_fit,
    canvases,
]
# Many, and each of few numbers.
FUZZ += [settings(fuzz, max_examples=50)(test) for test in vars(decoding).values() if is_hypothesis_test(test)]


def overrun() -> None:
    """Tells the kernel of a larger output than there is: a sanitized library must end the process."""
    kernels: Any = library()
    pixels = np.zeros((64, 64, 3), np.uint8)
    sides = (64, 64, 1, 1, 1, 1, 64, 64)
    scratch = np.empty(kernels.ef_letterbox_scratch(0, *sides), np.uint8)
    out = np.empty(3 * 64 * 63, np.uint8)
    kernels.ef_letterbox(
        0, address(pixels), 192, None, 0, *sides, 2, address(out), 64, 64 * 64, 64, 64, 0.0, 1.0, address(scratch),
        scratch.size,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["overrun"]:
        overrun()
    else:
        chosen = WITH_AVX2 if sys.argv[1:] == ["avx2"] else FUZZ
        for test in chosen:
            test()
        sys.stdout.write(f"{len(chosen)} kernels, {status().text}\n")
