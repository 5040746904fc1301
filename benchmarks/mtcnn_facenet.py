"""MTCNN against facenet-pytorch's, one x86 thread each, on the same pictures and the same smallest face, in turns.

    python -m venv peers && peers/bin/pip install -e . pillow requests tqdm torch
    peers/bin/pip install --no-deps facenet-pytorch
    peers/bin/python benchmarks/mtcnn_facenet.py --data ../shared/data/wider

facenet-pytorch asks for an older torch and for torchvision, which is why it has an environment of its own and is
installed without its dependencies. Of torchvision it uses suppression by level: here it gets edgeface's, in C, which is
no slower. Both get the picture in memory, as uint8 RGB or BGR, at one size, and give boxes and five landmarks.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import edgeface
from edgeface.data.annotations import Picture, read_annotations
from edgeface.evaluation.measure import spread
from edgeface.evaluation.wider import evaluate_detection
from edgeface.faces import Faces
from edgeface.images import read_image
from edgeface.runtime.nms import nms

Image = NDArray[np.uint8]
Detect = Callable[[Image], Faces]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, levels: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """torchvision's: boxes of different levels do not suppress each other."""
    apart = levels.to(boxes)[:, None] * (boxes.max() + 1 if len(boxes) else 0)
    kept = nms((boxes + apart).float().numpy(), scores.float().numpy(), iou_threshold)
    return torch.from_numpy(kept)


def stand_in_for_torchvision() -> None:
    """Modules with the names that facenet-pytorch imports."""
    vision, transforms, functional, ops, boxes = (
        types.ModuleType(name)
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops",
                     "torchvision.ops.boxes")
    )  # fmt: skip
    parts: list[tuple[Any, dict[str, Any]]] = [
        (vision, {"transforms": transforms, "ops": ops}), (transforms, {"functional": functional}),
        (ops, {"boxes": boxes}), (boxes, {"batched_nms": batched_nms}),
    ]
    for module, contents in parts:
        vars(module).update(contents)
    sys.modules.update({module.__name__: module for module in (vision, transforms, functional, ops, boxes)})


def facenet(min_face_px: int, thresholds: tuple[float, float, float]) -> Detect:
    """facenet-pytorch's MTCNN with its own weights and its own other settings."""
    stand_in_for_torchvision()
    from facenet_pytorch import MTCNN

    net = MTCNN(min_face_size=min_face_px, thresholds=list(thresholds), keep_all=True, device="cpu")

    def detect(image: Image) -> Faces:
        with torch.inference_mode():
            boxes, scores, points = net.detect(image[:, :, ::-1], landmarks=True)
        if boxes is None:
            return Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32))
        return Faces(boxes.astype(np.float32), scores.astype(np.float32), points.astype(np.float32))

    return detect


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A set's folder; its dev part is used.")
@click.option("--model", "models", multiple=True, default=("mtcnn",), show_default=True)
@click.option("--size", "sizes", multiple=True, default=(640, 320), show_default=True, help="Longest sides in pixels.")
@click.option("--min-face", "min_face_px", default=20, show_default=True, type=click.IntRange(12))
@click.option("--pictures", "limit", default=60, show_default=True, type=click.IntRange(1))
def main(data: Path, models: tuple[str, ...], sizes: tuple[int, ...], min_face_px: int, limit: int) -> None:
    """Print medians, tails and ratios, and the AP of what was found meanwhile."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pictures = spread(read_annotations(data, "dev"), limit)
    for size_px in sizes:
        contenders: dict[str, Detect] = {"facenet-pytorch": facenet(min_face_px, (0.6, 0.7, 0.7))}
        for model in models:
            contenders[model] = edgeface.load(model, threads=1, size=size_px, min_face=min_face_px)
        compare(pictures, size_px, contenders)


def compare(pictures: list[Picture], size_px: int, contenders: dict[str, Detect]) -> None:
    """Every picture by every contender, one after the other, twice; the first time warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, list[Faces]] = {name: [] for name in contenders}
    for picture in pictures:
        image = read_image(picture.path)
        scale = size_px / max(image.shape[:2])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
        for warm in (False, True):
            for name, detect in contenders.items():
                start = perf_counter_ns()
                faces = detect(small)
                if warm:
                    times[name].append((perf_counter_ns() - start) / 1e6)
                    factor = np.float32(1 / scale)
                    found[name].append(Faces(faces.boxes * factor, faces.scores))
    slowest = float(np.median(times["facenet-pytorch"]))
    click.echo(f"longest side {size_px} px, {len(pictures)} pictures; ms a picture, one thread")
    for name, each in times.items():
        median, tail = np.percentile(each, (50, 95))
        ap = evaluate_detection(pictures, found[name]).ap
        scores = ", ".join(f"{subset} {row.ap:.3f}" for subset, row in ap.items())
        ratios = np.array(times["facenet-pytorch"]) / np.array(each)
        click.echo(
            f"  {name:24} p50 {median:7.2f}  p95 {tail:7.2f}  {slowest / median:5.1f} times (picture by picture "
            f"{np.median(ratios):.1f})  AP at its own threshold: {scores}"
        )


if __name__ == "__main__":
    main()
