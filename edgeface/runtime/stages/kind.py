"""What the rest of edgeface asks of a kind of stage, said once a kind: how it runs, how two nets of it are compared,
what an estimate feeds it, and how it is described."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle
from edgeface.runtime.engines import Session
from edgeface.runtime.stages.stage import Floats

Image = NDArray[np.uint8]
Size = int | tuple[int, int]
Shape = tuple[int, int, int]
Sides = tuple[Sequence[Session], Sequence[Session]]


@dataclass
class Sight:
    """A picture for comparing nets: at ``size_px``, the longest side or (width, height), with ``count`` faces for the
    nets on faces, which are ``boxes`` (n, 4) where there are as many. ``maps``: what the reference's dense net gave,
    once it has run."""

    image: Image
    boxes: Floats
    size_px: Size
    count: int
    maps: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One net on one input, ``x`` as the reference takes it and ``z`` as the candidate does. ``net``: which one of the
    stage's; ``outputs``: its outputs, and how a report calls them; ``name``: the net's, for people."""

    net: int
    name: str
    outputs: Mapping[str, str]
    x: NDArray[Any]
    z: NDArray[Any]


class StageKind(ABC):
    """One kind of stage; a ``stage`` of its methods is one of that kind. ``label`` is what an estimate calls the work
    of its nets. ``gives_maps``: others gather from what it gives out."""

    label: ClassVar[str]
    gives_maps: ClassVar[bool] = False

    @abstractmethod
    def opened(self, bundle: Bundle, number: int, nets: Sequence[Session]) -> Any:
        """Stage ``number`` of ``bundle`` from 0 with its ``nets``, a ``FirstStage`` or a ``NextStage``. Raises
        BundleError when a net lacks an output that the bundle says it has."""

    @abstractmethod
    def trials(self, bundle: Bundle, stage: Any, sides: Sides, sight: Sight) -> Iterator[Trial]:
        """What its nets are tried on in a sight; ``sides``: the reference's and the candidate's nets of that stage."""

    @abstractmethod
    def input_shapes(self, stage: Any, net: int, size_px: int, channels: Mapping[str, int]) -> list[Shape]:
        """(channels, height, width) of inputs to its net ``net``, smallest first: two that it must take and, of a net
        on pictures, that for ``size_px``. ``channels``: of the maps to gather from, by name."""

    @abstractmethod
    def describe(self, stage: Any) -> Iterator[tuple[str, str]]:
        """Its lines for people, a label and a text each; the label is empty from the second on."""

    def pixels(self, stage: Any, picture: Image, size_px: Size) -> Image | None:
        """What its net sees of a picture, uint8 (H, W, 3) each; of a net on crops it is one of them. None for a net on
        something else than pixels."""
        return None

    def normalisation(self, stage: Any) -> tuple[float, float]:
        """Mean and scale of its pixels, x = (pixel - mean) * scale; (0, 1) for a net on something else."""
        return 0.0, 1.0

    def crop_px(self, stage: Any) -> int | None:
        """The side of a crop in pixels, of a kind that works on crops."""
        return None

    def with_min_face(self, stage: Any, min_face_px: float) -> Any | None:
        """The stage that looks for faces from ``min_face_px`` on; None for a kind without such a limit."""
        return None

    def with_threshold(self, stage: Any, threshold: float) -> Any | None:
        """The stage that lets faces of the probability ``threshold`` through; None for a kind without a threshold."""
        return None

    def with_limit(self, stage: Any, limit: int) -> Any | None:
        """The stage that looks at ``limit`` candidates at most; None for a kind without such a limit."""
        return None
