"""How a dense stage's maps become boxes and points: one entry a coding of the schema, one file a way of decoding.

Without a coding the boxes are offsets from square anchors with variances (``anchors.py``), which the C kernels decode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Cells, DenseStage, Distances
from edgeface.runtime.anchors import (
    Anchors,
    Indices,
    Pyramid,
    Scale,
    at_anchors,
    best_boxes,
    by_level,
    decode_landmarks,
)
from edgeface.runtime.decode.cells import cell_boxes, cell_points
from edgeface.runtime.decode.distances import distance_boxes, distance_points
from edgeface.runtime.engines import RawMap
from edgeface.runtime.nms import nms

Floats = NDArray[np.float32]
Maps = Sequence[RawMap | None]


class _Decoder(NamedTuple):
    """Boxes (n, 4) and points (n, 5, 2) in pixels of the net's input of n anchors of one level, from their values (n,
    4) and (n, 10): (coding, level, stride, anchors, values)."""

    boxes: Callable[[Any, int, float, Anchors, Floats], Floats]
    points: Callable[[Any, int, float, Anchors, Floats], Floats]


_CODINGS: dict[type, _Decoder] = {
    Distances: _Decoder(distance_boxes, distance_points),
    Cells: _Decoder(cell_boxes, cell_points),
}


class Decoding:
    """The decoding of a dense stage."""

    def __init__(self, stage: DenseStage) -> None:
        self._pyramid = Pyramid.of(stage)
        self._coding = stage.coding
        self._strides = [level.stride for level in stage.levels]

    def best(self, maps: Maps, kept: Anchors, nms_iou: float, scale: Scale) -> tuple[Indices, Floats]:
        """As ``anchors.best_boxes``: the indices of the kept anchors that stay, best first, and their boxes."""
        if self._coding is None:
            return best_boxes(maps, kept, self._pyramid, nms_iou, scale)
        boxes = self._each(_CODINGS[type(self._coding)].boxes, maps, kept, (4,))
        if not np.isfinite(boxes).all():
            raise FloatingPointError("a box is not finite")
        best = nms(boxes, kept.logits, nms_iou)
        per_side: Floats = np.array([*scale, *scale], np.float32)
        return best, boxes[best] / per_side

    def landmarks(self, maps: Maps, kept: Anchors, scale: Scale) -> Floats:
        """As ``anchors.decode_landmarks``: five points (n, 5, 2) of each kept anchor."""
        if self._coding is None:
            return decode_landmarks(maps, kept, self._pyramid, scale)
        points = self._each(_CODINGS[type(self._coding)].points, maps, kept, (5, 2))
        per_axis: Floats = np.array(scale, np.float32)
        return points / per_axis

    def _each(
        self, decode: Callable[[Any, int, float, Anchors, Floats], Floats], maps: Maps, kept: Anchors,
        shape: tuple[int, ...],
    ) -> Floats:
        def values(level: int, here: Anchors) -> Floats:
            found = at_anchors(maps[level], here, int(np.prod(shape)))
            with np.errstate(over="ignore", invalid="ignore"):      # a box that is not finite is the caller's to report
                return decode(self._coding, level, self._strides[level], here, found).astype(np.float32)

        return by_level(kept, len(maps), shape, values)
