"""Which of a network is trained, by patterns of names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

ALL = ("*",)


class Trained:
    """The parameters and modules of ``net`` whose names fit the ``patterns``, as of a shell (``quality_unit*``); of
    several that fit the last counts, and one that begins with ``!`` says what is not trained.

    The others are frozen until ``release``: their parameters have no gradients, and lose those that an earlier training
    left, which would count where gradients are clipped. In ``training_mode`` they stay in evaluation mode, so that
    their batch norms keep their statistics.
    """

    def __init__(self, net: nn.Module, patterns: Sequence[str] = ALL) -> None:
        self._net = net
        self._modules = [module for name, module in net.named_modules() if fits(name, patterns)]
        self._frozen = [
            parameter for name, parameter in net.named_parameters()
            if parameter.requires_grad and not fits(name, patterns)
        ]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None

    def training_mode(self) -> None:
        """Put what is trained into training mode, the rest into evaluation mode."""
        self._net.eval()
        for module in self._modules:
            module.training = True      # of itself alone: its parts have names of their own

    def release(self) -> None:
        """Let the frozen parameters be trained again."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether the patterns say that a parameter or module of this name is trained."""
    fitting = [pattern for pattern in patterns if fnmatchcase(name, pattern.removeprefix("!"))]
    return bool(fitting) and not fitting[-1].startswith("!")
