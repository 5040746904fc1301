"""Which detection is the annotated face, where only one face of a picture is annotated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture
from edgeface.faces import Faces
from edgeface.runtime.nms import iou

# Box styles differ (a square, or forehead to chin): for the same face they overlap by 0.4 to 0.9, while a neighbour's
# box seldom reaches 0.3.
IOU_FOUND = 0.3
# Medians between WIDER FACE's boxes (1.95 and 2.5) and tight squares (1.8 and 1.8), in the larger extent of the points.
WIDTH_IN_EXTENTS = 1.9
HEIGHT_IN_EXTENTS = 2.2


def face_box(face: Face) -> NDArray[np.float32]:
    """The face's box (4,) float32, x1 y1 x2 y2: the annotated one, or one derived from its five landmarks.

    The derived box is centred on the middle of the points' bounding box, 1.9 wide and 2.2 high in units of the larger
    side of that bounding box. Raises ValueError when the face has neither.
    """
    if face.box is not None:
        return face.box
    if face.landmarks is None:
        raise ValueError("a face without box and landmarks has no place in its picture")
    low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
    half = np.array([WIDTH_IN_EXTENTS, HEIGHT_IN_EXTENTS]) / 2 * (high - low).max()
    centre = (low + high) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def has_place(face: Face) -> bool:
    """Whether it was annotated where in its picture the face is."""
    return face.box is not None or face.landmarks is not None


def locate(found: Faces, face: Face) -> int | None:
    """Index of the detection with the highest IoU with the face's box, or None where none reaches 0.3."""
    if not len(found):
        return None
    overlap = iou(found.boxes, face_box(face)[None])[:, 0]
    best = int(overlap.argmax())
    return best if overlap[best] >= IOU_FOUND else None


def locate_subject(found: Faces, width: int, height: int) -> int | None:
    """Index of the best detection over the centre of a picture of ``width`` x ``height`` px, the subject of a portrait
    whose face was annotated without a place; None where there is none."""
    x, y = width / 2, height / 2
    x1, y1, x2, y2 = found.boxes.T
    over = np.nonzero((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2))[0]
    return int(over[found.scores[over].argmax()]) if len(over) else None


def locate_labelled(picture: Picture, face: Face, found: Faces) -> int | None:
    """Index of the detection of a face of which something is labelled: by its place, or in a picture of one face whose
    place was not annotated by ``locate_subject``; None where there is none."""
    if has_place(face):
        return locate(found, face)
    # Without a place, only a picture of one face says which one is meant.
    return locate_subject(found, picture.width, picture.height) if len(picture.faces) == 1 else None
