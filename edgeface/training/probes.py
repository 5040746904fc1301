"""What looks at a network while it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn


@dataclass(frozen=True)
class LookCost:
    """How long a look is foreseen to take, in seconds: for dev figures, and for the set S."""

    dev_s: float = 0.0
    hard_s: float = 0.0


class Probe(Protocol):
    """What looks at the network between steps, on the leading process."""

    def foreseen(self, net: nn.Module, most_dev_s: float) -> LookCost:
        """How long it takes; from then on dev figures are of so few samples that they take no more than that."""
        ...

    def dev(self, net: nn.Module) -> dict[str, float]:
        """Figures on the dev parts; ``choose`` among them decides which weights are best, the more the better."""
        ...


@dataclass(frozen=True)
class PlainProbe:
    """A probe whose figures, of samples that are cut already, take a time that need not be foreseen."""

    figures: Callable[[nn.Module], dict[str, float]]

    def foreseen(self, net: nn.Module, most_dev_s: float) -> LookCost:
        """Nothing: as ``Probe``."""
        return LookCost()

    def dev(self, net: nn.Module) -> dict[str, float]:
        """As ``Probe``."""
        return self.figures(net)
