"""The registry of benchmark networks: by ncnn's name for each, a function that builds it."""

from __future__ import annotations

from collections.abc import Callable

from edgeface.errors import UnknownNameError
from edgeface.registry import Registry

from .builder import Network

network: Registry[Callable[[], Network]] = Registry("network", UnknownNameError)
