"""The pictures a parity report is measured on, and where they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import ANNOTATIONS, Picture, read_annotations
from edgeface.errors import InputError
from edgeface.evaluation.measure import check_size, spread
from edgeface.images import read_image

Image = NDArray[np.uint8]

DATA_HERE = Path("data/wider")
LIMIT = 100
_EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Pictures:
    """Named pictures and ``source``, which says in words what they are. An item is a file or (H, W, 3) uint8 BGR.

    ``annotated`` are the annotations of the items, one each, where there are any.
    """

    source: str
    items: Sequence[tuple[str, Path | Image]]
    annotated: Sequence[Picture] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[str, Image]]:
        """(name, (H, W, 3) uint8 BGR), read one at a time. Raises InputError, and DataError when a picture is not of
        its annotated size."""
        for i, (name, item) in enumerate(self.items):
            image = read_image(item) if isinstance(item, Path) else item
            if self.annotated:
                check_size(self.annotated[i], image)
            yield name, image


def choose(folder: Path | None = None, limit: int = LIMIT) -> Pictures:
    """At most ``limit`` pictures, evenly spread: those of ``folder``, else the dev part of ``data/wider`` where it
    is, else scikit-image's astronaut where that is installed, else synthetic scenes.

    A folder with annotations.jsonl gives its dev split. Raises InputError for a folder that gives none, and DataError
    for wrong annotations.
    """
    if folder is not None:
        return _of_folder(folder, limit)
    if (DATA_HERE / ANNOTATIONS).is_file():
        return _of_folder(DATA_HERE, limit)
    if find_spec("skimage") is not None:
        return Pictures("scikit-image's astronaut at three sizes", _astronaut())
    return Pictures("synthetic scenes without faces", _scenes())


def calibration_pictures(folder: Path, limit: int) -> Pictures:
    """At most ``limit`` pictures to calibrate on, evenly spread: the train part of an annotated set, else what lies in
    ``folder``. Raises InputError for a folder that gives none, and DataError for wrong annotations."""
    if folder.is_dir() and (folder / ANNOTATIONS).is_file():
        paths = [picture.path for picture in spread(read_annotations(folder, "train"), limit)]
        return Pictures(f"{len(paths)} pictures, train part of {folder.resolve().name}", [(p.name, p) for p in paths])
    return _of_folder(folder, limit)


def _of_folder(folder: Path, limit: int) -> Pictures:
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder of pictures")
    annotated: list[Picture] = []
    if (folder / ANNOTATIONS).is_file():
        whole = read_annotations(folder, "dev")
        annotated = spread(whole, limit)
        count, paths = len(whole), [picture.path for picture in annotated]
    else:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _EXTENSIONS)
        count, paths = len(found), spread(found, limit)
    if not paths:
        raise InputError(f"{folder}: no pictures in it: give another folder")
    part = "dev part of " if annotated else ""
    source = f"{len(paths)} of {count} pictures, {part}{folder.resolve().name}"
    return Pictures(source, [(path.name, path) for path in paths], annotated)


def _astronaut() -> list[tuple[str, Path | Image]]:
    from skimage import data

    astronaut: Callable[[], Image] = data.astronaut
    picture = np.ascontiguousarray(astronaut()[:, :, ::-1])
    pictures: list[tuple[str, Path | Image]] = []
    for side_px in (picture.shape[1], 256, 128):
        resized = cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA)
        pictures.append((f"astronaut at {side_px} px", resized.astype(np.uint8)))
    return pictures


def _scenes(count: int = 8) -> list[tuple[str, Path | Image]]:
    """Smooth gradients under coloured discs and noise: every layer gets a signal, no layer gets a face."""
    rng = np.random.default_rng(0)
    scenes: list[tuple[str, Path | Image]] = []
    for number in range(count):
        height, width = (int(v) for v in rng.integers(200, 640, 2))
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        scene = np.stack([x * rng.uniform(0, 255) / width + y * rng.uniform(0, 255) / height for _ in range(3)], -1)
        for _ in range(20):
            radius = rng.uniform(4, 100)
            disc = (x - rng.uniform(0, width)) ** 2 + (y - rng.uniform(0, height)) ** 2 < radius**2
            scene[disc] = rng.uniform(0, 255, 3)
        scene += rng.normal(0, 8, scene.shape)
        scenes.append((f"scene {number}", scene.clip(0, 255).astype(np.uint8)))
    return scenes
