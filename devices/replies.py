"""What a worker answers, checked: a board may be another program, an older one, or one that does what it likes.

Every function here raises ReplyError, in words that say what was wrong, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeface.board_health import Health
from edgeface.bundle import Bundle
from edgeface.bundle.checks import inconsistency
from edgeface.faces import Faces

Arrays = Mapping[str, NDArray[Any]]
Wanted = TypeVar("Wanted")

_Count = Annotated[int, Meta(ge=0)]


class ReplyError(ValueError):
    """A result or an array that is not what was asked for."""


class LoadedBundle(msgspec.Struct, frozen=True):
    """A bundle that a worker holds, by its number there."""

    number: _Count
    threads: Annotated[int, Meta(ge=1)]
    bundle: Bundle


class Serving(msgspec.Struct, frozen=True):
    """The ``board`` that a worker's machine is like, None where it is like none that is described, and by model the
    bundle that its name means there."""

    board: str | None
    bundles: dict[str, str]


class Room(msgspec.Struct, frozen=True):
    """Where a bundle's files are to be copied to there, the ``directory`` that they will lie in, and whether that
    ``replaces`` another."""

    incoming: Annotated[str, Meta(min_length=1)]
    directory: Annotated[str, Meta(min_length=1)]
    replaces: bool


class Counted(msgspec.Struct, frozen=True):
    """``faces`` that each bundle found in all pictures, and the board's load before."""

    faces: list[_Count]
    load_1min: Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Timed:
    """``samples`` (bundles, rounds, 4) float64: ms of preprocessing, network, decoding and all, every round in order;
    ``faces`` that each bundle found in all pictures; the board's load before, and its health before and after."""

    samples: NDArray[np.float64]
    faces: list[int]
    load_1min: float
    before: Health
    after: Health


def converted(result: Any, kind: type[Wanted]) -> Wanted:
    """A reply's result as a ``kind``."""
    try:
        return msgspec.convert(result, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ReplyError(f"a {kind.__name__} that is none ({error})") from None


def loaded_bundle(result: Any) -> LoadedBundle:
    """What ``load`` answers, with a bundle that does not contradict itself."""
    loaded = converted(result, LoadedBundle)
    problem = inconsistency(loaded.bundle)
    if problem:
        raise ReplyError(f"a bundle that is none ({problem})")
    return loaded


def faces_of(arrays: Arrays, bundle: Bundle) -> Faces:
    """The faces that ``detect`` answers."""
    _check_floats(arrays)
    try:
        return Faces.of_arrays(arrays, bundle.attributes, bundle.classes)
    except (KeyError, TypeError, ValueError) as error:
        raise ReplyError(f"faces that are none ({error})") from None


def maps_of(arrays: dict[str, NDArray[Any]], names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Outputs of nets, float32 (C, H, W): those of ``names`` and no others, or any."""
    _check_floats(arrays)
    if names is not None and set(names) != arrays.keys():
        raise ReplyError(f"the outputs {_listed(arrays)} instead of {_listed(names)}")
    for name, array in arrays.items():
        if array.ndim != 3:
            raise ReplyError(f"the output {name!r} of shape {array.shape}")
    return arrays


def samples_of(arrays: Arrays, bundles: int, rounds: int) -> NDArray[np.float64]:
    """The times that ``time`` answers."""
    samples = arrays.get("samples")
    if samples is None or samples.dtype != np.float64 or samples.shape != (bundles, rounds, 4):
        raise ReplyError(f"no times of {bundles} bundles in {rounds} rounds")
    if not np.isfinite(samples).all() or samples.min(initial=0.0) < 0:
        raise ReplyError("times that are no numbers of milliseconds")
    return samples


def runs_of(arrays: Arrays, runs: int) -> NDArray[np.float64]:
    """The times that ``time_network`` answers."""
    ms = arrays.get("ms")
    if ms is None or ms.dtype != np.float64 or ms.shape != (runs,) or not np.isfinite(ms).all() or ms.min() <= 0:
        raise ReplyError(f"no times of {runs} runs of a network")
    return ms


def faces_counted(counted: Counted, bundles: int) -> list[int]:
    """How many faces each of the ``bundles`` found."""
    if len(counted.faces) != bundles:
        raise ReplyError(f"faces of {len(counted.faces)} bundles instead of {bundles}")
    return counted.faces


def _check_floats(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ReplyError(f"{name!r} as {array.dtype} instead of float32")


def _listed(names: Collection[str] | Sequence[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"
