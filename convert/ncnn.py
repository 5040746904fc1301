"""ncnn: the float ONNX graph through pnnx into a text .param and a .bin, with the bundle's own blob names.

int8 is written by edgeface.convert.ncnn_int8 into what pnnx made of the baked weights: pnnx itself leaves the
QuantizeLinear of a quantised graph behind.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import ConversionError
from edgeface.runtime.engines.ncnn_files import Layer, parse_param
from edgeface.runtime.engines.ncnn_layers import to_bin, to_param

from .matching import placeable
from .ncnn_int8 import EXACT, FAST, Form, Int8Report, quantise
from .ncnn_model import read
from .onnx import export
from .parity import FP16, FP32, INT8_FAST, int8
from .targets import FastForm, Target, target

if TYPE_CHECKING:
    from edgeface.int8.scales import LayerScales
    from edgeface.models.family import Graph

PNNX_DEADLINE_S = 600
_INT8_SQNR_DB = 35.0
# What to use for an operator that ncnn does not have, by the last part of the name that pnnx gives it.
_INSTEAD = {
    "Expression": "sums and products of whole maps, or of a map and a number",
    "QuantizeLinear": "the float graph with baked weights",
    "DequantizeLinear": "the float graph with baked weights",
    "interpolate": "nearest or bilinear resizing by a fixed factor",
    "roi_align": "the features as an output, and RoIAlign after the network",
    "to": "float32 throughout",
}
_INSTEAD_OTHERWISE = "convolution, pooling, ReLU, PReLU, addition, concatenation, slices or resizing"


def run_pnnx(onnx: Path, *, fp16: bool) -> tuple[Path, Path]:
    """Convert ``onnx`` beside itself; gives the .param and the .bin. Raises ConversionError with pnnx's last words.

    With ``fp16`` the weights are stored in half precision; biases stay fp32.
    """
    import pnnx

    param, weights = onnx.with_suffix(".ncnn.param"), onnx.with_suffix(".ncnn.bin")
    command = [pnnx.EXEC_PATH, onnx.name, f"fp16={int(fp16)}"]
    try:
        done = subprocess.run(
            command, cwd=onnx.parent, capture_output=True, text=True, errors="replace", timeout=PNNX_DEADLINE_S
        )
    except subprocess.TimeoutExpired:
        raise ConversionError(f"{onnx.stem}: pnnx did not end within {PNNX_DEADLINE_S} s") from None
    except OSError as error:
        raise ConversionError(
            f"{onnx.stem}: pnnx cannot be started ({error.strerror}): pip install --force-reinstall pnnx"
        ) from None
    # pnnx ends with 0 after some of its failures, so what counts is what it wrote.
    if done.returncode or not param.is_file() or not weights.is_file():
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise ConversionError(f"{onnx.stem}: pnnx failed (exit status {done.returncode}): {words}")
    return param, weights


def rename_blobs(param: str, names: Mapping[str, str]) -> str:
    """A text .param with blobs renamed, and layers of the old names too. Raises ConversionError for one not there."""
    try:
        layers = parse_param(param)
    except ValueError as error:
        raise ConversionError(f"pnnx wrote no ncnn .param ({error}): try another pnnx") from None
    missing = sorted(set(names) - {blob for layer in layers for blob in layer.produces})
    if missing:
        raise ConversionError(f"pnnx wrote no blob {', '.join(missing)}: try another pnnx")
    return to_param([
        replace(
            layer,
            name=names.get(layer.name, layer.name),
            consumes=[names.get(blob, blob) for blob in layer.consumes],
            produces=[names.get(blob, blob) for blob in layer.produces],
        )
        for layer in layers
    ])


def refuse_missing_operators(stem: str, layers: Iterable[Layer]) -> None:
    """Raise ConversionError for the first layer that ncnn does not have: pnnx writes it and ncnn would not load it."""
    import ncnn

    for layer in layers:
        if ncnn.layer_to_index(layer.kind) < 0:
            instead = _INSTEAD.get(layer.kind.rpartition(".")[2], _INSTEAD_OTHERWISE)
            raise ConversionError(
                f"{stem}: layer {layer.name} is {layer.kind}, which ncnn does not have: use {instead}, "
                "or --target onnx"
            )


def from_onnx(onnx: Path, entry: str, outputs: Sequence[str], paths: Sequence[Path], *, fp16: bool) -> None:
    """Write the float graph ``onnx`` as a .param and a .bin, ``paths``, with its own names for the input ``entry`` and
    the ``outputs``. Raises ConversionError."""
    text, weights = _converted(onnx, entry, outputs, fp16=fp16)
    paths[0].write_text(text)
    shutil.copyfile(weights, paths[1])


def int8_from_onnx(
    onnx: Path, entry: str, outputs: Sequence[str], paths: Sequence[Path], scales: Sequence[LayerScales], *,
    lenient: bool = False, form: Form = EXACT,
) -> Int8Report:
    """As ``from_onnx``, with the layers of ``scales`` in int8; the graph has their baked weights.

    With ``lenient`` those that pnnx changed, or that cannot be told apart, stay float; ``form`` as in ``quantise``.
    Raises ConversionError.
    """
    text, weights = _converted(onnx, entry, outputs, fp16=False)
    layers = read(text, weights.read_bytes())
    if lenient:
        floats = [layer.weight for layer in layers if isinstance(layer.weight, np.ndarray)]
        scales = placeable(scales, floats)
    model, report = quantise(onnx.stem, layers, scales, form=form)
    paths[0].write_text(to_param([layer.line for layer in model]))
    paths[1].write_bytes(to_bin(model))
    return report


def _converted(onnx: Path, entry: str, outputs: Sequence[str], *, fp16: bool) -> tuple[str, Path]:
    """pnnx names the blobs in0, out0, out1, ...; the graph's names take their place."""
    param, weights = run_pnnx(onnx, fp16=fp16)
    text = rename_blobs(param.read_text(), {"in0": entry, **{f"out{i}": name for i, name in enumerate(outputs)}})
    refuse_missing_operators(onnx.stem, parse_param(text))
    return text, weights


def _write(graph: Graph, paths: Sequence[Path], precision: str, form: Form = EXACT) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="edgeface-pnnx-") as scratch:
        onnx = Path(scratch) / f"{graph.stem}.onnx"
        export(graph, onnx, free=False)
        if precision != "int8":
            from_onnx(onnx, graph.input, graph.outputs, paths, fp16=precision == "fp16")
            return []
        return [int8_from_onnx(onnx, graph.input, graph.outputs, paths, graph.scales, form=form).to_text()]


target("ncnn")(
    Target(
        packages=("torch", "onnx", "onnxsim", "onnxruntime", "pnnx", "ncnn"),
        engine="ncnn",
        tolerances={"fp16": FP16, "fp32": FP32, "int8": int8(_INT8_SQNR_DB)},
        suffixes=(".param", ".bin"),
        write=_write,
        points="inputs",
        fast=FastForm(partial(_write, form=FAST), INT8_FAST),
    )
)
