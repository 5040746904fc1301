"""YuNet (Wu and others, Machine Intelligence Research 20, 2023), of libfacedetection.train and OpenCV's zoo."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeface.bundle import DenseStage, Level, Objectness

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

_CENTRE = 0.5       # a cell's own centre, from which edgeface counts, and YuNet from its corner


class YuNet(ForeignKind):
    """A level: two scores whose geometric mean counts, a box as an offset from the cell's corner and the logarithm of
    its size, and five points from that corner, all in strides."""

    looks = "a level cls and obj of 1, bbox of 4 and kps of 10 channels"
    origin = "https://github.com/ShiqiYu/libfacedetection.train, https://github.com/opencv/opencv_zoo"
    licence = "YuNet: MIT (OpenCV zoo), BSD-3-Clause (libfacedetection); see its authors' page"
    pixels = Pixels(False, (0.0, 0.0, 0.0), 1.0)
    nms_iou = 0.45

    def read(self, graph: ForeignGraph, anchors: Anchors) -> Reading:
        outputs: dict[str, Output] = {}
        levels, objectness = [], []
        for stride, heads in by_level(graph.heads()).items():
            if sorted(head.channels for head in heads) != [1, 1, 4, 10]:
                raise NotThisKindError(f"stride {stride} has heads of {[head.channels for head in heads]} channels")
            (one, other), box, points = _with(heads, 1), _with(heads, 4)[0], _with(heads, 10)[0]
            names = [f"{what}_{stride}" for what in ("score", "objectness", "box", "landmarks")]
            both = [-_CENTRE, -_CENTRE]
            outputs |= zip(
                names, (identity(one), identity(other), identity(box, [*both, 0, 0]), identity(points, both * 5)),
                strict=True,
            )
            levels.append(Level(stride, [float(stride)], names[0], names[2], names[3]))
            objectness.append(names[1])
        stage = DenseStage(
            [], INPUT, 0.0, 1.0, self.multiple, levels, (1.0, 1.0), objectness=Objectness(objectness, 0.5)
        )
        return Reading(outputs, stage)

    def candidates(self, outputs: Mapping[str, Floats], size: tuple[int, int], anchors: Anchors) -> Candidates:
        boxes, scores, points = [], [], []
        # By their columns, most rows first: a pair has other names. Which of the two scores is which says nothing.
        given = [columns(outputs, count) for count in (1, 4, 10)]
        if [len(each) for each in given] != [6, 3, 3]:
            raise NotThisKindError("its outputs are not rows of 1, 4 and 10 columns at three levels")
        for level, stride in enumerate((8, 16, 32)):
            cls, obj = given[0][2 * level : 2 * level + 2]
            box, kps = given[1][level], given[2][level]
            corner = cells(*size, stride, 1)
            middle, sides = (corner + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride
            boxes.append(np.concatenate((middle - sides / 2, middle + sides / 2), axis=1))
            scores.append(np.sqrt(cls.clip(0, 1) * obj.clip(0, 1))[:, 0])
            points.append((corner[:, None] + kps.reshape(-1, 5, 2)) * stride)
        return Candidates(np.concatenate(boxes), np.concatenate(scores), np.concatenate(points))


def _with(heads: list[Head], channels: int) -> list[Head]:
    return [head for head in heads if head.channels == channels]


kind("yunet")(YuNet())
