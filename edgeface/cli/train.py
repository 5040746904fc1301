"""``edgeface train``: from data to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click


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
    from edgeface.cli.running import require_torch, run_trainer

    require_torch("training")
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
    run_trainer(trainer)
    if not trainer.place.leads:
        return
    plot_curves(out)
    figures = ", ".join(f"{name} {value:g}" for name, value in trainer.dev.items() if name != "choose")
    click.echo(f"step {trainer.progress.step}, {figures or 'no dev part to measure on'}")
    best = out / f"{model}.best.pt"
    click.echo(f"weights: {best if best.exists() else out / f'{model}.last.pt'}")

