"""What a refinement adds to a detector for each face, one thread: cutting, its net, decoding.

    python benchmarks/refinement.py                     # the bundles of T-CNN, with 1 and with 10 faces

Bundles and numbers of faces take turns, so that each finds the processor's caches as the others left them; medians and
tails of all rounds after the first ones. The faces are 96 px wide, at fixed places of scikit-image's astronaut: what a
net on crops takes depends on how many there are, and hardly on what they show.
"""

from __future__ import annotations

from time import perf_counter_ns

import click
import cv2
import numpy as np
from edgeface.devices.estimate.inputs import face_boxes
from skimage.data import astronaut

from edgeface.bundle import read_bundle
from edgeface.frames import as_frame
from edgeface.runtime import catalog
from edgeface.runtime.clock import Clock
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.stages.kinds import kind_of
from edgeface.runtime.stages.stage import Found, NextStage, Scene

BUNDLES = ("tcnn-int8-ncnn", "tcnn-fp16-ncnn", "tcnn-int8-tflite")
WARM_UP_ROUNDS = 5


def opened(name: str) -> NextStage:
    """The stage of a refinement's bundle with its net, on one thread."""
    directory = catalog.find(name)
    bundle = read_bundle(directory)
    ((stage,), (nets,)) = bundle.stages, open_sessions(directory, bundle, 1)
    refiner: NextStage = kind_of(stage).opened(bundle, 0, nets)
    return refiner


@click.command()
@click.option("--bundle", "bundles", multiple=True, default=BUNDLES, show_default=True, help="Refinements.")
@click.option("--faces", "counts", multiple=True, default=(1, 10), show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=200, show_default=True, type=click.IntRange(1))
def main(bundles: tuple[str, ...], counts: tuple[int, ...], rounds: int) -> None:
    """Print the time a face, ms."""
    cv2.setNumThreads(1)
    picture = np.ascontiguousarray(astronaut()[:, :, ::-1])
    frame = as_frame(picture)
    refiners = {name: opened(name) for name in bundles}
    times: dict[tuple[str, int], list[float]] = {(name, count): [] for name in bundles for count in counts}
    for number in range(WARM_UP_ROUNDS + rounds):
        for (name, count), each in times.items():
            boxes, scores = face_boxes(picture, count), np.ones(count, np.float32)
            start = perf_counter_ns()
            refiners[name](Scene(frame, Clock(), 640, score=0.0, nms_iou=1.0), Found(boxes, scores))
            if number >= WARM_UP_ROUNDS:
                each.append((perf_counter_ns() - start) / 1e6 / count)
    click.echo(f"ms a face, one thread, {rounds} rounds")
    for (name, count), each in times.items():
        median, tail = np.percentile(each, (50, 95))
        click.echo(f"  {name:18} {count:3d} faces  p50 {median:6.2f}  p95 {tail:6.2f}")


if __name__ == "__main__":
    main()
