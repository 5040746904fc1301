"""YOLO5Face (Qi and others, arXiv:2105.12931), of yolov5-face."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeface.bundle import Cells, DenseStage, Level, Objectness

from .graph import ForeignGraph, Output
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
    chosen,
    columns,
    flat,
    kind,
    sigmoid,
)

_ANCHORS = (
    ((4.0, 5.0), (8.0, 10.0), (13.0, 16.0)), ((23.0, 29.0), (43.0, 55.0), (73.0, 105.0)),
    ((146.0, 217.0), (231.0, 300.0), (335.0, 433.0)),
)
_VALUES = 16        # an anchor: box 4, objectness, five points, class


class Yolov5Face(ForeignKind):
    """A level: three anchors a cell of 16 values, a box within bounds, objectness times class, and five points."""

    looks = "a level one map of 48 channels, or all of them as Nx16"
    origin = "https://github.com/deepcam-cn/yolov5-face"
    licence = "YOLO5Face: GPL-3.0; see its authors' page"
    pixels = Pixels(True, (0.0, 0.0, 0.0), 1 / 255)
    nms_iou = 0.45

    def read(self, graph: ForeignGraph, anchors: Anchors) -> Reading:
        outputs: dict[str, Output] = {}
        levels, objectness = [], []
        strides = by_level(graph.heads())
        if [len(heads) for heads in strides.values()] != [1, 1, 1]:
            raise NotThisKindError(f"it has heads {[len(heads) for heads in strides.values()]} a level")
        for (stride, (head,)), sides in zip(strides.items(), _ANCHORS, strict=True):
            if head.channels != _VALUES * len(sides):
                raise NotThisKindError(f"stride {stride} has a head of {head.channels} channels")
            parts = {"score": [15], "objectness": [4], "box": range(4), "landmarks": range(5, 15)}
            for what, values in parts.items():
                channels = [anchor * _VALUES + value for anchor in range(len(sides)) for value in values]
                outputs[f"{what}_{stride}"] = chosen(head, channels)
            shown = [float(np.sqrt(width * height).round(1)) for width, height in sides]
            levels.append(Level(stride, shown, f"score_{stride}", f"box_{stride}", f"landmarks_{stride}"))
            objectness.append(f"objectness_{stride}")
        stage = DenseStage(
            [], INPUT, 0.0, self.pixels.scale, self.multiple, levels, (1.0, 1.0),
            coding=Cells([list(sides) for sides in _ANCHORS]), objectness=Objectness(objectness),
        )
        return Reading(outputs, stage)

    def candidates(self, outputs: Mapping[str, Floats], size: tuple[int, int], anchors: Anchors) -> Candidates:
        decoded = columns(outputs, _VALUES)
        values = decoded[0] if decoded else _decoded(outputs, size)
        middle, half = values[:, :2], values[:, 2:4] * np.float32(0.5)
        boxes: Floats = np.concatenate((middle - half, middle + half), axis=1)
        return Candidates(boxes, values[:, 4] * values[:, 15], values[:, 5:15].reshape(-1, 5, 2))


def _decoded(outputs: Mapping[str, Floats], size: tuple[int, int]) -> Floats:
    """What a file with the decoding in it gives, (N, 16), from the three maps before the sigmoid."""
    found = []
    maps = sorted(outputs.values(), key=lambda array: array.size, reverse=True)
    for stride, sides, raw in zip((8, 16, 32), _ANCHORS, maps, strict=True):
        # (1, 3 * 16, h, w) or, as the training code shapes it, (1, 3, h, w, 16)
        rows = raw.transpose(0, 2, 3, 1, 4) if raw.ndim == 5 else raw
        values = flat(rows, _VALUES).copy()
        corner = cells(*size, stride, len(sides))
        side = np.tile(np.array(sides, np.float32), (len(values) // len(sides), 1))
        plain = [*range(5), 15]
        values[:, plain] = sigmoid(values[:, plain])
        values[:, :2] = (values[:, :2] * 2 - 0.5 + corner) * stride
        values[:, 2:4] = (values[:, 2:4] * 2) ** 2 * side
        points = values[:, 5:15].reshape(-1, 5, 2)
        values[:, 5:15] = (points * side[:, None] + corner[:, None] * stride).reshape(-1, 10)
        found.append(values)
    return np.concatenate(found)


kind("yolov5face")(Yolov5Face())
