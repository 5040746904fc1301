"""ONNX: the legacy torch exporter, opset 17, simplified by onnxsim and run once by onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import ConversionError
from edgeface.runtime.engines import Options
from edgeface.runtime.engines.onnx import open_onnx
from edgeface.runtime.engines.torch import TorchSession

from .parity import MapSums, Tolerance
from .targets import Target, target

if TYPE_CHECKING:
    from edgeface.models.mos_export import Graph

OPSET = 17
# Two float implementations of the same graph differ by rounding only; a wrong graph is off by its whole range.
_EXPORT_TOLERANCE = 1e-3


def export(graph: Graph, path: Path, *, free: bool) -> None:
    """Write the graph as a simplified fp32 ONNX file and check it against torch.

    With ``free`` the dimensions in ``graph.free`` are symbolic, else the shapes are ``graph.shapes[0]``'s: fixed
    shapes leave no Shape or Gather nodes, which hide a channel shuffle from other converters. Raises ConversionError.
    """
    import onnx
    import onnxsim
    import torch

    names = [graph.input, *graph.outputs]
    with warnings.catch_warnings(), torch.inference_mode():
        # The newer exporter, which a warning here asks for, takes ten times as long and gives the same graph.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph.module, (torch.zeros(graph.shapes[0]),), path, dynamo=False, opset_version=OPSET,
                input_names=names[:1], output_names=names[1:],
                dynamic_axes=dict.fromkeys(names, graph.free) if free else None,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ConversionError(f"{graph.stem}: torch cannot export it: {_last_line(error)}") from None
    try:
        model, same = onnxsim.simplify(onnx.load(path))
        onnx.checker.check_model(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ConversionError(f"{graph.stem}: onnxsim cannot simplify it: {_last_line(error)}") from None
    if not same:
        raise ConversionError(f"{graph.stem}: onnxsim changed what the graph computes: try another onnxsim")
    path.write_bytes(model.SerializeToString())
    for shape in graph.shapes if free else graph.shapes[:1]:
        _check(graph, path, shape)


def _check(graph: Graph, path: Path, shape: tuple[int, ...]) -> None:
    """Run the file once in onnxruntime, on noise, against torch; raises ConversionError."""
    noise = np.random.default_rng(0).uniform(-1, 1, shape[1:]).astype(np.float32)
    expected = TorchSession(graph, graph.stem, Options()).run(noise)
    actual = open_onnx(path.parent, [path.name], graph.input, Options()).run(noise)
    for name in graph.outputs:
        sums = MapSums(name)
        sums.add(expected.output(name), actual.output(name))
        parity = sums.parity()
        if not parity.share <= _EXPORT_TOLERANCE:
            raise ConversionError(
                f"{graph.stem}: ONNX output {name} is off by {parity.share:.2g} of its range at input {shape}: "
                "try another torch or onnxsim"
            )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _write(graph: Graph, paths: Sequence[Path], _precision: str) -> None:
    export(graph, paths[0], free=True)


target("onnx")(
    Target(
        packages=("torch", "onnx", "onnxsim", "onnxruntime"),
        engine="onnx",
        tolerances={"fp32": Tolerance(raw=1e-3, iou=0.99, score=0.005)},
        suffixes=(".onnx",),
        write=_write,
    )
)
