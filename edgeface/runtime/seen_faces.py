"""Faces together with the picture that they were found in: drawn, cut out, and turned upright."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface import tables
from edgeface.drawing import draw_faces
from edgeface.errors import InputError, OptionError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.runtime.align import align

Image = NDArray[np.uint8]
_NONE = Frame(np.zeros((1, 1), np.uint8), "grey")


@dataclass(frozen=True)
class SeenFaces(Faces):
    """``Faces`` that remember their ``picture``, which lives as long as they do and must not change meanwhile; a
    detector gives these when it is called."""

    picture: Frame = field(default=_NONE, repr=False, compare=False)

    @classmethod
    def of(cls, faces: Faces, picture: Frame) -> SeenFaces:
        """The same faces, with the picture that they are in."""
        return cls(**{each.name: getattr(faces, each.name) for each in fields(Faces)}, picture=picture)

    def draw(self) -> Image:
        """A copy of the picture with the faces on it, uint8 (H, W, 3) BGR."""
        return draw_faces(np.ascontiguousarray(self.picture.to_bgr()), self)

    def crop(self, margin: float = 0.0) -> list[Image]:
        """Each face cut out, uint8 (h, w, 3) BGR: its box, larger by ``margin`` times its sides on every side, as much
        of it as lies in the picture; (0, 0, 3) where nothing does. Raises OptionError for a margin below -0.5 or not
        finite."""
        if not isinstance(margin, (int, float, np.number)) or not -0.5 < margin < 1e3:
            raise OptionError(f"a margin of {margin!r} cannot work: 0.2 adds a fifth of the box on every side")
        bgr = self.picture.to_bgr()
        height, width = bgr.shape[:2]
        crops = []
        for x1, y1, x2, y2 in self.boxes.tolist():
            more_x, more_y = margin * (x2 - x1), margin * (y2 - y1)
            left, right = (round(min(max(x, 0), width)) for x in (x1 - more_x, x2 + more_x))
            top, bottom = (round(min(max(y, 0), height)) for y in (y1 - more_y, y2 + more_y))
            inside = right > left and bottom > top
            crops.append(bgr[top:bottom, left:right].copy() if inside else np.empty((0, 0, 3), np.uint8))
        return crops

    def align(self, size: int = 112) -> Image:
        """Each face turned upright as ArcFace's crops are, uint8 (N, size, size, 3) BGR (``edgeface.runtime.align``).

        Raises InputError for faces without landmarks, and OptionError for a size that cannot work.
        """
        if self.landmarks is None:
            raise InputError("these faces have no landmarks to turn them upright by: use a model that gives them")
        return align(self.picture, self.landmarks, size_px=size)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, a row a face (``edgeface.tables.columns``). Raises MissingExtraError without pandas."""
        return tables.to_pandas(self)

    def to_supervision(self) -> Any:
        """supervision.Detections with landmarks, pose and attributes in ``data``. Raises MissingExtraError without it.
        """
        return tables.to_supervision(self)
