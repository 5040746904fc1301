"""``edgeface models``: the models that come with the package, what they are, and whether their files are whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from edgeface.bundle import SCHEMA, Bundle, read_bundle
from edgeface.bundle import upgrade as upgrade_bundle
from edgeface.bundle.combining import combine as combine_bundles
from edgeface.cli.checkpoint_info import checkpoint_description, checkpoint_record
from edgeface.cli.model_lines import predicts, size_bytes
from edgeface.cli.models_list import list_lines, listed, measured_lines
from edgeface.cli.verification import verification
from edgeface.cli.writing import complain, print_json, say
from edgeface.errors import BundleError, EdgefaceError, OptionError
from edgeface.runtime import catalog
from edgeface.wording import counted

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
    """List the models that come with edgeface: what for, how good, how fast, how large, and which is the default.

    A figure with * is of a bundle of that name that was replaced since it was measured.
    """
    rows, failures = listed()
    if as_json:
        print_json(rows)
    elif rows:
        for line in list_lines(rows):
            say(line)
    else:
        say("No model comes with this copy of edgeface: give --model the folder of a bundle of your own.")
    for failure in failures:
        complain(str(failure))
    context.exit(failures[0].exit_code if failures else 0)


@command.command()
@click.argument("model")
@click.option("--all", "with_provenance", is_flag=True,
              help="Also how it was made, and the figures of the checkpoint that it was made from.")
@_JSON
def info(model: str, with_provenance: bool, as_json: bool) -> None:
    """Describe a MODEL: a name from the list, a bundle's folder, or a checkpoint (.pt), which takes torch.

    Every AP is of this very bundle: of one that comes with edgeface on a whole dev part, and under "verified" on the
    pictures that it was compared with its checkpoint on.
    """
    directory = catalog.find(model)
    if not directory.is_dir():
        record = checkpoint_record(directory)
        if as_json:
            print_json(record)
            return
        _say_all([*checkpoint_description(record), *(_provenance(record) if with_provenance else ())])
        return
    bundle = read_bundle(directory, verify=False)
    if as_json:
        print_json({"directory": str(directory)} | msgspec.to_builtins(bundle))
        return
    _say_all(_description(directory, bundle))
    if with_provenance:
        _say_all(_provenance({"metrics": bundle.metrics, "made": bundle.made}, figures="checkpoint"))


@command.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@_JSON
@click.pass_context
def verify(context: click.Context, models: tuple[str, ...], as_json: bool) -> None:
    """Compare every file of each MODEL with the sha256 in its bundle.json; without MODEL, of all that come along.

    The exit code is not 0 when a bundle is damaged; the others are still compared.
    """
    results: list[dict[str, Any]] = []
    failures: list[EdgefaceError] = []
    for name in models or [entry.name for entry in catalog.shipped()]:
        try:
            bundle = read_bundle(_bundle_directory(name), verify=True)
        except EdgefaceError as error:
            failures.append(error)
            results.append({"name": name, "ok": False, "files": None, "size_bytes": None, "error": str(error)})
            continue
        files, total_bytes = len(bundle.files), size_bytes(bundle)
        results.append({"name": name, "ok": True, "files": files, "size_bytes": total_bytes, "error": None})
        if not as_json:
            say(f"{name}: whole: {counted(files, 'file')}, {total_bytes / 1e6:.2f} MB, every sha256 is bundle.json's")
    if as_json:
        print_json(results)
    for failure in failures:
        complain(str(failure))
    context.exit(failures[0].exit_code if failures else 0)


@command.command()
@click.argument("detector")
@click.argument("refinement")
@click.option("--name", "model", required=True, metavar="MODEL", help="What the new model is called, as in mhcnn.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="The new bundle's folder, and its name, as in mhcnn-int8-ncnn.")
@click.option("--by-reference", is_flag=True,
              help="Name the two bundles' files instead of copying them; the two must lie beside --out and stay there.")
@click.option("--score", type=click.FloatRange(0, 1), help="Its default least score [the detector's].")
def combine(detector: str, refinement: str, model: str, out: Path, by_reference: bool, score: float | None) -> None:
    """Make one bundle of a DETECTOR and a REFINEMENT, names from the list or bundles' folders.

    \b
    edgeface models combine mos_s-int8-ncnn tcnn-int8-ncnn --name mhcnn --out mhcnn-int8-ncnn

    It finds what 'edgeface detect --model DETECTOR --refine REFINEMENT' does, and can be deployed. Both must be for one
    engine and of one precision.
    """
    if not model.strip():
        raise OptionError("--name is empty: give the new model a name, as in mhcnn")
    directories = _bundle_directory(detector), _bundle_directory(refinement)
    made = combine_bundles(*directories, model, out, by_reference=by_reference, score=score)
    files = f"{counted(len(made.files), 'file')}, {size_bytes(made) / 1e6:.2f} MB"
    say(f"{out}: {made.name}, {files}: {', '.join(predicts(made))}")


@command.command()
@click.argument("directories", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
def upgrade(directories: tuple[Path, ...]) -> None:
    """Rewrite the bundle.json of each bundle DIR as this edgeface writes it.

    Older bundles run as they are; this is for tools that read bundle.json. The nets' files are checked and stay as they
    are, and so do the faces that they find.
    """
    for directory in directories:
        done = upgrade_bundle(directory)
        say(f"{directory}: {'is of schema ' + str(SCHEMA) + ' now' if done else 'is of this schema already'}")


def _bundle_directory(model: str) -> Path:
    path = catalog.find(model)
    if not path.is_dir():
        raise BundleError(f"{path}: not a bundle: give one's name or folder, or make one with 'edgeface convert'")
    return path


def _description(directory: Path, bundle: Bundle) -> Iterator[tuple[str, str]]:
    from edgeface.runtime.stages.kinds import kind_of

    defaults = bundle.defaults
    yield "name", bundle.name
    yield "model", f"{bundle.model}, {bundle.precision}, for the engine {bundle.engine}"
    if bundle.fast:
        yield "form", "fast: results differ a little between processors, faces were compared instead of bits"
    yield "folder", str(directory)
    yield "refines" if bundle.is_refinement else "finds", ", ".join(predicts(bundle))
    for stage in bundle.stages:
        yield from kind_of(stage).describe(stage)
    yield "defaults", f"size {defaults.size_px} px, score {defaults.score:g}, NMS {defaults.nms_iou:g}"
    yield from measured_lines(directory)
    yield from verification(bundle)
    yield "licence", bundle.licence
    beside = f", those of {' and '.join(bundle.parts)} beside it" if bundle.parts else ""
    yield "files", f"{len(bundle.files)}, {size_bytes(bundle) / 1e6:.2f} MB{beside}"
    for entry in bundle.files:
        yield "", f"{entry.sha256[:16]}  {entry.size_bytes:>9}  {entry.name}"


def _say_all(lines: Iterable[tuple[str, str]]) -> None:
    for label, text in lines:
        say(f"{label:<12}{text}".rstrip())


def _provenance(record: Mapping[str, Any], figures: str = "metrics") -> Iterator[tuple[str, str]]:
    for label, content in ((figures, record["metrics"]), ("made", record["made"])):
        for key, value in _flat(content):
            yield label, f"{key}: {value}"
            label = ""


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
