"""RetinaFace (Deng and others, arXiv:1905.00641), of the PyTorch code that most files come from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeface.bundle import DenseStage, Level

from .graph import ForeignGraph, Head, Output
from .kind import (
    INPUT,
    Anchors,
    Candidates,
    Floats,
    ForeignKind,
    NotThisKindError,
    Pixels,
    Reading,
    by_level,
    cells,
    columns,
    identity,
    kind,
)

VARIANCES = (0.1, 0.2)


def face_less_background(head: Head) -> Output:
    """The logit of face of a head that gives two, background and face, an anchor."""
    count = head.channels // 2
    return Output(head, np.kron(np.eye(count), [[-1, 1]]).astype(np.float32), np.zeros(count, np.float32))


class RetinaFace(ForeignKind):
    """Prior boxes of two sizes a cell, each a softmax of background and face, offsets with variances, and five points.
    """

    looks = "boxes Nx4, scores Nx2 and landmarks Nx10 of N prior boxes, two a cell"
    origin = "https://github.com/biubug6/Pytorch_Retinaface, https://github.com/biubug6/Face-Detector-1MB-with-landmark"
    licence = "RetinaFace in PyTorch: MIT; see its authors' page"
    pixels = Pixels(False, (104.0, 117.0, 123.0), 1.0)
    anchor_sets = (((16, 32), (64, 128), (256, 512)), ((10, 20), (32, 64), (128, 256)))

    def read(self, graph: ForeignGraph, anchors: Anchors) -> Reading:
        outputs: dict[str, Output] = {}
        levels = []
        strides = by_level(graph.heads())
        if len(strides) != len(anchors):
            raise NotThisKindError(f"it has {len(strides)} levels, not {len(anchors)}")
        for (stride, heads), sides in zip(strides.items(), anchors, strict=True):
            by_channels = {head.channels: head for head in heads}
            if sorted(by_channels) != [each * len(sides) for each in (2, 4, 10)] or len(heads) != 3:
                raise NotThisKindError(f"stride {stride} has heads of {[head.channels for head in heads]} channels")
            names = [f"{what}_{stride}" for what in ("score", "box", "landmarks")]
            made = [
                face_less_background(by_channels[2 * len(sides)]), *(
                    identity(by_channels[each * len(sides)]) for each in (4, 10)
                ),
            ]
            outputs |= zip(names, made, strict=True)
            levels.append(Level(stride, list(map(float, sides)), *names))
        return Reading(outputs, DenseStage([], INPUT, 0.0, 1.0, self.multiple, levels, VARIANCES))

    def candidates(self, outputs: Mapping[str, Floats], size: tuple[int, int], anchors: Anchors) -> Candidates:
        priors = prior_boxes(size, (8, 16, 32), anchors)
        offsets, scores, points = (columns(outputs, count)[0] for count in (4, 2, 10))
        centre, sides = priors[:, :2], priors[:, 2:]
        middle = centre + offsets[:, :2] * VARIANCES[0] * sides
        half = sides * np.exp(offsets[:, 2:] * VARIANCES[1]) / 2
        found = centre[:, None] + points.reshape(-1, 5, 2) * VARIANCES[0] * sides[:, None]
        return Candidates(np.concatenate((middle - half, middle + half), axis=1), scores[:, 1], found)


def prior_boxes(size: tuple[int, int], strides: tuple[int, ...], anchors: Anchors) -> Floats:
    """Every prior box (N, 4), its centre, width and height in pixels, in the order that files flatten them."""
    levels = []
    for stride, sides in zip(strides, anchors, strict=True):
        centre = (cells(*size, stride, len(sides)) + 0.5) * stride
        side = np.tile(np.array(sides, np.float32), len(centre) // len(sides))
        levels.append(np.column_stack((centre, side, side)))
    return np.concatenate(levels).astype(np.float32)


kind("retinaface")(RetinaFace())
