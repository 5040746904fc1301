"""``edgeface quantize``: from a float checkpoint to one that runs in int8, calibrated or trained."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from edgeface.atomic import refused
from edgeface.bundle import sha256_of
from edgeface.cli import INTERRUPTED
from edgeface.cli.progress import progress
from edgeface.cli.results import next_step
from edgeface.cli.running import require_torch, run_training
from edgeface.cli.writing import say_lines
from edgeface.errors import CheckpointError, OptionError, OutputError, TrainingError
from edgeface.runtime.catalog import find
from edgeface.training.config import load_config
from edgeface.wording import counted

if TYPE_CHECKING:
    from edgeface.models.checkpoint import Checkpoint
    from edgeface.quantize.calibrated import Calibrated
    from edgeface.training.config import Config


@click.command("quantize", short_help="Make an int8 checkpoint from a float one.")
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path),
    help="Folder with one folder a set: wider, landmarks68, ... each with annotations.jsonl.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The quantised checkpoint to write, a .pt.")
@click.option(
    "--method", default="mse", show_default=True,
    help="How scales are calibrated: absmax, percentile, or mse, the least squared error.",
)
@click.option("--calibrate-only", is_flag=True, help="Stop after calibration: minutes instead of hours, less exact.")
@click.option(
    "--pictures", default=64, show_default=True, type=click.IntRange(min=1), help="Training pictures to calibrate on."
)
@click.option(
    "--report", "report_directory", type=click.Path(path_type=Path), metavar="DIR",
    help="Measure every layer of the calibrated network; a table, its JSON and a plot go there.",
)
@click.option(
    "--keep-float", multiple=True, metavar="NAME",
    help="Leave this layer in float, or all that match, as in 'heads.*'; can be given several times.",
)
@click.option(
    "--auto-keep", type=click.FloatRange(min=0), metavar="BOUND",
    help="Leave the fewest layers in float that keep the calibrated network's loss within this share above float's, as "
    "ncnn rounds; 0.1 is 10 %.",
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file of the training [the float run's, at a low rate]."
)
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Where decoded pictures are kept [~/.cache/edgeface/pixels]."
)
def command(
    model: str, overrides: tuple[str, ...], data: Path, out: Path, method: str, calibrate_only: bool, pictures: int,
    report_directory: Path | None, keep_float: tuple[str, ...], auto_keep: float | None, config: Path | None,
    cache: Path | None,
) -> None:
    """Quantise MODEL, a float checkpoint (.pt) or the name of one that comes with edgeface.

    \b
    edgeface quantize mos_s --data data --out mos_s_qat.pt
    edgeface quantize mos_s --data data --out mos_s_ptq.pt --calibrate-only --report report

    Batch norms are folded, scales calibrated on training pictures, and the network is then trained with quantisation
    on; SECTION.KEY=VALUE changes that training, as in 'edgeface train'. Its run is kept in the folder OUT without its
    suffix, plus .run: Ctrl-C saves and stops, and the same command goes on from there.
    """
    require_torch("quantisation")
    from edgeface.int8.clipping import method as methods
    from edgeface.quantize.calibrated import calibrated
    from edgeface.quantize.plots import require_plots

    methods.get(method)
    path, checkpoint = _float_checkpoint(model, out)
    measures = auto_keep is not None or report_directory is not None
    settings = None
    if _is_detector(checkpoint):
        if measures or not calibrate_only or config is not None or overrides:
            settings = _settings(path, checkpoint, config, overrides)
    else:
        _require_calibration_alone(checkpoint, measures, calibrate_only, config, overrides)
    _require_writable(out)
    if report_directory is not None:
        require_plots()
        _require_writable(report_directory / "layers.md")

    start = calibrated(checkpoint, data, method, keep_float, pictures, progress)
    if settings is not None and measures:
        start = _measured(start, settings, data, auto_keep, report_directory)
    say_lines(_summary(start))
    made = {
        "command": _command(path, method, calibrate_only, pictures, keep_float, auto_keep, overrides),
        "quantised_from": {"file": path.name, "sha256": sha256_of(path), "made": checkpoint.made},
        "calibration_pictures": start.pictures,
    }
    if settings is None or calibrate_only:
        _save_calibrated(checkpoint, start, made, out)
    else:
        _train(checkpoint, start, settings, made, data, out, cache, overrides)


def _float_checkpoint(model: str, out: Path) -> tuple[Path, Checkpoint]:
    """What is to be quantised: its file, and what it holds. Raises CheckpointError, OptionError and ConversionError."""
    from edgeface.models import families
    from edgeface.models.checkpoint import load_checkpoint
    from edgeface.models.family import require_quantisable

    path = find(model, "torch")
    if path.is_dir():
        raise CheckpointError(f"{path}: is a bundle: quantise the checkpoint that it was made from")
    if out.exists() and path.samefile(out):
        raise OptionError(f"--out {out}: is the checkpoint to quantise: choose another name")
    checkpoint = load_checkpoint(path)
    if checkpoint.quantisation is not None:
        raise CheckpointError(f"{path}: is quantised already: give the float checkpoint that it was made from")
    families.get(checkpoint.model)
    require_quantisable(checkpoint.model)
    return path, checkpoint


def _is_detector(checkpoint: Checkpoint) -> bool:
    """Whether it has a loss on whole pictures, to be measured by and trained with."""
    from edgeface.models.family import families
    from edgeface.models.mos import MOS

    return MOS in families.get(checkpoint.model).nets


def _require_calibration_alone(
    checkpoint: Checkpoint, measures: bool, calibrate_only: bool, config: Path | None, overrides: tuple[str, ...]
) -> None:
    """Raises OptionError for what a model without such a loss, a cascade or MaskFace, cannot be asked here."""
    from edgeface.models.family import families
    from edgeface.models.maskface import MaskFace

    if measures:
        raise OptionError(
            f"--report and --auto-keep measure the loss of a dense detector: leave them out for {checkpoint.model}"
        )
    if not calibrate_only:
        further = f", then train what that writes by 'edgeface train {checkpoint.model} --start-from'"
        if MaskFace in families.get(checkpoint.model).nets:
            further = ""        # whose training begins with a float network
        raise OptionError(f"{checkpoint.model} is only calibrated here: add --calibrate-only{further}")
    if config is not None or overrides:
        raise OptionError(f"--config and overrides change the training, which {checkpoint.model} has none of here")


def _settings(path: Path, checkpoint: Checkpoint, config: Path | None, overrides: tuple[str, ...]) -> Config:
    """The training's configuration, of the checkpoint's own network whatever the file says."""
    from edgeface.quantize.training import qat_config

    for override in overrides:
        if override.startswith(("model=", "options.", "options=")):
            raise OptionError(f"override {override!r}: the network is the checkpoint's: leave it out")
    if config is None:
        return qat_config(checkpoint, path, overrides)
    settings: Config = replace(load_config(config, overrides), model=checkpoint.model, options=checkpoint.options)
    return settings


def _require_same_start(last: Path, start: Calibrated) -> None:
    """Raises TrainingError where an earlier run to go on with began with another method or other layers in float."""
    from edgeface.models.checkpoint import load_checkpoint

    if last.exists() and load_checkpoint(last).quantisation != dataclasses.replace(start.quantisation, trained=True):
        raise TrainingError(
            f"{last.parent}: holds a run that began with another --method or other layers in float: "
            "remove it, or choose another --out"
        )


def _require_writable(path: Path) -> None:
    """Raises OutputError now for what could not be written minutes or hours later."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise refused(path, error) from None


