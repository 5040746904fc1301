"""Shots and results for tests of the page and the sinks."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.stream.results import Result, TrackedFaces
from edgeface.stream.shots import Shot, Status

SOURCE = "test source"


def status(state: str = "online", reason: str = "") -> Status:
    return Status(state, reason, time.time(), 1, 0, 0)  # type: ignore[arg-type]  # any text


def shot(image: NDArray[np.uint8], number: int) -> Shot:
    return Shot(SOURCE, Frame(image), number, time.monotonic_ns(), time.time_ns(), status())


def result(boxes: list[tuple[float, float, float, float]], *, pose: bool = True) -> Result:
    """Faces of those boxes with landmarks, numbered from 1, all looking straight ahead."""
    n = len(boxes)
    array = np.array(boxes, np.float32).reshape(n, 4)
    shares = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)], np.float32)
    points = array[:, None, :2] + shares * (array[:, None, 2:] - array[:, None, :2])
    faces = Faces(
        array, np.full(n, 0.9, np.float32), points.astype(np.float32), np.zeros((n, 3), np.float32) if pose else None
    )
    tracked = TrackedFaces.of(faces, np.arange(1, n + 1), np.ones(n, bool))
    return Result(tracked, True, (), {"preprocess": 0.5, "network": 12.0, "decode": 0.4}, 15.0, 3, 0)
