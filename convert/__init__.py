"""Conversion of checkpoints into bundles: ONNX, ncnn, TFLite, and the parity report that every conversion ends in."""

from __future__ import annotations

from . import ncnn as _ncnn  # noqa: F401  (registers ncnn)
from . import onnx as _onnx  # noqa: F401  (registers onnx)
from . import tflite as _tflite  # noqa: F401  (registers tflite)
from .conversion import Conversion, check_parity, convert
from .parity import DepartedError, ParityReport, Tolerance
from .targets import Target, target

__all__ = [
    "Conversion", "DepartedError", "ParityReport", "Target", "Tolerance", "check_parity", "convert", "target",
]  # fmt: skip
