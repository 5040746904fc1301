"""The registry of conversion targets: what a bundle's files are and how a graph becomes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import MissingExtraError, UnknownTargetError
from edgeface.registry import Registry

if TYPE_CHECKING:
    from edgeface.models.family import Graph
    from edgeface.torch_engine import Points

    from .parity import Tolerance


def _no_scales(_path: Path) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class FastForm:
    """int8 as an engine is fastest with, where results may differ a little between processors: ``write`` as that of a
    ``Target``, and the ``tolerance`` of its faces."""

    write: Callable[[Graph, Sequence[Path], str], list[str] | None]
    tolerance: Tolerance


@dataclass(frozen=True)
class Target:
    """One kind of engine files.

    ``packages`` are what ``write`` and the engine import; ``engine`` is the name in edgeface.runtime.engines;
    ``tolerances`` by precision also says which precisions there are, the default one first. A graph becomes one file a
    suffix: ``write(graph, paths, precision)`` makes ``paths``, in the order of ``suffixes``, and raises ConversionError
    or OSError; it gives notes for whoever converts, texts of some lines each, or None. ``points`` is where the engine
    rounds in int8: at every tensor, or at what int8 layers read, with float32 between. ``scales`` gives the scales of
    the int8 inputs and outputs of a file that ``write`` made, by name. ``fast`` is None where int8 has one form alone.
    """

    packages: tuple[str, ...]
    engine: str
    tolerances: Mapping[str, Tolerance]
    suffixes: tuple[str, ...]
    write: Callable[[Graph, Sequence[Path], str], list[str] | None]
    points: Points = "all"
    scales: Callable[[Path], Mapping[str, float]] = _no_scales
    fast: FastForm | None = None

    def files(self, stem: str) -> list[str]:
        """The names of the files that a graph called ``stem`` becomes."""
        return [stem + suffix for suffix in self.suffixes]


target: Registry[Target] = Registry("target", UnknownTargetError)


def target_of(engine: str) -> Target:
    """The target whose files ``engine`` runs; raises UnknownTargetError."""
    for name in target.names():
        if target.get(name).engine == engine:
            return target.get(name)
    raise UnknownTargetError(f"nothing is converted for the engine {engine!r}: give a bundle for another engine")


def require(packages: Iterable[str]) -> None:
    """Import each package, so that a missing one is named before any work; raises MissingExtraError."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError(
                f'conversion needs {package} ({error}): pip install "edgeface[convert]"'
            ) from None
