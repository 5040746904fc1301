"""What a dense detector finds in the pictures that T-CNN is trained on, kept beside the run: T-CNN sees faces as that
detector frames them, and learns to tell its false alarms (mhcnn.txt, section 3.3)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.data.detection import SourceSet
from edgeface.data.pixels import ProgressBar
from edgeface.errors import UnverifiedBundleWarning
from edgeface.runtime.loading import load
from edgeface.training.state import RunDirectory

if TYPE_CHECKING:
    from edgeface.runtime.detector import Detector

Floats = NDArray[np.float32]


def detections(
    source: SourceSet, detector: str, sizes_px: Sequence[int], score: float, folder: Path, progress: ProgressBar
) -> list[Floats]:
    """The detections of every picture of ``source``, float32 (n, 5): x1 y1 x2 y2 in its pixels and the score.

    ``detector`` is what ``edgeface.load`` takes; each of ``sizes_px`` (longest side of its input) gives detections of
    its own, so that a face found at two sizes is there twice. They are read from ``folder`` when an earlier call left
    them there. Raises as ``edgeface.load``, DataError, and OutputError when the disk refuses.
    """
    directory = RunDirectory(folder)
    state = directory.load_state()
    if state is None:
        detectors = [_quietly(detector, size, score) for size in sizes_px]
        found = [
            _found(detectors, source.pixels[i])
            for i in progress(range(len(source.pictures)), f"detecting, {source.name}", len(source.pictures))
        ]
        state = {
            "counts": torch.tensor([len(each) for each in found]),
            "found": torch.from_numpy(np.concatenate([np.empty((0, 5), np.float32), *found])),
        }
        directory.save_state(state)
    return [part.numpy() for part in state["found"].split(state["counts"].tolist())]


def _quietly(detector: str, size_px: int, score: float) -> Detector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnverifiedBundleWarning)
        return load(detector, threads=1, size=size_px, score=score)


def _found(detectors: Iterable[Detector], picture: NDArray[np.uint8]) -> Floats:
    parts = []
    for detector in detectors:
        faces = detector(picture)
        parts.append(np.concatenate((faces.boxes, faces.scores[:, None]), 1).astype(np.float32))
    return np.concatenate(parts)
