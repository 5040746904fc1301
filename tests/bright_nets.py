"""Nets for cascades that take a white square with as much black round it for a face, so that all is known by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import (
    SCHEMA,
    Binary,
    Box,
    Bundle,
    Crops,
    Defaults,
    DenseStage,
    FaceStage,
    Landmarks,
    Level,
    Map,
    Output,
    PyramidStage,
    Score,
)
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.engines.registry import Takes

Floats = NDArray[np.float32]

CELL_PX, STRIDE = 12, 2
YES, NO = 4.0, -9.0         # logits
PYRAMID = PyramidStage(
    ["pnet"], "data", 128.0, 1 / 128, CELL_PX, STRIDE, "score", "box", factor=0.5, min_face_px=24.0, threshold=0.6,
    nms_iou=0.5, merge_iou=0.7, limit=50,
)


def on_crops(file: str, size_px: int, score: Score, limit: int, *more: Output) -> FaceStage:
    """A stage on crops of ``size_px`` as wide as the box, with a score and a box."""
    return FaceStage([[file]], "data", Crops(128.0, 1 / 128, size_px, 1.0), [score, Box("box"), *more], limit)


def tcnn_stage(*attributes: Output, threshold: float = 0.3, share_before: float = 0.5) -> FaceStage:
    """T-CNN with these attributes."""
    score = Score("score", threshold, nms_iou=0.4, combine="mean", share_before=share_before)
    return on_crops("tcnn", 48, score, 20, Landmarks("landmarks"), *attributes)


RNET = on_crops("rnet", 24, Score("score", 0.7, nms_iou=0.7), 40)
ONET = on_crops("onet", 48, Score("score", 0.0, nms_iou=0.7), 30, Landmarks("landmarks"))
ATTRIBUTES = Binary("mask", "attributes", 1, 0.6), Binary("quality", "quality", 0, 0.5)
TCNN = tcnn_stage(*ATTRIBUTES)
# A dense net with one anchor of 64 px at every 32 px.
DENSE = DenseStage(
    ["dense"], "data", 128.0, 1 / 128, 32, [Level(32, [64.0], "scores", "boxes")], (0.1, 0.2), [Map("features", 32)]
)
DEFAULTS = Defaults(64, 0.5, 0.4)


def bundle(*stages: Any, name: str = "hand", engine: str = "fake") -> Bundle:
    return Bundle(SCHEMA, name, name, "fp32", engine, list(stages), DEFAULTS, [], "tests only", {}, {}, True)


MHCNN = bundle(DENSE, TCNN)


class Run:
    """Fixed outputs."""

    def __init__(self, maps: Mapping[str, NDArray[Any]], scale: float | None = None) -> None:
        self._maps = maps
        self._scale = scale

    def output(self, name: str) -> Floats:
        return self.raw(name).real()

    def raw(self, name: str) -> RawMap:
        return RawMap(self._maps[name], self._scale)


class BrightWindows:
    """P-Net: ``YES`` where a window is white inside and black round that. Keeps the shapes of what it saw."""

    outputs = frozenset({"score", "box"})

    def __init__(self, takes: Takes = "planes") -> None:
        self.takes: Takes = takes
        self.seen: list[tuple[int, ...]] = []

    def run(self, x: NDArray[Any]) -> Run:
        self.seen.append(x.shape)
        grey = x[0] if self.takes == "planes" else x[:, :, 0] / 128
        windows = np.lib.stride_tricks.sliding_window_view(grey, (CELL_PX, CELL_PX))[::STRIDE, ::STRIDE]
        inside = windows[:, :, 3:9, 3:9].sum(axis=(2, 3))
        outside = windows.sum(axis=(2, 3)) - inside
        score = np.where((inside > 0.6 * 36) & (outside < -0.6 * 108), YES, NO).astype(np.float32)[None]
        return Run({"score": score, "box": np.zeros((4, *score.shape[1:]), np.float32)})


class BrightCrops:
    """R-Net, O-Net and T-CNN: a logit that rises with the brightness of a crop's middle, and of every crop ``answers``,
    (channels,) each. ``sizes`` are the numbers of crops of each inference."""

    def __init__(self, size_px: int, answers: Mapping[str, Sequence[float]] | None = None, takes: Takes = "planes",
                 score: Callable[[Floats], Floats] = lambda bright: 8 * bright) -> None:
        self.takes: Takes = takes
        self.size_px = size_px
        self.sizes: list[int] = []
        self._answers = {"box": (0.0,) * 4, "landmarks": (0.0,) * 10, **(answers or {})}
        self._score = score
        self.outputs = frozenset({"score", *self._answers})

    def run(self, x: NDArray[Any]) -> Run:
        pixels = x.transpose(1, 2, 0) if self.takes == "planes" else x / np.float32(128)
        quarter = self.size_px // 4
        middles = pixels.reshape(-1, self.size_px, self.size_px, 3)[:, quarter:-quarter, quarter:-quarter]
        bright = middles.mean(axis=(1, 2, 3)).astype(np.float32)
        self.sizes.append(len(bright))
        maps = {
            name: np.repeat(np.array(values, np.float32)[:, None], len(bright), axis=1)[:, :, None]
            for name, values in self._answers.items()
        }
        return Run({"score": self._score(bright).reshape(1, -1, 1).astype(np.float32), **maps})


class TwoFaces:
    """Two faces in a picture of 128 x 128: at (48, 48) with ``first`` as its logit, at (80, 48) with ``second``."""

    takes: Takes = "planes"
    outputs = frozenset({"scores", "boxes", "features"})

    def __init__(self, first: float, second: float) -> None:
        scores = np.full((1, 4, 4), NO, np.float32)
        scores[0, 1, 1], scores[0, 1, 2] = first, second
        features = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
        self._maps = {"scores": scores, "boxes": np.zeros((4, 4, 4), np.float32), "features": features}

    def run(self, x: Floats) -> Run:
        assert x.shape == (3, 128, 128)
        return Run(self._maps)


def tcnn(logit: float = 2.0, **answers: Any) -> BrightCrops:
    return BrightCrops(
        48, {"attributes": (-1.0, 1.0), "quality": (-2.0,), **answers}, score=lambda bright: np.full_like(bright, logit)
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def detector(
    whole: Bundle, nets: Sequence[Session], *, score: float = 0.5, size_px: int | tuple[int, int] = 256,
    nms_iou: float = 0.4,
) -> Detector:
    return Detector(whole, [[net] for net in nets], size_px=size_px, score=score, nms_iou=nms_iou)


def picture(faces: Sequence[tuple[int, int, int]], width: int = 256, height: int = 256) -> NDArray[np.uint8]:
    """Faces (x, y, side) on black, uint8 (height, width, 3): each is white in its middle, half as wide and high."""
    out = np.zeros((height, width, 3), np.uint8)
    for x, y, side in faces:
        quarter = side // 4
        out[y + quarter : y + side - quarter, x + quarter : x + side - quarter] = 255
    return out
