"""``edgeface models``: the models that come with the package, what they are, and whether their files are whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from edgeface.bundle import Bundle, DenseStage, PoseStage, read_bundle
from edgeface.cli.results import complain, print_json, say
from edgeface.errors import BundleError, EdgefaceError

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


@click.group(short_help="List, describe and verify models.")
def command() -> None:
    """List, describe and verify models.

    A model's name alone (mos_s) means its default bundle; a bundle's name (mos_s-fp16-ncnn) says its model, precision
    and engine.
    """


@command.command("list")
@_JSON
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """List the models that come with edgeface."""
    from edgeface.runtime import catalog

    rows: list[dict[str, Any]] = []
    failures: list[EdgefaceError] = []
    for entry in catalog.shipped():
        try:
            bundle = entry.read()
        except EdgefaceError as error:
            failures.append(error)
            continue
        rows.append({
            "name": entry.name,
            "model": bundle.model,
            "precision": bundle.precision,
            "engine": bundle.engine,
            "size_bytes": _size_bytes(bundle),
            "default": entry.default,
            "verified": bundle.verified,
        })
    for model, path in catalog.shipped_checkpoints().items():
        rows.append({
            "name": path.name,
            "model": model,
            "precision": None,      # a checkpoint says it inside, and reading one takes torch
            "engine": "torch",
            "size_bytes": path.stat().st_size,
            "default": False,
            "verified": None,
        })
    if as_json:
        print_json(rows)
    elif rows:
        for line in _table(rows):
            say(line)
    else:
        say("No model comes with this copy of edgeface: give --model the folder of a bundle of your own.")
    for failure in failures:
        complain(str(failure))
    context.exit(failures[0].exit_code if failures else 0)


@command.command()
@click.argument("model")
@_JSON
def info(model: str, as_json: bool) -> None:
    """Describe a MODEL: a name from the list, or a bundle's folder."""
    directory = _bundle_directory(model)
    bundle = read_bundle(directory, verify=False)
    if as_json:
        print_json({"directory": str(directory)} | msgspec.to_builtins(bundle))
        return
    for label, text in _description(directory, bundle):
        say(f"{label:<12}{text}".rstrip())


@command.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@_JSON
@click.pass_context
def verify(context: click.Context, models: tuple[str, ...], as_json: bool) -> None:
    """Compare every file of each MODEL with the sha256 in its bundle.json; without MODEL, of all that come along.

    The exit code is not 0 when a bundle is damaged; the others are still compared.
    """
    from edgeface.runtime import catalog

    results: list[dict[str, Any]] = []
    failures: list[EdgefaceError] = []
    for name in models or [entry.name for entry in catalog.shipped()]:
        try:
            bundle = read_bundle(_bundle_directory(name), verify=True)
        except EdgefaceError as error:
            failures.append(error)
            results.append({"name": name, "ok": False, "files": None, "size_bytes": None, "error": str(error)})
            continue
        files, size_bytes = len(bundle.files), _size_bytes(bundle)
        results.append({"name": name, "ok": True, "files": files, "size_bytes": size_bytes, "error": None})
        if not as_json:
            say(f"{name}: whole: {files} files, {size_bytes / 1e6:.2f} MB, every sha256 is bundle.json's")
    if as_json:
        print_json(results)
    for failure in failures:
        complain(str(failure))
    context.exit(failures[0].exit_code if failures else 0)


def _bundle_directory(model: str) -> Path:
    from edgeface.runtime import catalog

    path = catalog.find(model)
    if not path.is_dir():
        raise BundleError(f"{path}: not a bundle: give one's name or folder, or make one with 'edgeface convert'")
    return path


def _size_bytes(bundle: Bundle) -> int:
    return sum(entry.size_bytes for entry in bundle.files)


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [("NAME", "MODEL", "PRECISION", "ENGINE", "SIZE", "")]
    for row in rows:
        note = "default" if row["default"] else "" if row["verified"] in (None, True) else "not verified"
        size = f"{row['size_bytes'] / 1e6:.2f} MB"
        cells.append((row["name"], row["model"], row["precision"] or "-", row["engine"], size, note))
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _description(directory: Path, bundle: Bundle) -> Iterator[tuple[str, str]]:
    dense, defaults = bundle.dense, bundle.defaults
    yield "name", bundle.name
    yield "model", f"{bundle.model}, {bundle.precision}, for the engine {bundle.engine}"
    yield "folder", str(directory)
    yield "finds", ", ".join(_predicts(bundle))
    yield "input", f"BGR, (x - {dense.mean:g}) * {dense.scale:g}, sides multiples of {dense.multiple}"
    yield "anchors", "; ".join(f"{level.anchors_px} px every {level.stride} px" for level in dense.levels)
    yield "defaults", f"size {defaults.size_px} px, score {defaults.score:g}, NMS {defaults.nms_iou:g}"
    yield "verified", "against the float model" if bundle.verified else "no: see 'edgeface convert'"
    yield "licence", bundle.licence
    for label, content in (("metrics", bundle.metrics), ("made", bundle.made)):
        for key, value in _flat(content):
            yield label, f"{key}: {value}"
            label = ""
    yield "files", f"{len(bundle.files)}, {_size_bytes(bundle) / 1e6:.2f} MB"
    for entry in bundle.files:
        yield "", f"{entry.sha256[:16]}  {entry.size_bytes:>9}  {entry.name}"


def _predicts(bundle: Bundle) -> Iterator[str]:
    yield "boxes"
    for stage in bundle.stages:
        if isinstance(stage, DenseStage) and all(level.landmarks for level in stage.levels):
            yield "five landmarks"
        elif isinstance(stage, PoseStage):
            yield "head pose"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
