"""All that follows the network in C against NumPy, call by call in turns, on real pictures.

    python benchmarks/decode.py ../shared/data                       # medians in ms over 40 pictures of wider, dev
    python benchmarks/decode.py ../shared/data --model mos_s-int8-tflite --pictures 100

Threshold, boxes, suppression, landmarks, patches for the pose net and angles: what ``Timing`` calls decoding, so the
calls' own cost in Python is in it, and the time inside the engine is not. Both paths must find the same, to the last
bit, or nothing is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray

import edgeface
from edgeface.data.annotations import read_annotations
from edgeface.images import read_image
from edgeface.runtime import anchors, kernels, logistic, nms, roi
from edgeface.runtime.decode import bins

Image = NDArray[np.uint8]

SIZES = ((320, 256), (640, 480))


@contextmanager
def numpy_only() -> Iterator[None]:
    """The references in place of the kernels after the network."""
    with ExitStack() as stack:
        for module in (anchors, bins, logistic, nms, roi):
            stack.enter_context(patch.object(module, "library", lambda: None))
        yield


def compare(model: str, frame: tuple[int, int], images: list[Image], calls: int) -> tuple[float, float, int]:
    """Median ms of NumPy and of C, and the number of faces; exits when they do not find the same."""
    detector = edgeface.load(model, threads=1)
    detector.size_px = frame
    slow_ms, fast_ms, found = [], [], 0
    for image in images:
        for _ in range(calls):
            with numpy_only():
                expected, slow = detector.timed(image)
            faces, fast = detector.timed(image)
            slow_ms.append(slow.decode_ms)
            fast_ms.append(fast.decode_ms)
        for name in ("boxes", "scores", "landmarks", "pose"):
            if not np.array_equal(getattr(faces, name), getattr(expected, name)):
                sys.exit(f"{model} at {frame}: the {name} differ")
        found += len(faces)
    return float(np.median(slow_ms)), float(np.median(fast_ms)), found


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", "models", multiple=True, default=("mos_s-int8-ncnn", "mos_s-int8-tflite", "mos_s-fp16-ncnn"))
@click.option("--pictures", default=40, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--calls", default=5, show_default=True, type=click.IntRange(1), help="Of each path and picture.")
def main(data: Path, models: tuple[str, ...], pictures: int, calls: int) -> None:
    """Print the table."""
    if not kernels.status().used:
        sys.exit(kernels.status().text)
    chosen = islice((p for p in read_annotations(data / "wider", "dev") if p.faces), pictures)
    images = [read_image(picture.path) for picture in chosen]
    click.echo(f"{'':36}{'NumPy':>8} {'C':>8}")
    for model in models:
        for frame in SIZES:
            slow, fast, faces = compare(model, frame, images, calls)
            case = f"{model} {frame[0]}x{frame[1]}, {faces} faces"
            click.echo(f"{case:<36}{slow:8.3f} {fast:8.3f} ms, {slow / fast:.1f} times")


if __name__ == "__main__":
    main()
