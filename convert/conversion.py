"""From a checkpoint to a bundle: graphs, the target's files, bundle.json, and the parity report that decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from edgeface.bundle import MANIFEST, Bundle, describe_file, read_bundle, sha256_of, write_manifest, writing
from edgeface.errors import BundleError, CheckpointError, OptionError
from edgeface.runtime import catalog

from .comparison import Side, Watch, compare, version_of
from .parity import DepartedError, ParityReport
from .pictures import LIMIT, choose
from .targets import FastForm, Target, require, target

if TYPE_CHECKING:
    from edgeface.models.checkpoint import Checkpoint

INT8 = "int8"


@dataclass(frozen=True)
class Conversion:
    """A bundle that was written to ``directory``, how it compared with its checkpoint, and what its target noted."""

    directory: Path
    bundle: Bundle
    report: ParityReport
    notes: list[str]


def convert(
    model: str | Path,
    target_name: str,
    *,
    precision: str | None = None,
    out: Path | None = None,
    pictures: Path | None = None,
    size_px: int | Sequence[int] | None = None,
    force: bool = False,
    fast: bool = False,
    watch: Watch | None = None,
) -> Conversion:
    """Convert a checkpoint, by path or by the name of a shipped one, and write the bundle ``out``.

    ``precision`` None is int8 for a quantised checkpoint and else the target's first one in floats; ``out`` None is
    ``<model>-<form>-<engine>`` in the current folder. ``fast``: int8 as the engine is fastest with, held to the same
    faces instead of the same bits (``FastForm``). ``pictures`` is the folder for the parity report (see
    ``pictures.choose``). ``size_px``: the input size, or several of which the first is the bundle's default; the report
    is made at each. ``watch(items, label, total)`` wraps the long loop. The bundle is whole and verified or not there;
    with ``force`` one that misses the tolerance is written with ``verified`` false.

    Raises UnknownTargetError, UnknownModelError, OptionError, CheckpointError, MissingExtraError, InputError,
    DataError, OutputError, ConversionError, EngineError, and DepartedError, a ParityError with the report.
    """
    goal = target.get(target_name)
    require(goal.packages)
    path = checkpoint_path(model)

    from edgeface.models.checkpoint import load_checkpoint
    from edgeface.models.family import families, thresholds_of

    checkpoint = load_checkpoint(path)
    family = families.get(checkpoint.model)
    precision = _precision(checkpoint, path, target_name, goal, precision)
    write = _fast_form(target_name, goal, precision).write if fast else goal.write
    reference = Side.open_checkpoint(path, goal.engine)
    asked, sizes = _sizes(reference, size_px)
    original = _original(reference.bundle, goal.engine, precision, fast, sizes[0])
    chosen = choose(pictures)
    directory = Path(original.name) if out is None else out
    if not force:
        _require_no_other(directory, goal.engine)
    notes: list[str] = []
    with writing(directory) as work:
        nets = family.graphs(checkpoint.build())
        for net in nets:
            notes += write(net, [work / file for file in goal.files(net.stem)], precision) or []
        stages = family.stages(goal.files, checkpoint.options, thresholds_of(checkpoint.metrics))
        bundle = _with_files(replace(original, stages=stages), goal, [net.stem for net in nets], work)
        report = compare(reference, Side.open(bundle, work), chosen, sizes, watch)
        if not report.passed and not force:
            raise DepartedError(report, "no bundle was written; --force writes it as not verified")
        command = _command(path, target_name, bundle, asked, force)
        made = {"command": command, **_made(path, original, goal, report), "notes": notes}
        bundle = replace(bundle, verified=report.passed, made=made)
        write_manifest(work, bundle)
    return Conversion(directory, bundle, report, notes)


def _original(checkpoint: Bundle, engine: str, precision: str, fast: bool, size_px: int) -> Bundle:
    """What the bundle says that is known before there are files, of what stands for its checkpoint."""
    defaults = replace(checkpoint.defaults, size_px=size_px)
    original = replace(checkpoint, engine=engine, precision=precision, fast=fast, defaults=defaults, verified=False)
    return replace(original, name=f"{original.model}-{original.form}-{engine}")


def _with_files(bundle: Bundle, goal: Target, stems: Sequence[str], work: Path) -> Bundle:
    """The bundle of the nets' files that lie in ``work``, with their scales."""
    files = [describe_file(work / file) for stem in stems for file in goal.files(stem)]
    scales = {file.name: dict(goal.scales(work / file.name)) for file in files}
    return replace(bundle, files=files, scales={file: by_name for file, by_name in scales.items() if by_name})


def _sizes(reference: Side, size_px: int | Sequence[int] | None) -> tuple[Sequence[int], Sequence[int]]:
    """The input sizes that were asked for, and those that are compared; raises OptionError for one that cannot work,
    before minutes of converting."""
    asked = () if size_px is None else (size_px,) if isinstance(size_px, int) else tuple(size_px)
    _require_sizes(reference.bundle, asked)
    for size in asked:
        reference.detector(size, 1.0)
    return asked, asked or (reference.bundle.defaults.size_px,)


def _made(path: Path, original: Bundle, goal: Target, report: ParityReport) -> dict[str, Any]:
    """Of which checkpoint, with what, and how near to it."""
    return {
        "checkpoint": {"file": path.name, "sha256": sha256_of(path), "made": original.made},
        "versions": {package: version_of(package) for package in ("edgeface", *goal.packages)},
        "parity": report.summary(),
    }


