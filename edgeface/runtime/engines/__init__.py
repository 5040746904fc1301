"""The inference engines by name. Importing this imports none of their packages."""

from __future__ import annotations

from edgeface.runtime.engines import ncnn as _ncnn  # noqa: F401  (registers ncnn)
from edgeface.runtime.engines import onnx as _onnx  # noqa: F401  (registers onnx)
from edgeface.runtime.engines import tflite as _tflite  # noqa: F401  (registers tflite)
from edgeface.runtime.engines.registry import Engine, Options, RawMap, Run, Session, engine, file_reader

__all__ = ["Engine", "Options", "RawMap", "Run", "Session", "engine", "file_reader"]
