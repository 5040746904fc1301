"""From a foreign ONNX file or ncnn pair to a bundle: new graph, an engine's files, the comparison that decides."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_tolerance
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from msgspec.structs import replace

from edgeface.bundle import SCHEMA, Bundle, Defaults, describe_file, sha256_of, write_manifest, writing
from edgeface.errors import ConversionError, OptionError
from edgeface.evaluation.measure import measure
from edgeface.faces import Faces
from edgeface.runtime.detector import Detector
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.preprocess import letterbox_planes
from edgeface.wording import counted

from ..comparison import AP_SCORE, Watch, version_of
from ..face_parity import FaceSums
from ..ncnn import from_onnx, int8_from_onnx
from ..ncnn_int8 import IMPORTED
from ..parity import DepartedError, ParityReport, SizeParity, Tolerance
from ..pictures import Image, Pictures, calibration_pictures, choose
from ..tflite import tflite_bytes
from .graph import ForeignGraph
from .int8 import Calibrated, calibrated
from .int8_tflite import maps_to_quantise, with_scales
from .kind import INPUT, Anchors, ForeignKind, NotThisKindError, Reading, kind
from .original import Original, agreeing_anchors

PRECISIONS = ("fp32", "fp16", "int8")
CALIBRATION_PICTURES = 64
# Fewer cannot show what a layer reads: a line says so.
FEW_PICTURES = 20
# How much lower the AP of an int8 bundle may be than the file's.
INT8_AP_LOSS = 0.01
ENGINES: Mapping[str, tuple[str, ...]] = {"ncnn": (".param", ".bin"), "tflite": (".tflite",), "onnx": (".onnx",)}
# The same faces: a box that differs by no more than rounding. In a hundred one may be another by a tie.
TOLERANCES = {
    "fp32": Tolerance(iou=0.99, score=0.005, share=0.99),
    "fp16": Tolerance(iou=0.95, score=0.02, share=0.98),
    # Another network: most of the faces, and where there are annotations the AP.
    "int8": Tolerance(iou=0.7, score=0.2, share=0.9),
}
# The package that writes an engine's files.
_WRITES = {"ncnn": "pnnx", "tflite": "ai_edge_litert", "onnx": "onnxsim"}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Import:
    """A bundle that was written to ``directory``, how it compared with the file, and what there is to say of it."""

    directory: Path
    bundle: Bundle
    report: ParityReport
    notes: list[str]


def import_detector(
    path: Path,
    kind_name: str,
    *,
    engine: str = "ncnn",
    precision: str = "fp32",
    out: Path | None = None,
    anchors: Anchors | None = None,
    pictures: Path | None = None,
    calibrate: Path | None = None,
    size_px: int | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Import:
    """Write the bundle ``out`` of an ONNX file or an ncnn pair's .param, a detector of the kind ``kind_name``.

    ``out`` None is ``<file's stem>-<precision>-<engine>`` in the current folder. ``anchors`` are prior boxes' sides in
    pixels, a list a level, for kinds whose files do not say them; None takes the published ones that fit. ``pictures``:
    the folder for the comparison (see ``pictures.choose``); ``calibrate``: for int8, the folder of those to calibrate
    on (``pictures.calibration_pictures``); ``size_px``: the bundle's default input size, None the file's. ``watch`` and
    ``force`` are as those of ``convert``: the bundle has the faces of the file, as TOLERANCES says, or is not there.

    Raises UnknownTargetError for another kind, OptionError, ConversionError for a file that is none of that kind,
    MissingExtraError, InputError, DataError, OutputError, EngineError, and DepartedError with the report.
    """
    reader = kind.get(kind_name)
    _require_possible(engine, precision, calibrate)
    graph = ForeignGraph(path)
    chosen = choose(pictures)
    notes: list[str] = []
    if anchors is None:
        recognised(graph, kind_name, reader, reader.anchor_sets[0] if reader.anchor_sets else ())
        anchors, note = agreeing_anchors(graph, reader, chosen)
        notes += [note] if note else []
    reading = recognised(graph, kind_name, reader, anchors)
    original = Original(graph, reader, anchors)
    stem = _NOT_IN_NAMES.sub("_", path.stem).strip("._-") or kind_name
    directory = out or Path(f"{stem}-{precision}-{engine}")
    files = [stem + suffix for suffix in ENGINES[engine]]
    with writing(directory) as work:
        paths = [work / file for file in files]
        if calibrate is None:
            _write(graph, reader, reading, paths, engine, precision)
        else:
            notes += _write_int8(graph, reader, reading, paths, calibrate, engine, watch)
        bundle = Bundle(
            SCHEMA, f"{stem}-{precision}-{engine}", stem, precision, engine,  # type: ignore[arg-type]  # checked above
            [replace(reading.stage, files=files)],
            Defaults(size_px or max(graph.size), reader.score, reader.nms_iou),
            [describe_file(work / file) for file in files], reader.licence, {}, {}, False,
        )
        report = _compare(original, bundle, work, chosen, watch)
        if not report.passed and not force:
            raise DepartedError(report, "no bundle was written; --force writes it as not verified")
        command = f"edgeface import {path.name} --as {kind_name} --engine {engine} --precision {precision}"
        command += "" if calibrate is None else f" --calibrate {calibrate.name}"
        made = _made(command, path, kind_name, reader, engine) | {"parity": report.summary(), "notes": notes}
        bundle = replace(bundle, made=made, verified=report.passed)
        write_manifest(work, bundle)
    return Import(directory, bundle, report, notes)


def _made(command: str, path: Path, kind_name: str, reader: ForeignKind, engine: str) -> dict[str, Any]:
    """Of which file, by which command, and with what."""
    imported = {"file": path.name, "sha256": sha256_of(path), "kind": kind_name, "published": reader.origin}
    if path.suffix == ".param":
        imported["weights_sha256"] = sha256_of(path.with_suffix(".bin"))
    return {
        "command": command,
        "imported": imported,
        "versions": {each: version_of(each) for each in ("edgeface", "onnx", "onnxruntime", _WRITES[engine])},
    }


def _require_possible(engine: str, precision: str, calibrate: Path | None) -> None:
    """Raises OptionError for an engine and a precision that no import is written for."""
    if precision == "int8" and engine == "onnx":
        raise OptionError("int8 of a file of others is made for ncnn and tflite: give one of these as --engine")
    if precision == "int8" and calibrate is None:
        raise OptionError("int8 needs pictures to calibrate on: give --calibrate a folder of 50 and more with faces")
    if precision != "int8" and calibrate is not None:
        raise OptionError(f"--calibrate is for int8, and {precision} needs no scales: add --precision int8, or drop it")
    if engine not in ENGINES or precision not in PRECISIONS:
        raise OptionError(
            f"{engine} {precision} cannot be: engines are {', '.join(ENGINES)}, precisions {', '.join(PRECISIONS)}"
        )
    if engine == "onnx" and precision != PRECISIONS[0]:
        raise OptionError("onnx bundles are fp32: leave the precision out")


def looks_like(path: Path) -> str:
    """What to say of a file of which nobody said what it is; raises ConversionError for what is no detector's file."""
    graph = ForeignGraph(path)
    found = [name for name in kind.names() if _is(graph, kind.get(name))]
    if found:
        return f"its outputs are those of {' or '.join(found)}: say so, --as {found[0]}"
    return f"its outputs are those of no kind that is known: {_unknown(graph)}"


