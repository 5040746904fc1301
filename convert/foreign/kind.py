"""What a kind of foreign detector is: how its file is told, how it becomes a stage, and how its authors read it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import DenseStage
from edgeface.errors import ConversionError, UnknownTargetError
from edgeface.registry import Registry

from .graph import Output

if TYPE_CHECKING:
    from .graph import ForeignGraph, Head

Floats = NDArray[np.float32]
Anchors = Sequence[Sequence[float]]

INPUT = "image"


@dataclass(frozen=True)
class Pixels:
    """How a file takes a picture: x = (pixel - mean) * scale, in RGB or BGR. ``mean`` is one a channel, as it takes
    them."""

    is_rgb: bool
    mean: tuple[float, float, float]
    scale: float


@dataclass(frozen=True)
class Candidates:
    """What a file's outputs say before suppression: ``boxes`` (N, 4) x1 y1 x2 y2 and ``landmarks`` (N, 5, 2) or None in
    pixels of its input, ``scores`` (N,) probabilities."""

    boxes: Floats
    scores: Floats
    landmarks: Floats | None


@dataclass(frozen=True)
class Reading:
    """A file as edgeface takes it: the new graph's ``outputs`` by name, and the ``stage`` that reads them, without its
    files."""

    outputs: Mapping[str, Output]
    stage: DenseStage


class ForeignKind(ABC):
    """One kind of detector. ``looks``: its outputs in words; ``origin``: where its authors publish it; ``licence``: of
    the published weights; ``score`` and ``nms_iou``: the thresholds that it is used with."""

    looks: ClassVar[str]
    origin: ClassVar[str]
    licence: ClassVar[str]
    pixels: ClassVar[Pixels]
    multiple: ClassVar[int] = 32
    score: ClassVar[float] = 0.5
    nms_iou: ClassVar[float] = 0.4
    # Sets of anchors that files of this kind are published with, the usual one first; none where files say it.
    anchor_sets: ClassVar[tuple[Anchors, ...]] = ()

    @abstractmethod
    def read(self, graph: ForeignGraph, anchors: Anchors) -> Reading:
        """The file with these anchors a level; raises ``NotThisKindError`` for a file of another kind."""

    @abstractmethod
    def candidates(self, outputs: Mapping[str, Floats], size: tuple[int, int], anchors: Anchors) -> Candidates:
        """What the file's own outputs say of a picture of ``size`` (width, height), as its authors read them."""


class NotThisKindError(ConversionError):
    """A file whose outputs are not those of the kind that it was said to be."""


kind: Registry[ForeignKind] = Registry("detector kind", UnknownTargetError)


def identity(head: Head, offset: Sequence[float] | None = None) -> Output:
    """All channels of a head as they are, plus ``offset`` a channel."""
    shift = np.zeros(head.channels, np.float32) if offset is None else np.array(offset, np.float32)
    return Output(head, np.eye(head.channels, dtype=np.float32), shift)


def chosen(head: Head, channels: Sequence[int]) -> Output:
    """Those channels of a head, in that order."""
    return Output(head, np.eye(head.channels, dtype=np.float32)[list(channels)], np.zeros(len(channels), np.float32))


def by_level(heads: Sequence[Head]) -> dict[int, list[Head]]:
    """The heads of each stride, from the finest on."""
    levels: dict[int, list[Head]] = {}
    for head in heads:
        levels.setdefault(head.stride, []).append(head)
    return levels


def columns(outputs: Mapping[str, Floats], count: int) -> list[Floats]:
    """The outputs whose rows have ``count`` columns, (N, count) each, most rows first: those that are (1, N, count) or
    (N, count)."""
    found = [each.reshape(-1, count) for each in outputs.values() if each.ndim < 4 and each.shape[-1] == count]
    return sorted(found, key=len, reverse=True)


def cells(width: int, height: int, stride: int, anchors: int) -> Floats:
    """The column and row of every anchor of a level, (rows * columns * anchors, 2), in the order that detectors
    flatten maps: row, column, anchor."""
    rows, across = -(-height // stride), -(-width // stride)
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(rows)), -1).reshape(-1, 1, 2)
    return np.repeat(grid, anchors, axis=1).reshape(-1, 2).astype(np.float32)


def flat(array: Floats, count: int) -> Floats:
    """A map (1, A * count, h, w), or rows that are flat already, as (h * w * A, count)."""
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return array.reshape(-1, count)


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), plainly: not the runtime's, which is what is held against this."""
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float32)
