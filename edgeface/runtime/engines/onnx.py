"""onnxruntime on the CPU, for bundles of the onnx target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines.eager import EagerRun
from edgeface.runtime.engines.registry import Options, Takes, engine


class OnnxSession:
    """A loaded ONNX graph with one input of shape (1, C, H, W)."""

    takes: Takes = "planes"

    def __init__(self, session: Any, path: Path, input_name: str) -> None:
        inputs = [i.name for i in session.get_inputs()]
        if inputs != [input_name]:
            raise EngineError(
                f"{path}: its inputs are {', '.join(inputs) or 'none'}, not {input_name}: convert it again"
            )
        self._names: list[str] = [o.name for o in session.get_outputs()]
        self.outputs: frozenset[str] = frozenset(self._names)
        self.where = str(path)
        self._session = session
        self._input = input_name

    def run(self, x: NDArray[np.float32]) -> EagerRun:
        return EagerRun(self, x)

    def compute(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Every output, (C, H, W) by name; raises EngineError with onnxruntime's reason."""
        try:
            outputs = self._session.run(self._names, {self._input: x[None]})
        except Exception as error:  # onnxruntime's own classes derive from Exception and differ between its versions
            raise EngineError(f"{self.where}: onnxruntime failed: {_first_line(error)}") from None
        return {name: np.ascontiguousarray(o[0], np.float32) for name, o in zip(self._names, outputs, strict=True)}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@engine("onnx")
def open_onnx(
    directory: Path, files: Sequence[str], input_name: str, options: Options
) -> OnnxSession:
    """Load the one .onnx file in ``files``; errors as in ``Engine``. The file itself fixes the precision."""
    if len(files) != 1:
        raise EngineError(f"{directory}: an ONNX net is one file, not {len(files)}: convert it again")
    path = directory / files[0]
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f'the onnx engine needs onnxruntime ({error}): pip install "edgeface[convert]"'
        ) from None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    # On x86 without VNNI sums of int8 products saturate at 16 bits otherwise: wrong numbers, not just other rounding.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise EngineError(f"{path}: onnxruntime cannot load it ({_first_line(error)}): copy the bundle again") from None
    return OnnxSession(session, path, input_name)