def _measured(
    start: Calibrated, settings: Config, data: Path, auto_keep: float | None, report_directory: Path | None
) -> Calibrated:
    """Layer by layer: choose what stays in float, and write the report."""
    from edgeface.models.mos import MOS
    from edgeface.quantize.report import make_report
    from edgeface.quantize.report_files import write_report
    from edgeface.quantize.sensitivity import Losses, dev_batches, task_loss
    from edgeface.quantize.sensitivity import auto_keep as choose

    assert isinstance(start.net, MOS)     # _is_detector has seen to that
    losses = Losses(start.net, task_loss(start.net, settings, dev_batches(data, settings)), progress)
    if auto_keep is not None:
        fixed = start.quantisation.keep_float
        chosen = choose(losses, auto_keep, fixed, progress)
        say_lines(chosen.to_text(fixed))
        start = start.keeping(chosen.kept)
    if report_directory is not None:
        report = make_report(start, losses)
        write_report(report, report_directory)
        say_lines(report.to_summary())
        say_lines(f"report: {report_directory}")
    return start


def _summary(start: Calibrated) -> str:
    from edgeface.int8.modules import convolutions

    every, kept = len(list(convolutions(start.net))), len(start.quantisation.keep_float)
    how = f"calibrated by {start.quantisation.method} on {counted(start.pictures, 'picture')}"
    return f"{how}: {every - kept} of {every} convolutions in int8"


