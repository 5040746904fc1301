"""Frames: what cameras give, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeface.errors import InputError
from edgeface.frames import FORMATS, Format, Frame, as_frame


@pytest.mark.parametrize(
    ("format", "shape"),
    [("bgr", (6, 8, 3)), ("rgb", (6, 8, 3)), ("grey", (6, 8)), ("nv12", (9, 8)), ("yuyv", (6, 8, 2))],
)
def test_sides_are_those_of_the_picture(format: Format, shape: tuple[int, ...]) -> None:
    frame = Frame(np.zeros(shape, np.uint8), format)
    assert (frame.width, frame.height) == (8, 6)
    assert as_frame(frame) is frame


@pytest.mark.parametrize(
    ("format", "shape"),
    [
        ("bgr", (6, 8)), ("bgr", (6, 8, 4)), ("bgr", (0, 8, 3)), ("rgb", (6, 8, 1)), ("grey", (6, 8, 1)),
        ("grey", (6, 0)), ("nv12", (8, 8)), ("nv12", (9, 7)), ("nv12", (9, 8, 3)), ("nv12", (0, 8)),
        ("yuyv", (6, 7, 2)), ("yuyv", (6, 8)), ("yuyv", (6, 8, 3)), ("yuyv", (6, 0, 2)),
    ],
)  # fmt: skip
def test_other_shapes_are_refused(format: Format, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=rf"must be uint8 .* in {format.upper()}.*, not uint8 .*: convert it first"):
        Frame(np.zeros(shape, np.uint8), format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.float32, bool])
def test_other_numbers_are_refused(format: Format, dtype: Any) -> None:
    shape = {"grey": (6, 8), "nv12": (9, 8), "yuyv": (6, 8, 2)}.get(format, (6, 8, 3))
    with pytest.raises(InputError, match="must be uint8"):
        Frame(np.zeros(shape, dtype), format)


def test_what_is_no_array_or_format_is_named() -> None:
    with pytest.raises(InputError, match=r"a picture must be uint8 .*, not list"):
        Frame([[1, 2]], "grey")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InputError, match=r"a picture must be uint8 .*, not str"):
        as_frame("photo.jpg")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InputError, match="no pixel format 'i420': choose bgr, rgb, grey, nv12, yuyv"):
        Frame(np.zeros((9, 8), np.uint8), "i420")  # type: ignore[arg-type]  # wrong on purpose
