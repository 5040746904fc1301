"""Where a trainer's batches come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.training.objective import BatchKind


class BatchSource(ABC, Generic[BatchKind]):
    """Batches of samples, each drawn from the seed and the step alone, so that a run can go on.

    ``unit`` names the samples; the log has ``UNIT_per_s``. What only crops with feedback need does nothing here.
    """

    unit: str = "faces"

    @abstractmethod
    def batches(self, start: int) -> Iterator[BatchKind]:
        """Endless batches from the step ``start`` on, where the network is."""

    @abstractmethod
    def size(self, batch: BatchKind) -> int:
        """How many samples of ``unit`` it has."""

    def counts(self) -> dict[str, int]:
        """How many samples there are, for the log; empty where they are drawn without end."""
        return {}

    def feed_back(self, told: Mapping[str, Tensor]) -> None:
        """Take what the losses of a step tell, as ``Losses.feedback``."""

    def entry(self) -> dict[str, Any]:
        """What a line of the log says of the source."""
        return {}

    def renew(self, net: nn.Module, looked: int, in_time: bool) -> dict[str, Any]:
        """Draw otherwise from now on, after the dev figures number ``looked``, where there is time for it. What the log
        says of that; empty where nothing is renewed."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a run needs to go on with the same samples."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave in an earlier run."""


class RandomRows(BatchSource[BatchKind]):
    """Batches of ``batch`` rows, drawn anew for every step from ``count`` samples that are kept; ``rows`` gives them.

    ``dev`` is how many samples are looked at.
    """

    def __init__(
        self, count: int, dev: int, batch: int, seed: int, rows: Callable[[NDArray[np.int64]], BatchKind]
    ) -> None:
        self._count, self._dev, self._batch, self._seed, self._rows = count, dev, min(batch, count), seed, rows

    def batches(self, start: int) -> Iterator[BatchKind]:
        step = start
        while True:
            rng = np.random.default_rng((self._seed, step))
            yield self._rows(np.sort(rng.choice(self._count, self._batch, replace=False)))
            step += 1

    def size(self, batch: BatchKind) -> int:
        return self._batch

    def counts(self) -> dict[str, int]:
        return {"train": self._count, "dev": self._dev}
