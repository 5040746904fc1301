"""The Run of engines that compute all outputs of a net together."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EngineError
from edgeface.runtime.engines.registry import RawMap


class EagerSession(Protocol):
    """A loaded net that computes everything at once; ``where`` names it in errors."""

    outputs: frozenset[str]
    where: str

    def compute(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Every output, (C, H, W) by name, of a float32 (C, H, W); raises EngineError with the engine's reason."""
        ...


class EagerRun:
    """All outputs of one input, computed together on first use, or ``outputs`` where they are known already."""

    def __init__(
        self, session: EagerSession, x: NDArray[np.float32], outputs: dict[str, NDArray[np.float32]] | None = None
    ) -> None:
        if x.dtype != np.float32 or x.ndim != 3:
            raise EngineError(f"{session.where}: an input must be float32 (C, H, W), not {x.dtype} {x.shape}")
        self._session = session
        self._x = x
        self._outputs = outputs

    def output(self, name: str) -> NDArray[np.float32]:
        """The output of that name; raises EngineError."""
        if name not in self._session.outputs:
            known = ", ".join(sorted(self._session.outputs))
            raise EngineError(f"{self._session.where}: has no output {name!r}, only {known}")
        if self._outputs is None:
            self._outputs = self._session.compute(self._x)
        return self._outputs[name]

    def raw(self, name: str) -> RawMap:
        """The same array, not a copy; raises EngineError."""
        return RawMap(self.output(name))
