"""A data folder in the form of the project's sets, a few pictures large, drawn from scikit-image's astronaut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from edgeface.data.detection import Batch

# The astronaut's face in the 512x512 picture: box and five points, read off the picture.
FACE_BOX = (179.0, 62.0, 269.0, 178.0)
FACE_POINTS = ((203.5, 101.0), (246.5, 103.5), (224.5, 125.0), (204.5, 139.5), (244.0, 140.5))

Image = NDArray[np.uint8]


def write_set(directory: Path, rows: list[tuple[str, Image, dict[str, Any]]]) -> None:
    """Write pictures as PNG with their annotation lines; a row is name, uint8 (H, W, 3), other fields."""
    (directory / "images").mkdir(parents=True)
    lines = []
    for name, image, fields in rows:
        cv2.imwrite(str(directory / "images" / f"{name}.png"), image)
        size = {"image": f"images/{name}.png", "width": image.shape[1], "height": image.shape[0]}
        lines.append(json.dumps({**size, **fields}))
    (directory / "annotations.jsonl").write_text("\n".join(lines) + "\n")


def write_tiny_data(directory: Path, astronaut: Image) -> Path:
    """``wider``, ``landmarks68`` and ``backgrounds`` with four training pictures and one dev picture each."""
    scenes, crops, grounds = [], [], []
    rng = np.random.default_rng(0)
    for i in range(5):
        split = "dev" if i == 4 else "train"
        side = 160 + 40 * i
        scale = side / 512
        image = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
        face: dict[str, Any] = {
            "box": [v * scale for v in FACE_BOX],
            "landmarks": [[x * scale, y * scale] for x, y in FACE_POINTS],
        }
        scenes.append((f"scene{i}", image, {"split": split, "complete": 1, "faces": [{**face, "subset": "easy"}]}))
        crop = np.ascontiguousarray(astronaut[30:230, 120:320])
        points = [[x - 120, y - 30] for x, y in FACE_POINTS]
        turned = {"landmarks": points, "pose": [-5.0, 8.0, 2.0]}
        crops.append((f"crop{i}", crop, {"split": split, "complete": 0, "faces": [turned]}))
        noise = cv2.GaussianBlur(rng.integers(0, 255, (120, 150, 3)).astype(np.uint8), (0, 0), 2).astype(np.uint8)
        grounds.append((f"ground{i}", noise, {"split": split, "complete": 1, "faces": []}))
    write_set(directory / "wider", scenes)
    write_set(directory / "landmarks68", crops)
    write_set(directory / "backgrounds", grounds)
    return directory


def one_face(box: Tensor) -> Batch:
    """A batch of one black picture of 128 px, complete, with a face in ``box`` (1, 4) whose landmarks nobody knows."""
    import torch

    from edgeface.data.detection import Batch, FaceTargets

    unknown = torch.full((1, 13), torch.nan)
    face = FaceTargets(box, unknown[:, :10], unknown[:, 10:], torch.tensor([False]), torch.tensor([True]))
    return Batch(torch.zeros(1, 3, 128, 128, dtype=torch.uint8), face, [1], [True])
