"""``edgeface train``: from data to a checkpoint."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from edgeface.errors import MissingExtraError

if TYPE_CHECKING:
    from edgeface.training.loop import StepReport, Trainer


@click.command()
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path),
    help="Folder with one folder a set: wider, landmarks68, ... each with annotations.jsonl.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; an earlier run there goes on."
)
@click.option(
    "--start-from", type=click.Path(path_type=Path), metavar="CHECKPOINT",
    help="Weights that a new run starts from, instead of random ones.",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; the model's own configuration by default.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Where decoded pictures are kept [~/.cache/edgeface/pixels]."
)
@click.option("--licence", help="What your data allow; goes into the weights. By default: research only.")
def command(
    model: str, overrides: tuple[str, ...], data: Path, out: Path, start_from: Path | None, config: Path | None,
    cache: Path | None, licence: str | None,
) -> None:
    """Train MODEL on a data folder, on a CPU, a GPU, or several under torchrun.

    \b
    edgeface train mos_s --data data --out runs/mos_s run.budget_minutes=120
    torchrun --nproc-per-node 4 -m edgeface train mos_s --data data --out runs/mos_s

    Starting the same command again goes on from the last saved state. Ctrl-C saves and stops. OUT gets state.pt (to
    resume), MODEL.best.pt and MODEL.last.pt (for edgeface convert), log.jsonl and curves.png.
    """
    _require_torch()
    from edgeface.cli.progress import progress
    from edgeface.data.pixels import cache_directory
    from edgeface.models import model as models
    from edgeface.training.config import default_config_path, load_config
    from edgeface.training.detector import DEFAULT_LICENCE, detector_trainer
    from edgeface.training.plots import plot_curves

    models.get(model)
    settings = load_config(config or default_config_path(model), [f"model={model}", *overrides])
    trainer = detector_trainer(
        settings, data, out, cache or cache_directory(), licence or DEFAULT_LICENCE, overrides, progress,
        start_from,
    )
    if trainer.progress.step and trainer.place.leads:
        click.echo(f"going on from step {trainer.progress.step} of {out}", err=True)
    _stop_on_signals(trainer)
    trainer.run(_progress_line if sys.stderr.isatty() and trainer.place.leads else lambda _report: None)
    if not trainer.place.leads:
        return
    if sys.stderr.isatty():
        click.echo(err=True)
    plot_curves(out)
    figures = ", ".join(f"{name} {value:g}" for name, value in trainer.dev.items() if name != "choose")
    click.echo(f"step {trainer.progress.step}, {figures or 'no dev part to measure on'}")
    best = out / f"{model}.best.pt"
    click.echo(f"weights: {best if best.exists() else out / f'{model}.last.pt'}")


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError('training needs torch: pip install "edgeface[train]"') from None


def _stop_on_signals(trainer: Trainer) -> None:
    """The first Ctrl-C or SIGTERM saves and stops after the step at hand; the second ends at once."""

    def stop(number: int, _frame: FrameType | None) -> None:
        trainer.stop_requested = True
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _progress_line(report: StepReport) -> None:
    losses = " ".join(f"{task} {value:.3f}" for task, value in report.losses.items())
    dev = " ".join(f"{name} {value:g}" for name, value in report.dev.items() if name != "choose")
    line = f"{report.share:6.1%} step {report.step}  {losses}  {report.pictures_per_s:.0f} pictures/s  {dev}"
    click.echo(f"\r\x1b[K{line}", err=True, nl=False)
