"""Conversion of checkpoints into bundles: ONNX, ncnn, and the parity report that every conversion ends in."""

from __future__ import annotations

from . import ncnn as _ncnn  # noqa: F401  (registers ncnn)
from . import onnx as _onnx  # noqa: F401  (registers onnx)
from .conversion import Conversion, convert
from .parity import DepartedError, ParityReport, Tolerance
from .targets import Target, target

__all__ = ["Conversion", "DepartedError", "ParityReport", "Target", "Tolerance", "convert", "target"]
