"""Learning rate over a run: linear warm-up, then half a cosine or drops, by steps or by minutes spent."""

from __future__ import annotations

import math
from typing import Protocol

from torch import nn, optim

from edgeface.training.config import Optimiser


class Length(Protocol):
    """How long a run is: its steps and, above 0, its minutes."""

    @property
    def steps(self) -> int: ...

    @property
    def budget_minutes(self) -> float: ...


def done_share(step: int, spent_s: float, run: Length) -> float:
    """How much of the run is done, 0 to 1: the larger of the share of its steps and of its minutes."""
    by_time = spent_s / (60 * run.budget_minutes) if run.budget_minutes > 0 else 0.0
    return min(1.0, max(step / run.steps, by_time))


def learning_rate(step: int, share: float, config: Optimiser) -> float:
    """Rate of a step: up to ``warmup_steps`` linear; then a cosine over ``share`` to final_share of the peak, or, where
    there are ``drops``, a tenth of what it was after each."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.drops:
        return config.learning_rate * 0.1 ** sum(share >= drop for drop in config.drops) * warmup
    floor = config.final_share
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
    return config.learning_rate * cosine * warmup


def build_optimiser(net: nn.Module, config: Optimiser) -> optim.Optimizer:
    """AdamW or SGD with momentum 0.9; vectors (biases, batch norm, temperatures) are not decayed."""
    matrices = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if config.name == "sgd":
        return optim.SGD(groups, lr=config.learning_rate, momentum=0.9)
    return optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
