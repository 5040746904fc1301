"""Random pictures in every format that a camera gives, and views of them, for tests of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeface.frames import FORMATS, Format, Frame


def random_frame(format: Format, width: int, height: int, seed: int, *, extremes: bool = False) -> Frame:
    """Noise; with ``extremes`` only 0 and 255. Sides are raised to even numbers where the format needs them."""
    width += width % 2 if format in ("nv12", "yuyv") else 0
    height += height % 2 if format == "nv12" else 0
    shape: dict[Format, tuple[int, ...]] = {
        "bgr": (height, width, 3), "rgb": (height, width, 3), "grey": (height, width),
        "nv12": (height * 3 // 2, width), "yuyv": (height, width, 2),
    }  # fmt: skip
    pixels = np.random.default_rng(seed).integers(0, 256, shape[format], dtype=np.uint8)
    return Frame((pixels >> 7) * np.uint8(255) if extremes else pixels, format)


def views(frame: Frame) -> dict[str, NDArray[np.uint8]]:
    """The same pixels as arrays that lie in memory in other ways."""
    pixels = frame.pixels
    wide = np.zeros((pixels.shape[0], pixels.shape[1] + 10, *pixels.shape[2:]), np.uint8)
    wide[:, 3:-7] = pixels
    upside_down = pixels[::-1].copy()
    sparse = np.zeros((pixels.shape[0], pixels.shape[1] * 2, *pixels.shape[2:]), np.uint8)
    sparse[:, ::2] = pixels
    read_only = pixels.copy()
    read_only.setflags(write=False)
    return {
        "crop": wide[:, 3:-7], "upside down": upside_down[::-1], "sparse": sparse[:, ::2],
        "fortran": np.asfortranarray(pixels), "read-only": read_only,
    }  # fmt: skip


def frames(largest_px: int = 200) -> st.SearchStrategy[Frame]:
    side = st.integers(1, largest_px)
    return st.builds(
        lambda format, width, height, seed, extremes: random_frame(format, width, height, seed, extremes=extremes),
        st.sampled_from(FORMATS), side, side, st.integers(0, 99), st.booleans(),
    )  # fmt: skip


def sizes(largest_px: int = 150) -> st.SearchStrategy[Any]:
    side = st.integers(1, largest_px)
    return st.one_of(side, st.tuples(side, side))
