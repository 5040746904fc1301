"""SCRFD (Guo and others, arXiv:2105.04714), of insightface."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeface.bundle import DenseStage, Distances, Level

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
    flat,
    identity,
    kind,
)


class Scrfd(ForeignKind):
    """A level: A anchors a cell, each a score behind its sigmoid, a box as the distances of its edges from the cell's
    corner and perhaps five points from there, all in strides."""

    looks = "a level a score of A, bbox of 4A and perhaps kps of 10A channels, 3 levels or more"
    origin = "https://github.com/deepinsight/insightface/tree/master/detection/scrfd"
    licence = "SCRFD: code MIT, published weights for non-commercial research only; see its authors' page"
    pixels = Pixels(True, (127.5, 127.5, 127.5), 1 / 128)

    def read(self, graph: ForeignGraph, anchors: Anchors) -> Reading:
        outputs: dict[str, Output] = {}
        levels = []
        for stride, heads in by_level(graph.heads()).items():
            heads = sorted(heads, key=lambda head: head.channels)
            count = heads[0].channels
            found = [head.channels for head in heads]
            if found not in ([count, 4 * count], [count, 4 * count, 10 * count]) or len(heads[0].outputs) != 1:
                raise NotThisKindError(f"stride {stride} has heads of {found} channels")
            names = [f"{what}_{stride}" for what in ("score", "box", "landmarks")][: len(heads)]
            outputs |= {name: identity(head) for name, head in zip(names, heads, strict=True)}
            levels.append(Level(stride, [float(stride)] * count, *names))
        if len({level.landmarks is None for level in levels}) != 1 or len(levels) < 3:
            raise NotThisKindError(f"it has {len(levels)} levels")
        mean = self.pixels.mean[0]
        stage = DenseStage(
            [], INPUT, mean, self.pixels.scale, self.multiple, levels, (1.0, 1.0), coding=Distances()
        )
        return Reading(outputs, stage)

    def candidates(self, outputs: Mapping[str, Floats], size: tuple[int, int], anchors: Anchors) -> Candidates:
        # By levels: insightface's files give all scores, then all boxes; others go level by level.
        by_rows: dict[int, list[Floats]] = {}
        for array in outputs.values():
            cell_count = array.shape[2] * array.shape[3] if array.ndim == 4 else array.size // array.shape[-1]
            by_rows.setdefault(cell_count, []).append(array)
        boxes, scores, points = [], [], []
        strides = [8, 16, 32, 64, 128][: len(by_rows)]
        for stride, (_, arrays) in zip(strides, sorted(by_rows.items(), reverse=True), strict=True):
            arrays = sorted(arrays, key=lambda array: array.size)
            score = flat(arrays[0], 1)[:, 0]
            corner = cells(*size, stride, 1)
            corner = np.repeat(corner, len(score) // len(corner), axis=0)
            away = flat(arrays[1], 4)
            boxes.append(np.concatenate((corner - away[:, :2], corner + away[:, 2:]), axis=1) * stride)
            scores.append(score)
            if len(arrays) > 2:
                points.append((corner[:, None] + flat(arrays[2], 10).reshape(-1, 5, 2)) * stride)
        return Candidates(np.concatenate(boxes), np.concatenate(scores), np.concatenate(points) if points else None)


kind("scrfd")(Scrfd())
