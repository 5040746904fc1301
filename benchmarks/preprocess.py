"""Preprocessing by the C kernel against NumPy and OpenCV, one thread each, call by call in turns.

    python benchmarks/preprocess.py                     # medians in ms of 200 calls each
    python benchmarks/preprocess.py --format nv12 --calls 1000

Both give what a net takes, with the same bits, which is checked first: normalised float32 planes, or int8 pixels. The
kernel writes into an array of an earlier call, as the detector has it do; NumPy and OpenCV make new ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from unittest.mock import patch

import click
import cv2
import numpy as np

from edgeface.frames import FORMATS, Format, Frame
from edgeface.runtime import kernels, preprocess
from edgeface.runtime.preprocess import NetInput, letterbox_planes, letterbox_signed

MULTIPLE = 32
CASES: tuple[tuple[int, int, int | tuple[int, int]], ...] = (
    (640, 480, (320, 256)), (640, 480, 640), (1280, 720, 320), (1920, 1080, 640), (1280, 960, 512), (854, 640, 640),
    (320, 240, 640),
)  # fmt: skip

Prepare = Callable[..., NetInput]


def noise(format: Format, width: int, height: int) -> Frame:
    """Random pixels; no step takes another time for others."""
    shapes = {"grey": (height, width), "nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}
    shape = shapes.get(format, (height, width, 3))
    return Frame(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), format)


def compare(frame: Frame, size: int | tuple[int, int], prepare: Prepare, calls: int) -> tuple[float, float]:
    """Median ms of NumPy and OpenCV, and of the kernel; exits when they do not give the same."""
    out = prepare(frame, size, MULTIPLE).x
    slow_ns, fast_ns = [], []
    for _ in range(calls):
        with patch.object(preprocess, "library", lambda: None):
            start = perf_counter_ns()
            expected = prepare(frame, size, MULTIPLE)
            slow_ns.append(perf_counter_ns() - start)
        start = perf_counter_ns()
        prepare(frame, size, MULTIPLE, out=out)
        fast_ns.append(perf_counter_ns() - start)
    if not np.array_equal(out, expected.x):
        sys.exit(f"{frame.format} {frame.width} x {frame.height} at {size}: the results differ")
    return float(np.median(slow_ns)) / 1e6, float(np.median(fast_ns)) / 1e6


@click.command()
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="One or more; all without it.")
@click.option("--calls", default=200, show_default=True, type=click.IntRange(1), help="Of each path, in turns.")
def main(formats: tuple[Format, ...], calls: int) -> None:
    """Print the table."""
    if not kernels.status().used:
        sys.exit(kernels.status().text)
    cv2.setNumThreads(1)
    outputs = {"planes": partial(letterbox_planes, mean=128.0, scale=1 / 128), "int8": letterbox_signed}
    click.echo(f"{'':27}{'NumPy, OpenCV':>14} {'C':>8}")
    for format in formats or FORMATS:
        for width, height, size in CASES:
            frame = noise(format, width, height)
            for output, prepare in outputs.items():
                slow_ms, fast_ms = compare(frame, size, prepare, calls)
                target = "x".join(map(str, size)) if isinstance(size, tuple) else str(size)
                name = f"{format} {width}x{height} to {target}"
                click.echo(f"{name:25} {output:6} {slow_ms:8.3f} {fast_ms:8.3f} ms {slow_ms / fast_ms:6.1f} times")


if __name__ == "__main__":
    main()
