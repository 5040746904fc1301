"""The levels of an image pyramid on their canvas."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.errors import OptionError
from edgeface.runtime.preprocess import PADDING, letterbox
from edgeface.runtime.pyramid import canvas_planes, canvas_signed, plan


@pytest.mark.parametrize("size", [(640, 480), (200, 333), (90, 700)])
@pytest.mark.parametrize("face_px", [12.0, 20.0, 47.5])
def test_levels_lie_apart_at_whole_strides(size: tuple[int, int], face_px: float) -> None:
    canvas = plan(*size, 12, 2, 0.7071, face_px)
    for level in canvas.levels:
        assert level.x % 2 == level.y % 2 == 0
        assert min(level.w, level.h) >= 12
        assert level.x + level.w <= canvas.width
        assert level.y + level.h <= canvas.height
    for a, b in combinations(canvas.levels, 2):
        assert a.x + a.w <= b.x or b.x + b.w <= a.x or a.y + a.h <= b.y or b.y + b.h <= a.y
    areas = [level.w * level.h for level in canvas.levels]
    assert areas == sorted(areas, reverse=True)


def test_a_level_is_the_picture_at_its_size_and_the_rest_is_padding(astronaut: NDArray[np.uint8]) -> None:
    canvas = plan(512, 512, 12, 2, 0.7071, 40)
    pixels = canvas_signed(astronaut, canvas).astype(np.int16) + 128
    rest = np.ones(pixels.shape[:2], bool)
    for level in canvas.levels:
        expected = letterbox(astronaut, (level.w, level.h), 1).pixels
        part = np.s_[level.y : level.y + level.h, level.x : level.x + level.w]
        np.testing.assert_array_equal(pixels[part], expected)
        rest[part] = False
    assert (pixels[rest] == PADDING).all()
    planes = canvas_planes(astronaut, canvas, mean=128.0, scale=1 / 128)
    np.testing.assert_array_equal(planes * 128 + 128, pixels.transpose(2, 0, 1))


def test_a_pyramid_that_cannot_work_is_refused() -> None:
    for wrong in ((640, 480, 12, 2, 1.0, 20.0), (640, 480, 12, 2, 0.7, 0.0), (8000, 8000, 12, 2, 0.7, 0.5)):
        with pytest.raises(OptionError):
            plan(*wrong)
