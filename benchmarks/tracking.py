"""Tracking on clips with known faces: stills of ``landmarks68`` moved over pictures of ``backgrounds``, all of ``dev``.

    python benchmarks/tracking.py ../shared/data                     # the table
    python benchmarks/tracking.py ../shared/data --video clips/      # and the clips with the numbers drawn

Three kinds of clips at 25 pictures a second: two faces that cross without overlap (ten of them), four faces on winding
ways, and a face that is hidden for half a second. Everything is seeded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import click
import cv2
import numpy as np
from numpy.typing import NDArray

import edgeface
from edgeface.data.annotations import read_annotations
from edgeface.errors import EdgefaceError
from edgeface.evaluation.tracking import Labelled, TrackingScores, score_tracks
from edgeface.images import read_image
from edgeface.stream.tracking import Tracked, Tracker

RATE = 25
WIDTH, HEIGHT = 640, 480
SECONDS = 4.0

Image = NDArray[np.uint8]
Way = Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class Still:
    """A face cut out: ``pixels`` uint8 (h, w, 3) BGR, ``alpha`` float32 (h, w, 1), soft at its edge, ``box`` (4,)."""

    pixels: Image
    alpha: NDArray[np.float32]
    box: NDArray[np.float32]


@dataclass(frozen=True)
class Actor:
    """A face and where its centre is at a time in seconds; ``hidden`` from..to in seconds."""

    still: Still
    way: Way
    hidden: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Clip:
    """``kind`` is what the table groups by."""

    kind: str
    background: Image
    actors: Sequence[Actor]

    def frames(self) -> Iterator[tuple[float, Image, Labelled]]:
        """Time in seconds, picture uint8 (480, 640, 3) BGR and the faces in it."""
        for number in range(round(SECONDS * RATE)):
            time_s = number / RATE
            picture = self.background.astype(np.float32)
            boxes, ids = [], []
            for identity, actor in enumerate(self.actors, start=1):
                if actor.hidden[0] <= time_s < actor.hidden[1]:
                    continue
                box = _paste(picture, actor.still, actor.way(time_s))
                centre = (box[:2] + box[2:]) / 2
                if 0 <= centre[0] < WIDTH and 0 <= centre[1] < HEIGHT:
                    boxes.append(box)
                    ids.append(identity)
            labelled = Labelled(np.array(boxes, np.float32).reshape(-1, 4), np.array(ids, np.int64))
            yield time_s, picture.clip(0, 255).astype(np.uint8), labelled


def _paste(picture: NDArray[np.float32], still: Still, centre: tuple[float, float]) -> NDArray[np.float32]:
    """Draw ``still`` with its box's centre there; its box (4,) in the picture."""
    middle = (still.box[:2] + still.box[2:]) / 2
    shift = np.array(centre, np.float32) - middle
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    alpha = cv2.warpAffine(still.alpha, move, (WIDTH, HEIGHT))[:, :, None]
    picture += alpha * (cv2.warpAffine(still.pixels, move, (WIDTH, HEIGHT)) - picture)
    return still.box + np.tile(shift, 2)


