"""Ultra-Light-Fast-Generic-Face-Detector-1MB: slim and RFB, at 320x240 and 640x480."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeface.bundle import DenseStage, Level

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
    columns,
    kind,
)
from .retinaface import VARIANCES, face_less_background


class UltraLight(ForeignKind):
    """Prior boxes of three, two, two and three sizes a cell at four strides; a softmax, and boxes decoded in the file.
    """

    looks = "scores Nx2 and boxes Nx4, decoded, of four levels"
    origin = "https://github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB"
    licence = "Ultra-Light-Fast-Generic-Face-Detector-1MB: MIT; see its authors' page"
    pixels = Pixels(True, (127.0, 127.0, 127.0), 1 / 128)
    multiple = 16       # not 64, or 320x240 itself could not be
    anchor_sets = (((10, 16, 24), (32, 48), (64, 96), (128, 192, 256)),)

    def read(self, graph: ForeignGraph, anchors: Anchors) -> Reading:
        outputs: dict[str, Output] = {}
        levels = []
        strides = by_level(graph.heads())
        if len(strides) != len(anchors):
            raise NotThisKindError(f"it has {len(strides)} levels, not {len(anchors)}")
        for (stride, heads), sides in zip(strides.items(), anchors, strict=True):
            by_channels = {head.channels: head for head in heads}
            if sorted(by_channels) != [2 * len(sides), 4 * len(sides)] or len(heads) != 2:
                raise NotThisKindError(f"stride {stride} has heads of {[head.channels for head in heads]} channels")
            box = by_channels[4 * len(sides)]
            outputs[f"score_{stride}"] = face_less_background(by_channels[2 * len(sides)])
            outputs[f"box_{stride}"] = _clipped(Output(
                box, np.eye(box.channels, dtype=np.float32), np.zeros(box.channels, np.float32)
            ), sides, graph.size)
            levels.append(Level(stride, list(map(float, sides)), f"score_{stride}", f"box_{stride}"))
        mean = self.pixels.mean[0]
        return Reading(outputs, DenseStage([], INPUT, mean, self.pixels.scale, self.multiple, levels, VARIANCES))

    def candidates(self, outputs: Mapping[str, Floats], size: tuple[int, int], anchors: Anchors) -> Candidates:
        boxes, scores = columns(outputs, 4)[0], columns(outputs, 2)[0]
        return Candidates(boxes * np.array([*size, *size], np.float32), scores[:, 1], None)


def _clipped(output: Output, sides: Sequence[float], size: tuple[int, int]) -> Output:
    """Prior boxes are clipped to the picture's size in the file, so that one of 256 is 240 high in 320x240: offsets of
    the square one that give the same box."""
    matrix, offset = output.matrix.copy(), output.offset.copy()
    for anchor, side in enumerate(sides):
        for axis, limit in enumerate(size):
            share = min(1.0, limit / side)
            matrix[4 * anchor + axis] *= share
            offset[4 * anchor + 2 + axis] += np.log(share) / VARIANCES[1]
    return Output(output.head, matrix, offset)


kind("ultralight")(UltraLight())
