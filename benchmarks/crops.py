"""Crops, and image pyramids, by the C kernels against NumPy and OpenCV, one thread each, call by call in turns.

    python benchmarks/crops.py                     # medians of 100 calls each
    python benchmarks/crops.py --format nv12 --calls 1000

A call cuts 64 squares out of a picture of 640x480, as a cascade does for its later nets: of 0.6 to 1 times, 1 to 2
times, 2 to 3 times and 4 to 8 times the crop's side, a tenth of them over the picture's edge. Both ways give what a net
takes, with the same bits, which is checked first: normalised float32 planes, or int8 pixels. The kernels write into an
array of an earlier call, as the detector has them do; NumPy and OpenCV make new ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any
from unittest.mock import patch

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.frames import FORMATS, Format, Frame
from edgeface.runtime import crops, kernels, pyramid

WIDTH, HEIGHT = 640, 480
COUNT = 64
SIZES_PX = (24, 48)
TIMES: tuple[tuple[float, float], ...] = ((0.6, 1), (1, 2), (2, 3), (4, 8))
SMALLEST_PX = (20, 40, 80)      # faces of a pyramid's largest level

Array = NDArray[Any]
Prepare = Callable[..., Array]


def noise(format: Format) -> Frame:
    """Random pixels; no step takes another time for others."""
    shapes = {"grey": (HEIGHT, WIDTH), "nv12": (HEIGHT * 3 // 2, WIDTH), "yuyv": (HEIGHT, WIDTH, 2)}
    shape = shapes.get(format, (HEIGHT, WIDTH, 3))
    return Frame(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), format)


def squares(size_px: int, times: tuple[float, float]) -> NDArray[np.int64]:
    """COUNT squares with sides of a range of ``times`` the crop's; every tenth reaches over the right edge."""
    rng = np.random.default_rng(1)
    side = rng.integers(int(times[0] * size_px), int(times[1] * size_px) + 1, COUNT)
    x, y = rng.integers(0, WIDTH - side), rng.integers(0, HEIGHT - side)
    x[::10] = WIDTH - side[::10] // 2
    return np.stack((x, y, side), axis=1)


def compare(prepare: Prepare, calls: int) -> tuple[float, float]:
    """Median ms of NumPy and OpenCV, and of the kernel; exits when they do not give the same."""
    out = prepare()
    slow_ns, fast_ns = [], []
    for _ in range(calls):
        with patch.object(crops, "library", lambda: None), patch.object(pyramid, "library", lambda: None):
            start = perf_counter_ns()
            expected = prepare()
            slow_ns.append(perf_counter_ns() - start)
        start = perf_counter_ns()
        prepare(out=out)
        fast_ns.append(perf_counter_ns() - start)
    if not np.array_equal(out, expected):
        sys.exit("the results differ")
    return float(np.median(slow_ns)) / 1e6, float(np.median(fast_ns)) / 1e6


def show(name: str, prepare: Prepare, calls: int, each: int, unit: str) -> None:
    """A line of the table, times divided by ``each``."""
    slow_ms, fast_ms = compare(prepare, calls)
    times = 1e3 if unit == "us" else 1
    click.echo(
        f"{name:38} {slow_ms * times / each:8.2f} {fast_ms * times / each:8.2f} {unit} {slow_ms / fast_ms:6.1f} times"
    )


@click.command()
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="One or more; all without it.")
@click.option("--calls", default=100, show_default=True, type=click.IntRange(1), help="Of each path, in turns.")
def main(formats: tuple[Format, ...], calls: int) -> None:
    """Print the table: us a crop, and ms a canvas."""
    if not kernels.status().used:
        sys.exit(kernels.status().text)
    cv2.setNumThreads(1)
    normal = {"mean": 128.0, "scale": 1 / 128}
    click.echo(f"{'':33}{'NumPy, OpenCV':>14} {'C':>8}")
    for format in formats or FORMATS:
        frame = noise(format)
        for size_px in SIZES_PX:
            for times in TIMES:
                cut = (frame, squares(size_px, times), size_px)
                name = f"{format} crop {size_px}, sides x {times[0]:g} to {times[1]:g}"
                show(f"{name:30} planes", partial(crops.crop_planes, *cut, **normal), calls, COUNT, "us")
                show(f"{name:30} int8", partial(crops.crop_signed, *cut), calls, COUNT, "us")
        for face_px in SMALLEST_PX:
            plan = pyramid.plan(WIDTH, HEIGHT, 12, 2, 0.7071, face_px)
            name = f"{format} canvas, faces from {face_px}"
            show(f"{name:30} planes", partial(pyramid.canvas_planes, frame, plan, **normal), calls, 1, "ms")
            show(f"{name:30} int8", partial(pyramid.canvas_signed, frame, plan), calls, 1, "ms")


if __name__ == "__main__":
    main()
