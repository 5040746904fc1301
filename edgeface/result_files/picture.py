"""What every writer takes: a picture, or a frame of a video, with the faces in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.seen_faces import SeenFaces

CLASS = "face"


@dataclass(frozen=True)
class DetectedPicture:
    """A picture file, or frame ``frame`` (from 0) of a video at ``time_s``, and its faces, which remember the pixels.

    ``stem`` is a name for files about it that no other picture of the run has: "photo", or "clip-000012" of a frame.
    ``embeddings`` (N, D) float32 are of the faces, in their order, where they were asked for.
    """

    path: Path
    stem: str
    seen: SeenFaces
    frame: int | None = None
    time_s: float | None = None
    embeddings: NDArray[np.float32] | None = None

    @property
    def width(self) -> int:
        """Pixels."""
        return self.seen.picture.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.seen.picture.height

    @property
    def file_name(self) -> str:
        """The picture's path as it was given, "/" between folders; of a video's frame ``stem`` with .jpg, as the frame
        is to be called where it is saved beside the video."""
        return _text(self.path if self.frame is None else self.path.with_name(f"{self.stem}.jpg"))

    @property
    def source_name(self) -> str:
        """The path of the picture or video as it was given, "/" between folders."""
        return _text(self.path)

    def clipped(self) -> tuple[NDArray[np.float64], list[int]]:
        """The boxes as labels have them, inside the picture: (M, 4) x1 y1 x2 y2 in pixels, and which faces they are of;
        a box that lies outside is left out."""
        whole = np.array([self.width, self.height] * 2, np.float64)
        boxes = np.clip(self.seen.boxes.astype(np.float64), 0, whole)
        kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        return boxes[kept], kept.tolist()


def _text(path: Path) -> str:
    # Linux allows any bytes in a name; JSON, XML and UTF-8 do not.
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


class ResultFiles(Protocol):
    """Writes files of its own about each picture."""

    def targets(self, picture: DetectedPicture) -> list[Path]:
        """The files that ``write`` would write."""

    def write(self, picture: DetectedPicture) -> None:
        """Write what is known of it. Raises OutputError."""


class Stems:
    """Names for files about sources: a source's own without its suffix, with a number where another has it already, as
    file systems compare names that make no difference between large and small letters."""

    def __init__(self) -> None:
        self._of: dict[Path, str] = {}
        self._taken: set[str] = set()

    def of(self, path: Path) -> str:
        """The name for ``path``, always the same."""
        if path not in self._of:
            stem, number = path.stem, 1
            while stem.lower() in self._taken:
                number += 1
                stem = f"{path.stem}-{number}"
            self._taken.add(stem.lower())
            self._of[path] = stem
        return self._of[path]
