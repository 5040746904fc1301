"""What an inference engine is to the runtime, and the registry that finds one by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle
from edgeface.errors import UnknownEngineError
from edgeface.registry import Registry

Takes = Literal["planes", "pixels"]

_FLOAT32, _INT8 = np.dtype(np.float32), np.dtype(np.int8)


@dataclass(frozen=True)
class Options:
    """How a net is to run; an engine leaves alone what it has no choice in.

    ``precision`` is the bundle's ``form``: "fp32" asks for arithmetic in float32, "fp16" allows float16 where the
    processor has it, "int8" for the files' integers, with results that are the same on every processor where the engine
    can give them, and "int8-fast" for what is fastest on this one. ``device`` is torch's: "cpu", "cuda", "cuda:1".
    """

    threads: int = 1
    precision: str = "fp32"
    device: str = "cpu"


@dataclass(frozen=True)
class RawMap:
    """An output as its engine holds it: ``values`` (C, H, W), float32 or int8, in any order of memory.

    The strides say how they lie: a (H, W, C) net gives a transposed view. ``scale`` belongs to int8 alone: a real value
    is scale * integer in float32. Raises ValueError for anything else.
    """

    values: NDArray[np.float32] | NDArray[np.int8]
    scale: float | None = None

    def __post_init__(self) -> None:
        # One is made for every output of every picture, and a comparison of dtypes is the fast one.
        if self.values.dtype != (_FLOAT32 if self.scale is None else _INT8) or self.values.ndim != 3:
            raise ValueError(f"not a raw map: {self.values.dtype} {self.values.shape}, scale {self.scale}")

    def real(self) -> NDArray[np.float32]:
        """The real values, contiguous float32 (C, H, W), the caller's own."""
        return self.converted(self.values)

    def converted(self, values: NDArray[np.float32] | NDArray[np.int8]) -> NDArray[np.float32]:
        """Any of the map's ``values`` as real ones: contiguous float32 of their shape, the caller's own."""
        out = np.empty(values.shape, np.float32)
        if self.scale is None:
            out[...] = values
        else:
            np.multiply(values, np.float32(self.scale), out=out)
        return out


class Run(Protocol):
    """One input on its way through a net; what is never asked for is never computed, where the engine allows it."""

    def output(self, name: str) -> NDArray[np.float32]:
        """The output of that name, contiguous float32 (C, H, W), the caller's own. Raises EngineError."""
        ...

    def raw(self, name: str) -> RawMap:
        """The output of that name to read from, without a conversion and, where that is safe, without a copy.

        Raises EngineError.
        """
        ...


class Session(Protocol):
    """One loaded net. ``outputs`` are the names that a run can be asked for.

    ``takes`` says what a run starts on: "planes", a contiguous float32 (C, H, W), normalised where it is a picture; or
    "pixels", the letterboxed picture as an all-integer net takes it, a contiguous int8 (H, W, 3) of pixel - 128 in BGR.
    """

    outputs: frozenset[str]
    takes: Takes

    def run(self, x: NDArray[Any]) -> Run:
        """Start on such an array, which must not change while the Run is used. Raises EngineError."""
        ...


@runtime_checkable
class BatchSession(Session, Protocol):
    """A net that gains by computing several inputs at once, as on a GPU."""

    def run_batch(self, inputs: Sequence[NDArray[Any]]) -> Sequence[Run]:
        """A run for each of ``inputs``, arrays of one shape as ``run`` takes them. Raises EngineError."""
        ...


class Engine(Protocol):
    """Opens nets. Each engine imports its package inside the call, so that the registry costs nothing."""

    def __call__(
        self, directory: Path, files: Sequence[str], input_name: str, options: Options
    ) -> Session:
        """Load the net that ``files`` in ``directory`` make up.

        Raises EngineError when the files are damaged or have no input ``input_name``, and MissingExtraError
        when the engine's package is not installed.
        """
        ...


engine: Registry[Engine] = Registry("engine", UnknownEngineError)
# By an engine's name: the bundle that one file is to it, which no bundle.json describes. Raises as ``read_bundle``.
file_reader: Registry[Callable[[Path], Bundle]] = Registry("engine of single files", UnknownEngineError)