def _command(
    path: Path, method: str, calibrate_only: bool, pictures: int, keep_float: tuple[str, ...], auto_keep: float | None,
    overrides: tuple[str, ...],
) -> str:
    """The command again, without the places of this machine."""
    parts = ["edgeface", "quantize", path.name, "--method", method, "--pictures", str(pictures)]
    if calibrate_only:
        parts.append("--calibrate-only")
    for name in keep_float:
        parts += ["--keep-float", name]
    if auto_keep is not None:
        parts += ["--auto-keep", f"{auto_keep:g}"]
    return shlex.join([*parts, *overrides])


def _save_calibrated(checkpoint: Checkpoint, start: Calibrated, made: dict[str, Any], out: Path) -> None:
    from edgeface.models.checkpoint import finished, save_checkpoint

    versions = {name: metadata.version(name) for name in ("edgeface", "torch", "numpy", "opencv-python-headless")}
    made = {**made, "versions": {"python": platform.python_version(), **versions}}
    # Figures are of the float network; the thresholds that were chosen with them hold for this one too.
    metrics = {name: value for name, value in checkpoint.metrics.items() if name == "thresholds"}
    calibrated = dataclasses.replace(checkpoint, metrics=metrics, made=made, quantisation=start.quantisation)
    save_checkpoint(out, finished(calibrated, start.net))
    say_lines(f"weights: {out}")
    say_lines(next_step("convert", str(out), "--target", "ncnn"))


def _train(
    checkpoint: Checkpoint, start: Calibrated, settings: Config, made: dict[str, Any], data: Path, out: Path,
    cache: Path | None, overrides: tuple[str, ...],
) -> None:
    """Quantisation-aware training in ``OUT without suffix.run``, then OUT from its best weights."""
    from edgeface.data.pixels import pixels_directory
    from edgeface.models.checkpoint import finished, load_checkpoint, save_checkpoint
    from edgeface.quantize.training import qat_trainer
    from edgeface.training.plots import plot_curves
    from edgeface.training.trainers import DetectorTraining

    run = out.with_name(f"{out.stem}.run")
    _require_same_start(run / f"{checkpoint.model}.last.pt", start)
    trainer = qat_trainer(
        checkpoint, made["quantised_from"]["sha256"], start, settings, data, run, cache or pixels_directory(),
        overrides, progress,
    )
    run_training(DetectorTraining(trainer), run)
    if not trainer.place.leads:
        return
    plot_curves(run)
    if trainer.stop_requested:
        say_lines(f"stopped at step {trainer.progress.step}: the same command goes on; {out} is not written yet")
        click.get_current_context().exit(INTERRUPTED)
    best = run / f"{checkpoint.model}.best.pt"
    trained = load_checkpoint(best if best.exists() else run / f"{checkpoint.model}.last.pt")
    save_checkpoint(out, finished(dataclasses.replace(trained, made={**trained.made, **made}), trained.build()))
    figures = ", ".join(f"{name} {value:g}" for name, value in trained.metrics.items() if name != "choose")
    say_lines(f"step {trainer.progress.step}, {figures or 'no dev part to measure on'}")
    say_lines(f"weights: {out}")
    say_lines(next_step("convert", str(out), "--target", "ncnn"))
