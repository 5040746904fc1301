"""Multi-scale and flip testing: one picture at several sizes and mirrored, and the faces of all of them in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces
from edgeface.mean_face import MIRRORED_68
from edgeface.runtime.nms import iou

Merge = Literal["vote", "nms"]

# The five points of a mirrored face in the order of a face.
_MIRRORED_POINTS = (1, 0, 2, 4, 3)

Image = NDArray[np.uint8]


class MultiScale:
    """A detector that asks ``detectors``, one a size of the input, and with ``flip`` each for the mirrored picture too.

    ``merge``: "nms" keeps the best box of each group of boxes that overlap by more than ``nms_iou``; "vote" gives it
    the mean of the group's boxes, landmarks, poses and probabilities, weighted by their scores (box voting). The score
    is the best one's either way.
    """

    def __init__(
        self, detectors: Sequence[Callable[[Image], Faces]], *, flip: bool, nms_iou: float, merge: Merge = "vote"
    ) -> None:
        self._detectors = detectors
        self._flip = flip
        self._nms_iou = nms_iou
        self._merge: Merge = merge

    def __call__(self, image: Image) -> Faces:
        """The faces of a picture, uint8 (H, W, 3) BGR. Raises what the detectors raise."""
        found = [detect(image) for detect in self._detectors]
        if self._flip:
            mirrored = np.ascontiguousarray(image[:, ::-1])
            found += [flipped(detect(mirrored), image.shape[1]) for detect in self._detectors]
        return merged(found, self._nms_iou, self._merge)


def flipped(faces: Faces, width: int) -> Faces:
    """The faces of a mirrored picture of ``width`` px as those of the picture: sides change place, yaw and roll sign.
    """
    boxes = faces.boxes.copy()
    boxes[:, [0, 2]] = width - faces.boxes[:, [2, 0]]

    def points(found: NDArray[np.float32] | None, order: Sequence[int]) -> NDArray[np.float32] | None:
        if found is None:
            return None
        other: NDArray[np.float32] = found[:, list(order)]      # a copy
        other[..., 0] = width - other[..., 0]
        return other

    pose = None if faces.pose is None else faces.pose * np.array([1, -1, -1], np.float32)
    return replace(
        faces, boxes=boxes, landmarks=points(faces.landmarks, _MIRRORED_POINTS),
        landmarks68=points(faces.landmarks68, MIRRORED_68), pose=pose,
    )


def merged(found: Sequence[Faces], nms_iou: float, merge: Merge) -> Faces:
    """One ``Faces`` of several of the same picture, best score first; see ``MultiScale``.

    What any of them does not have, the result has not. Raises ValueError when there are none.
    """
    if not found:
        raise ValueError("merged needs at least one Faces")
    every = Faces.joined(found)
    best, weights = _groups(every.boxes, every.scores, nms_iou, merge)
    means = {name: np.tensordot(weights, array, axes=1).astype(np.float32) for name, array in every.arrays().items()}
    classes = {name: each.classes for name, each in every.classes.items()}
    return Faces.of_arrays(means | {"scores": every.scores[best]}, found[0].thresholds, classes)


def _groups(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], nms_iou: float, merge: Merge
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The best detection (G,) of each of G faces, best first, and how much each of N detections counts in each face,
    (G, N) with rows that add up to 1."""
    left = np.argsort(-scores, kind="stable")
    best: list[int] = []
    rows = []
    while len(left):
        group = iou(boxes[left[:1]], boxes[left])[0] > np.float32(nms_iou)
        group[0] = True         # a box without area overlaps nothing, not even itself
        best.append(int(left[0]))
        row = np.zeros(len(scores))
        chosen = left[group] if merge == "vote" else left[:1]
        row[chosen] = np.maximum(scores[chosen], 1e-6)
        rows.append(row / row.sum())
        left = left[~group]
    return np.array(best, np.intp), np.array(rows).reshape(len(best), len(scores))
