"""What a pipeline's stages hand to one another: the scene that all of them see, and the faces found so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeface.class_names import ClassNames
from edgeface.errors import BundleError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.landmarks import five_of_68
from edgeface.runtime.anchors import Anchors
from edgeface.runtime.clock import Clock, TimedRun
from edgeface.runtime.engines import RawMap, Session

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """One picture and how it is looked at: at ``size_px``, the longest side or (width, height), for faces of at least
    ``score`` in the end, suppressed at ``nms_iou``. ``spare`` is an array that may be overwritten for an input."""

    frame: Frame
    clock: Clock
    size_px: int | tuple[int, int]
    score: float
    nms_iou: float
    spare: NDArray[Any] | None = None


@dataclass(frozen=True)
class Late:
    """What is worked out only of those faces that are there in the end: ``compute`` takes indices (n,) and gives (n,
    ...), ``rows`` are those of the faces now."""

    compute: Callable[[Indices], Floats]
    rows: Indices

    def __getitem__(self, chosen: Indices) -> Late:
        return Late(self.compute, self.rows[chosen])

    def now(self) -> Floats:
        """It, worked out."""
        return self.compute(self.rows)


class Maps(Protocol):
    """What a dense stage gave out for one picture, to gather from. ``scale``: pixels of the net's input for one of the
    picture, x and y."""

    scale: tuple[float, float]

    def raw(self, name: str) -> RawMap:
        """The features of that name, computed when they are first asked for where the engine allows it."""
        ...


@dataclass(frozen=True)
class Found:
    """N faces, best first. ``boxes`` (N, 4) in pixels of the picture, ``scores`` (N,) probabilities; ``told``: what
    else is known of each by the names of ``Faces.arrays``, or can be worked out.

    After a dense stage ``maps`` are its features and ``anchors`` (N) where each face was kept. ``x`` is the first net's
    input, which may be overwritten when the picture is done.
    """

    boxes: Floats
    scores: Floats
    told: Mapping[str, Floats | Late] = field(default_factory=dict)
    maps: Maps | None = None
    anchors: Anchors | None = None
    x: NDArray[Any] | None = None

    def select(self, chosen: Indices) -> Found:
        """Those of the indices ``chosen``, in its order."""
        return replace(
            self, boxes=self.boxes[chosen], scores=self.scores[chosen],
            told={name: values[chosen] for name, values in self.told.items()},
            anchors=None if self.anchors is None else self.anchors[chosen],
        )

    def telling(self, more: Mapping[str, Floats | Late]) -> Found:
        """The same faces, of which ``more`` is known."""
        return replace(self, told={**self.told, **more})

    def faces(self, thresholds: Mapping[str, float], classes: Mapping[str, ClassNames]) -> Faces:
        """What a detector gives, everything worked out. Raises what a stage raises."""
        told = {name: values.now() if isinstance(values, Late) else values for name, values in self.told.items()}
        if "landmarks68" in told and "landmarks" not in told:
            told["landmarks"] = five_of_68(told["landmarks68"])
        return Faces.of_arrays({"boxes": self.boxes, "scores": self.scores, **told}, thresholds, classes)


class FirstStage(Protocol):
    """A pipeline's first stage with its net. ``smallest_px``: the least longest side that it can look at."""

    smallest_px: int

    def find(self, scene: Scene, least: float) -> Found:
        """The faces of a probability of at least ``least``. Raises InputError, OptionError, BundleError for a net with
        other outputs than the bundle says, EngineError, and FloatingPointError when the net gives what is no number."""
        ...

    def raw(self, scene: Scene) -> dict[str, Floats]:
        """Every output of the net, float32 (C, H, W), by a name that tells it from other stages'."""
        ...


@runtime_checkable
class BatchStage(FirstStage, Protocol):
    """A first stage that can look at several pictures at once, and whether its engine gains by that."""

    @property
    def gains_by_batches(self) -> bool: ...

    def find_batch(self, scenes: Sequence[Scene], least: float) -> list[Callable[[], Found]]:
        """For each scene what gives its faces, as ``find``; pictures that come to one size have been computed together.
        """
        ...


class NextStage(Protocol):
    """A further stage: takes the faces found so far, and gives them back changed, fewer, or with more told of them."""

    def __call__(self, scene: Scene, found: Found) -> Found:
        """Raises as ``FirstStage.find``."""
        ...

    def needed(self, least: float) -> float:
        """The score that a face needs before this stage, so that few are looked at, where ``least`` is wanted after."""
        ...

    def raw(self, scene: Scene) -> dict[str, Floats]:
        """As that of a first stage, on inputs that do not depend on what was found; nothing where there are none."""
        ...


def require(bundle_name: str, session: Session, names: Sequence[str]) -> None:
    """Raises BundleError when ``session`` lacks an output of ``names``."""
    missing = sorted(set(names) - session.outputs)
    if missing:
        raise BundleError(
            f"{bundle_name}: its nets have no output {', '.join(missing)}: convert the checkpoint again"
        )


def checked(
    bundle_name: str, run: TimedRun, name: str, channels: int | None, needed_by: str, rows_columns: tuple[int, ...]
) -> RawMap:
    """An output that must have ``channels`` channels, where that is known, and so many rows and columns, and has them;
    raises BundleError with who needs them."""
    raw = run.raw(name)
    found, *size = raw.values.shape
    if channels not in (None, found):
        raise BundleError(
            f"{bundle_name}: output {name} has {found} channels, {needed_by} {channels}: convert the checkpoint again"
        )
    if tuple(size) != rows_columns:
        raise BundleError(
            f"{bundle_name}: output {name} has {size[0]} rows and {size[1]} columns, of the strides in its bundle.json "
            f"come {rows_columns[0]} and {rows_columns[1]}: convert the checkpoint again"
        )
    return raw
