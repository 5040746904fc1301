"""The registry of architectures: a name gives the function that builds the network from its options."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgeface.errors import UnknownModelError
from edgeface.registry import Registry

model: Registry[Callable[..., nn.Module]] = Registry("model", UnknownModelError)