def _unknown(graph: ForeignGraph) -> str:
    kinds = "; ".join(f"{name}: {kind.get(name).looks}" for name in kind.names())
    return f"{graph.describe()}. Kinds: {kinds}"


def recognised(graph: ForeignGraph, kind_name: str, reader: ForeignKind, anchors: Anchors) -> Reading:
    """The file as that kind; raises ConversionError with what its outputs are, and which kinds there are."""
    try:
        return reader.read(graph, anchors)
    except NotThisKindError as error:
        others = [name for name in kind.names() if name != kind_name and _is(graph, kind.get(name))]
        hint = f"; it looks like {' or '.join(others)}: --as {others[0]}" if others else ""
        raise ConversionError(
            f"{graph.path}: is no {kind_name} ({error}){hint}. Its outputs are {_unknown(graph)}"
        ) from None


def _is(graph: ForeignGraph, reader: ForeignKind) -> bool:
    try:
        reader.read(graph, reader.anchor_sets[0] if reader.anchor_sets else ())
    except NotThisKindError:
        return False
    return True


def _rebuilt(graph: ForeignGraph, reader: ForeignKind, reading: Reading) -> onnx.ModelProto:
    pixels = reader.pixels
    # A mean that is one for all channels the runtime subtracts, with the scale.
    mean = (0.0, 0.0, 0.0) if len(set(pixels.mean)) == 1 else pixels.mean
    model: onnx.ModelProto = graph.rebuilt(reading.outputs, input_name=INPUT, is_rgb=pixels.is_rgb, mean=mean)
    return model


