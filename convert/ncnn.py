"""ncnn: the fp32 ONNX graph through pnnx into a text .param and a .bin, with the bundle's own blob names."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import ConversionError

from .onnx import export
from .parity import Tolerance
from .targets import Target, target

if TYPE_CHECKING:
    from edgeface.models.mos_export import Graph

PNNX_DEADLINE_S = 600
_MAGIC = "7767517"


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
    lines = param.splitlines()
    if len(lines) < 3 or lines[0].strip() != _MAGIC:
        raise ConversionError("pnnx wrote no ncnn .param: try another pnnx")
    seen: set[str] = set()
    for i, line in enumerate(lines[2:], start=2):
        fields = line.split()
        blobs = slice(4, 4 + int(fields[2]) + int(fields[3]))
        seen.update(fields[blobs])
        fields[blobs] = [names.get(blob, blob) for blob in fields[blobs]]
        fields[1] = names.get(fields[1], fields[1])
        lines[i] = f"{fields[0]:<24} {fields[1]:<24} {' '.join(fields[2:])}"
    missing = sorted(set(names) - seen)
    if missing:
        raise ConversionError(f"pnnx wrote no blob {', '.join(missing)}: try another pnnx")
    return "\n".join(lines) + "\n"


def _write(graph: Graph, paths: Sequence[Path], precision: str) -> None:
    """pnnx names the blobs in0, out0, out1, ...; the graph's names take their place."""
    with tempfile.TemporaryDirectory(prefix="edgeface-pnnx-") as scratch:
        onnx = Path(scratch) / f"{graph.stem}.onnx"
        export(graph, onnx, free=False)
        param, weights = run_pnnx(onnx, fp16=precision == "fp16")
        names = {"in0": graph.input, **{f"out{i}": name for i, name in enumerate(graph.outputs)}}
        paths[0].write_text(rename_blobs(param.read_text(), names))
        shutil.copyfile(weights, paths[1])


target("ncnn")(
    Target(
        packages=("torch", "onnx", "onnxsim", "onnxruntime", "pnnx", "ncnn"),
        engine="ncnn",
        tolerances={
            "fp16": Tolerance(raw=0.02, iou=0.95, score=0.02),
            "fp32": Tolerance(raw=1e-3, iou=0.99, score=0.005),
        },
        suffixes=(".param", ".bin"),
        write=_write,
    )
)
