"""From raw maps to boxes, points and angles, only where a face was kept (mos.txt, section 3; formulas: DenseStage)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Level, PoseStage

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Anchors:
    """n kept anchors: their pyramid ``level`` and place in its maps, and their ``logits``.

    ``level``, ``anchor``, ``row`` and ``column`` are int64 (n,), ``logits`` float32 (n,).
    """

    level: Indices
    anchor: Indices
    row: Indices
    column: Indices
    logits: Floats

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, chosen: Indices) -> Anchors:
        """Those of the indices ``chosen``, in its order."""
        return Anchors(
            self.level[chosen], self.anchor[chosen], self.row[chosen], self.column[chosen], self.logits[chosen]
        )


def logit(probability: float) -> float:
    """log(p / (1 - p)) for p in 0..1, infinite at the ends."""
    if probability <= 0.0:
        return -math.inf
    if probability >= 1.0:
        return math.inf
    return math.log(probability / (1.0 - probability))


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), float32 -> float32, without overflow at either end."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def keep_anchors(scores: Sequence[Floats], threshold_logit: float, limit: int) -> Anchors:
    """The anchors whose logit reaches the threshold, of one map (A, H, W) a level; at most the ``limit`` best of them.

    They come by level, then by index (row * W + column) * A + anchor; of equal logits the first ones stay.
    """
    found = []
    for level, score in enumerate(scores):
        row, column, anchor = np.nonzero(score.transpose(1, 2, 0) >= threshold_logit)
        found.append(Anchors(np.full_like(row, level), anchor, row, column, score[anchor, row, column]))
    kept = Anchors(
        np.concatenate([f.level for f in found]),
        np.concatenate([f.anchor for f in found]),
        np.concatenate([f.row for f in found]),
        np.concatenate([f.column for f in found]),
        np.concatenate([f.logits for f in found]),
    )
    if len(kept) <= limit:
        return kept
    return kept[np.sort(np.argsort(-kept.logits, kind="stable")[:limit])]


def decode_boxes(box: Floats, kept: Anchors, level: Level, variances: tuple[float, float]) -> Floats:
    """Boxes (n, 4), x1 y1 x2 y2 in pixels of the net's input, of anchors of one level from its map (4A, H, W)."""
    offsets = _at(box, kept, 4)
    centre, side = _geometry(kept, level)
    v0, v1 = np.float32(variances[0]), np.float32(variances[1])
    with np.errstate(over="ignore"):    # an infinite box is the detector's to report
        half = np.exp(offsets[:, 2:] * v1) * side[:, None] / 2
    middle = centre + offsets[:, :2] * v0 * side[:, None]
    return np.concatenate((middle - half, middle + half), axis=1)


def decode_landmarks(landmarks: Floats, kept: Anchors, level: Level, variances: tuple[float, float]) -> Floats:
    """Five points (n, 5, 2) in pixels of the net's input, of anchors of one level from its map (10A, H, W)."""
    offsets = _at(landmarks, kept, 10).reshape(-1, 5, 2)
    centre, side = _geometry(kept, level)
    points: Floats = centre[:, None, :] + offsets * np.float32(variances[0]) * side[:, None, None]
    return points


def _at(values: Floats, kept: Anchors, per_anchor: int) -> Floats:
    """The ``per_anchor`` channels of each kept anchor: (n, per_anchor) from an anchor-major map."""
    channels, height, width = values.shape
    by_anchor = values.reshape(channels // per_anchor, per_anchor, height, width)
    picked: Floats = by_anchor[kept.anchor, :, kept.row, kept.column]
    return picked


def _geometry(kept: Anchors, level: Level) -> tuple[Floats, Floats]:
    """Centres (n, 2) and sides (n,) of kept anchors, in pixels of the net's input."""
    cells = np.stack((kept.column, kept.row), axis=1).astype(np.float32)
    sides = np.array(level.anchors_px, np.float32)
    return (cells + np.float32(0.5)) * np.float32(level.stride), sides[kept.anchor]


def gather_patches(features: Floats, row: Indices, column: Indices, patch: int) -> Floats:
    """``patch`` x ``patch`` neighbourhoods of P positions, zero outside the map: (C, H, W) -> (C, patch, patch * P)."""
    channels, height, width = features.shape
    steps = np.arange(patch) - patch // 2
    rows, columns = row[:, None] + steps, column[:, None] + steps
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    patches = features[:, rows[:, :, None], columns[:, None, :]]    # (C, P, patch, patch)
    patches[:, ~inside] = 0
    return np.ascontiguousarray(patches.transpose(0, 2, 1, 3)).reshape(channels, patch, -1)


def pose_degrees(logits: Floats, stage: PoseStage) -> Floats:
    """Pitch, yaw and roll in degrees (P, 3) from (3 * bins, 1, P): the expected bin centre (mos.txt, section 3.2.1)."""
    bins = logits.reshape(3, stage.bins, -1)
    weights = np.exp(bins - bins.max(axis=1, keepdims=True))
    index = np.arange(stage.bins, dtype=np.float32)[None, :, None]
    expected = (weights * index).sum(axis=1) / weights.sum(axis=1)
    degrees: Floats = (expected * np.float32(stage.bin_deg) + np.float32(stage.first_centre_deg)).T
    return np.ascontiguousarray(degrees)
