"""What an inference engine is to the runtime, and the registry that finds one by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import UnknownEngineError
from edgeface.registry import Registry


class Run(Protocol):
    """One input on its way through a net; what is never asked for is never computed, where the engine allows it."""

    def output(self, name: str) -> NDArray[np.float32]:
        """The output of that name, contiguous float32 (C, H, W), the caller's own. Raises EngineError."""
        ...


class Session(Protocol):
    """One loaded net. ``outputs`` are the names that a run can be asked for."""

    outputs: frozenset[str]

    def run(self, x: NDArray[np.float32]) -> Run:
        """Start on a contiguous float32 (C, H, W), which must not change while the Run is used. Raises EngineError."""
        ...


class Engine(Protocol):
    """Opens nets. Each engine imports its package inside the call, so that the registry costs nothing."""

    def __call__(
        self, directory: Path, files: Sequence[str], input_name: str, threads: int, precision: str = "fp32"
    ) -> Session:
        """Load the net that ``files`` in ``directory`` make up, to run on ``threads`` threads.

        ``precision`` is the bundle's: "fp32" asks for arithmetic in float32, "fp16" allows float16 where the processor
        has it. Raises EngineError when the files are damaged or have no input ``input_name``, and MissingExtraError
        when the engine's package is not installed.
        """
        ...


engine: Registry[Engine] = Registry("engine", UnknownEngineError)
