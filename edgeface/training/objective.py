"""What a trainer minimises: an objective says a batch's losses by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

BatchKind = TypeVar("BatchKind")


class Losses(NamedTuple):
    """Of one batch: the ``total`` () to go back through, each task's loss () by name, unweighted and detached, and what
    the batches' source is told of them, by name."""

    total: Tensor
    tasks: dict[str, Tensor]
    feedback: dict[str, Tensor]


class Objective(nn.Module, ABC, Generic[BatchKind]):
    """One training step of ``net`` as one module: network, targets, losses. Several GPUs wrap exactly this."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @abstractmethod
    def forward(self, batch: BatchKind) -> Losses:
        """The losses of a batch, which lies where the network does."""

    def weights(self) -> dict[str, float]:
        """What each task's loss is multiplied by, for the log; empty where all count alike."""
        return {}

    def after_step(self) -> None:
        """What the network must be made to hold after its weights have moved."""


def summed(losses: Mapping[str, Tensor], weights: Mapping[str, float] | None = None) -> Losses:
    """The losses with their sum as the total, each times its weight; one of weight 0 has no part in it."""
    parts = list(losses.values()) if weights is None else [
        weights[name] * loss for name, loss in losses.items() if weights[name]
    ]
    return Losses(torch.stack(parts).sum(), {name: loss.detach() for name, loss in losses.items()}, {})