def stills(data: Path, count: int, rng: np.random.Generator) -> list[Still]:
    """Faces of 60 to 110 px of the dev part, in an order drawn by ``rng``."""
    pictures = read_annotations(data / "landmarks68", "dev")
    chosen = []
    for index in rng.permutation(len(pictures)).tolist():
        face = pictures[index].faces[0]
        if face.landmarks68 is None or face.pose is None or np.abs(face.pose).max() > 35:
            continue
        low, high = face.landmarks68.min(axis=0), face.landmarks68.max(axis=0)
        low[1] -= 0.25 * (high[1] - low[1])     # from the brows up to where WIDER's boxes begin
        size_px = rng.uniform(60, 110)
        factor = size_px / math.sqrt(float((high - low).prod()))
        image = cv2.resize(read_image(pictures[index].path), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        box = np.concatenate([low, high]) * np.float32(factor)
        alpha = np.zeros(image.shape[:2], np.float32)
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        cv2.ellipse(alpha, (*middle.astype(int).tolist(),), (*(half * 1.25).astype(int).tolist(),), 0, 0, 360, 1.0, -1)
        chosen.append(Still(image, cv2.GaussianBlur(alpha, (0, 0), size_px / 20)[:, :, None], box))
        if len(chosen) == count:
            break
    return chosen


def clips(data: Path) -> list[Clip]:
    """The clips, always the same for the same data."""
    rng = np.random.default_rng(0)
    empty = read_annotations(data / "backgrounds", "dev")
    faces = iter(stills(data, 60, rng))
    made = []

    def background() -> Image:
        picture = empty[int(rng.integers(len(empty)))]
        return np.asarray(cv2.resize(read_image(picture.path), (WIDTH, HEIGHT)), np.uint8)

    for _ in range(10):
        upper, lower = rng.uniform(110, 150), rng.uniform(320, 360)
        made.append(Clip("crossing", background(), [
            Actor(next(faces), _straight(40, 600, upper, rng)), Actor(next(faces), _straight(600, 40, lower, rng)),
        ]))
    for _ in range(5):
        made.append(Clip("winding", background(), [Actor(next(faces), _winding(i, rng)) for i in range(4)]))
    for _ in range(5):
        begin = float(rng.uniform(1.0, 2.5))
        made.append(Clip("hidden", background(), [
            Actor(next(faces), _straight(150, 490, 240, rng), (begin, begin + 0.5)),
        ]))
    return made


def _straight(start_px: float, end_px: float, y_px: float, rng: np.random.Generator) -> Way:
    sway, phase = rng.uniform(5, 15), rng.uniform(0, 2 * math.pi)
    return lambda t: (start_px + (end_px - start_px) * t / SECONDS, y_px + sway * math.sin(2 * t + phase))


def _winding(place: int, rng: np.random.Generator) -> Way:
    """In a quarter of the picture each, so that nothing overlaps."""
    x0, y0 = 160 + 320 * (place % 2), 120 + 240 * (place // 2)
    a, b, p, q = rng.uniform(20, 60), rng.uniform(10, 40), rng.uniform(0, 6), rng.uniform(1.5, 4)
    return lambda t: (x0 + a * math.sin(q * t + p), y0 + b * math.cos(0.7 * q * t + p))


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", default="mos_s", show_default=True)
@click.option("--size", default=320, show_default=True, help="The longest side that the network sees, in pixels.")
@click.option("--video", type=click.Path(path_type=Path), metavar="DIR", help="Write the clips here, numbers drawn.")
def main(data: Path, model: str, size: int, video: Path | None) -> None:
    """IDF1 and identity switches with the detector in every, every second and every third picture."""
    rows: dict[tuple[str, int], list[TrackingScores]] = {}
    cost_ms: dict[int, list[float]] = {1: [], 2: [], 3: []}
    options = Tracker().options
    detector = edgeface.load(model, size=size, score=options.low_score, threads=1)
    for number, clip in enumerate(clips(data)):
        frames = [(t, image, labelled, detector(image)) for t, image, labelled in clip.frames()]
        for every in cost_ms:
            found = []
            tracker = Tracker(options)
            for i, (time_s, _, _, faces) in enumerate(frames):
                started = perf_counter()
                tracked = tracker.update(faces, time_s) if i % every == 0 else tracker.predict(time_s)
                cost_ms[every].append((perf_counter() - started) * 1e3)
                found.append(tracked)
            labels = [labelled for _, _, labelled, _ in frames]
            scored = score_tracks(labels, [Labelled(t.faces.boxes, t.ids) for t in found])
            rows.setdefault((clip.kind, every), []).append(scored)
            if video is not None:
                _write(video / f"{number:02}-{clip.kind}-every{every}.mp4", [f[1] for f in frames], found)
    click.echo(f"{'clips':<12}{'looks':>6}{'IDF1':>8}{'recall':>8}{'precision':>10}{'switches':>9}{'persons':>8}")
    for (kind, every), scores in rows.items():
        mean = [float(np.mean([getattr(s, name) for s in scores])) for name in ("idf1", "recall", "precision")]
        total = [sum(getattr(s, name) for s in scores) for name in ("switches", "persons")]
        shares = f"{mean[0]:>8.3f}{mean[1]:>8.3f}{mean[2]:>10.3f}"
        click.echo(f"{kind:<12}{f'1/{every}':>6}{shares}{total[0]:>9}{total[1]:>8}")
    for every, costs in cost_ms.items():
        p50, p99 = np.quantile(costs, [0.5, 0.99])
        click.echo(f"tracker alone, looks 1/{every}: p50 {p50:.2f} ms, p99 {p99:.2f}")


def _write(path: Path, images: Sequence[Image], found: Sequence[Tracked]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    for image, tracked in zip(images, found, strict=True):
        drawn = image.copy()
        for box, number, seen in zip(tracked.faces.boxes.astype(int), tracked.ids, tracked.seen, strict=True):
            colour = (60, 220, 60) if seen else (60, 160, 250)
            cv2.rectangle(drawn, (*box[:2].tolist(),), (*box[2:].tolist(),), colour, 2)
            cv2.putText(drawn, str(number), (int(box[0]), int(box[1]) - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, 2)
        writer.write(drawn)
    writer.release()


if __name__ == "__main__":
    try:
        main()
    except EdgefaceError as error:
        sys.exit(str(error))
