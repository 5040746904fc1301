"""ncnn's benchmark networks, built here with random weights: what an estimate is calibrated on."""

from __future__ import annotations

from . import classic as _classic  # noqa: F401  (registers the networks of full convolutions)
from . import mobile as _mobile  # noqa: F401  (registers the networks for phones)
from .builder import Builder, Network
from .registry import network

__all__ = ["Builder", "Network", "network"]