def _fast_form(target_name: str, goal: Target, precision: str) -> FastForm:
    """Raises OptionError for a target without such a form, and for another precision than int8."""
    if goal.fast is None:
        others = [name for name in target.names() if target.get(name).fast is not None]
        raise OptionError(
            f"target {target_name} has no fast form of int8: leave --fast out, or choose --target {' or '.join(others)}"
        )
    if precision != INT8:
        raise OptionError(f"--fast is a form of int8, not of {precision}: leave it out, or give a quantised checkpoint")
    return goal.fast


def _command(path: Path, target_name: str, bundle: Bundle, sizes_px: Sequence[int], force: bool) -> str:
    """The command again, without the places of this machine."""
    parts = ["edgeface", "convert", path.name, "--target", target_name, "--precision", bundle.precision]
    parts += ["--fast"] if bundle.fast else []
    for size in sizes_px:
        parts += ["--size", str(size)]
    return " ".join([*parts, *(["--force"] if force else [])])


def check_parity(
    bundle_or_model: str | Path,
    checkpoint: str | Path,
    *,
    engine: str | None = None,
    pictures: Path | None = None,
    limit: int = LIMIT,
    size_px: Sequence[int] = (),
    device: str = "cpu",
    watch: Watch | None = None,
) -> ParityReport:
    """Compare a bundle, by name or directory, with a checkpoint, as ``convert`` does at its end.

    ``engine`` chooses the bundle where a model's name is given, as in ``edgeface.load``. At most ``limit`` of the
    pictures in ``pictures`` are used. ``size_px``: the input sizes, by default the bundle's own. ``device`` is that of
    the checkpoint's side.

    Raises UnknownModelError, UnknownEngineError, OptionError, BundleError, CheckpointError, MissingExtraError,
    InputError, DataError, ConversionError, EngineError, and ParityError when an output has another shape. A report that
    failed is returned, not raised.
    """
    directory = catalog.find(bundle_or_model, engine)
    if not directory.is_dir():
        raise OptionError(f"{bundle_or_model}: is a checkpoint: give the bundle that was made from one")
    bundle = read_bundle(directory)
    if engine not in (None, bundle.engine):
        raise OptionError(f"{directory}: is for the engine {bundle.engine}, not {engine}: leave the engine out")
    require(["torch"])
    path = checkpoint_path(checkpoint)
    reference = Side.open_checkpoint(path, bundle.engine, device)
    if reference.bundle.model != bundle.model:
        raise OptionError(
            f"{path}: is a checkpoint of {reference.bundle.model}, and {directory} a bundle of {bundle.model}: "
            "give the checkpoint that the bundle was made from"
        )
    if reference.bundle.precision == INT8 and bundle.precision != INT8:
        raise OptionError(
            f"{path}: is quantised, and {directory} is not: give the float checkpoint that the bundle was made from"
        )
    _require_sizes(bundle, size_px)
    return compare(
        reference, Side.open(bundle, directory), choose(pictures, limit), size_px or [bundle.defaults.size_px], watch
    )


def _require_no_other(directory: Path, engine: str) -> None:
    """Raises OptionError for a folder that holds a bundle for another engine, which would be gone."""
    if not (directory / MANIFEST).is_file():
        return
    try:
        there = read_bundle(directory, verify=False)
    except BundleError:
        return
    if there.engine != engine:
        raise OptionError(
            f"{directory}: holds {there.name}, a bundle for {there.engine}: choose another --out, or give --force"
        )


def _require_sizes(bundle: Bundle, sizes_px: Sequence[int]) -> None:
    """Raises OptionError for sizes that are asked of a model which looks at crops alone."""
    if sizes_px and bundle.is_refinement:
        raise OptionError(f"{bundle.model} looks at crops of {bundle.defaults.size_px} px alone: leave --size out")


def checkpoint_path(model: str | Path) -> Path:
    """The checkpoint that a name or a path means; raises UnknownModelError, and CheckpointError for a bundle."""
    path = catalog.find(model, "torch")
    if path.is_dir():
        raise CheckpointError(f"{model}: is a bundle or has no checkpoint here: give the checkpoint it was made from")
    return path


def _precision(checkpoint: Checkpoint, path: Path, target_name: str, goal: Target, asked: str | None) -> str:
    """The precision to convert to; raises OptionError where the target or the checkpoint does not have the one asked
    for."""
    floats = [precision for precision in goal.tolerances if precision != INT8]
    quantised = checkpoint.quantisation is not None
    precision = (INT8 if quantised else floats[0]) if asked is None else asked
    if precision not in goal.tolerances:
        choices = [p for p in goal.tolerances if (p == INT8) == quantised] or list(goal.tolerances)
        raise OptionError(f"target {target_name} has no precision {precision!r}: choose {' or '.join(choices)}")
    if precision == INT8 and not quantised:
        raise OptionError(
            f"{path}: is not quantised, so it has no scales for int8: run 'edgeface quantize {path.name}' first and "
            "convert what that writes"
        )
    if precision != INT8 and quantised:
        raise OptionError(
            f"{path}: is quantised, so it converts to int8 alone: for {precision} give the float checkpoint that it "
            "was made from"
        )
    return precision