def _write_int8(
    graph: ForeignGraph, reader: ForeignKind, reading: Reading, paths: Sequence[Path], folder: Path, engine: str,
    watch: Watch | None,
) -> list[str]:
    """The engine's files in int8, calibrated on the pictures of ``folder``; lines that say how."""
    chosen = calibration_pictures(folder, CALIBRATION_PICTURES)
    stage = reading.stage

    def inputs() -> Iterator[Any]:
        items: Iterable[tuple[str, Any]] = chosen
        if watch is not None:
            items = watch(chosen, "calibrating", len(chosen))
        for _, image in items:
            yield letterbox_planes(image, graph.size, 1, mean=stage.mean, scale=stage.scale).x[None]

    model = _rebuilt(graph, reader, reading)
    scores = [level.score for level in stage.levels]
    done = calibrated(model, inputs, scores, maps_to_quantise(model) if engine == "tflite" else ())
    layers, floats, slow = (_tflite_int8 if engine == "tflite" else _ncnn_int8)(done, paths)
    few = [] if len(chosen) >= FEW_PICTURES else [
        f"int8: scales from {counted(len(chosen), 'picture')} may cut off what others have: give "
        f"--calibrate {FEW_PICTURES} and more"
    ]
    return [
        f"int8: {layers} layers calibrated on {chosen.source}; {len(floats)} stay float: {', '.join(floats)}",
        *slow,
        *few,
    ]


def _tflite_int8(done: Calibrated, paths: Sequence[Path]) -> tuple[int, list[str], list[str]]:
    """Write it; how many layers are int8, which stay float, and lines on those that the engine runs badly."""
    paths[0].write_bytes(tflite_bytes(with_scales(done.model, done.layers, done.map_scales), precision="int8"))
    convolutions = [node for node in done.model.graph.node if node.op_type == "Conv"]
    return len(done.layers), [n.name or n.output[0] for n in convolutions if n.output[0] not in done.layers], []


def _ncnn_int8(done: Calibrated, paths: Sequence[Path]) -> tuple[int, list[str], list[str]]:
    """As ``_tflite_int8``."""
    with tempfile.TemporaryDirectory(prefix="edgeface-pnnx-") as scratch:
        path = Path(scratch) / "net.onnx"
        path.write_bytes(done.model.SerializeToString())
        outputs = [output.name for output in done.model.graph.output]
        scales = list(done.layers.values())
        report = int8_from_onnx(path, INPUT, outputs, paths, scales, lenient=True, form=IMPORTED)
    return len(report.layers), list(report.floats), report.slow_lines()


def _write(
    graph: ForeignGraph, reader: ForeignKind, reading: Reading, paths: Sequence[Path], engine: str, precision: str
) -> None:
    model = _rebuilt(graph, reader, reading)
    content = model.SerializeToString()
    if engine == "onnx":
        paths[0].write_bytes(_of_any_size(model))
    elif engine == "tflite":
        paths[0].write_bytes(tflite_bytes(model, precision=precision))
    else:
        with tempfile.TemporaryDirectory(prefix="edgeface-pnnx-") as scratch:
            path = Path(scratch) / "net.onnx"       # pnnx writes files of other names for some
            path.write_bytes(content)
            outputs = [output.name for output in model.graph.output]
            from_onnx(path, INPUT, outputs, paths, fp16=precision == "fp16")


def _of_any_size(model: onnx.ModelProto) -> bytes:
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for axis, name in ((2, "height"), (3, "width")):
        free.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del free.graph.value_info[:]
    for output in free.graph.output:
        output.type.tensor_type.ClearField("shape")
    content: bytes = free.SerializeToString()
    return content


def _compare(
    original: Original, bundle: Bundle, directory: Path, pictures: Pictures, watch: Watch | None
) -> ParityReport:
    """The bundle's faces against those of the file, run by onnxruntime or ncnn, at the file's size."""
    tolerance = TOLERANCES[bundle.precision]
    if bundle.precision == "int8" and pictures.annotated:
        tolerance = replace_tolerance(tolerance, ap_loss=INT8_AP_LOSS)
    sessions = open_sessions(directory, bundle, 1)
    defaults = bundle.defaults

    def finds(score: float, nms_iou: float) -> Callable[[Image], Faces]:
        made = Detector(bundle, sessions, size_px=original.size, score=score, nms_iou=nms_iou)
        return lambda image: made.timed(image)[0]

    first_score = min(defaults.score, AP_SCORE) if pictures.annotated else defaults.score
    lowered = max(0.0, defaults.score - tolerance.score)
    detect, contend = finds(first_score, defaults.nms_iou), finds(lowered, 1.0)
    sums = FaceSums(tolerance.iou, tolerance.score, defaults.score)
    found: tuple[list[Faces], list[Faces]] = [], []
    items: Iterable[tuple[str, Any]] = pictures
    if watch is not None:
        items = watch(pictures, "comparing", len(pictures))
    for name, image in items:
        both = original.faces(image, first_score, defaults.nms_iou), detect(image)
        one, two = (faces.select(faces.scores >= defaults.score) for faces in both)
        sums.add(name, one, two, partial(original.faces, image, lowered, 1.0), partial(contend, image))
        for all_faces, new in zip(found, both, strict=True):
            all_faces.append(new)
    measures = [measure(pictures.annotated, faces) for faces in found] if pictures.annotated else [None, None]
    size = SizeParity(max(original.size), [], sums.parity(), *measures)
    return ParityReport(bundle.name, original.reference, pictures.source, tolerance, [size])
