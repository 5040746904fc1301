"""``edgeface train``: from data to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from edgeface.cli.progress import progress
from edgeface.cli.results import next_step
from edgeface.cli.running import require_torch, run_training
from edgeface.cli.writing import say_lines
from edgeface.runtime.catalog import find


@click.command()
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path),
    help="A set's folder, with annotations.jsonl, or a folder of such folders (docs/data.md).",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; an earlier run there goes on."
)
@click.option(
    "--start-from", type=click.Path(path_type=Path), metavar="FILE",
    help="Weights that a new run starts from: a checkpoint, or a published trunk's .npz for the backbone alone.",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; the model's own configuration by default.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Where decoded pictures are kept [~/.cache/edgeface/pixels]."
)
@click.option("--licence", help="What your data allow; goes into the weights. By default what their set.toml say.")
def command(
    model: str, overrides: tuple[str, ...], data: Path, out: Path, start_from: Path | None, config: Path | None,
    cache: Path | None, licence: str | None,
) -> None:
    """Train MODEL on a data folder, on a CPU, a GPU, or several under torchrun.

    \b
    edgeface train mos_s --data mydata --out runs/mos_s run.budget_minutes=120
    torchrun --nproc-per-node 4 -m edgeface train mos_s --data data --out runs/mos_s

    Starting the same command again goes on from the last saved state. Ctrl-C saves and stops. OUT gets MODEL.best.pt
    (for edgeface convert), the state to resume from, log.jsonl and curves.png, of a dense detector MODEL.last.pt as
    well. A model that is trained in parts (maskface, tfn, mtcnn, tcnn) has state, log and curves in a folder a part,
    such as OUT/keypoints/log.jsonl, and gets MODEL.best.pt when all have ended.

    What parts keep in OUT is made of the parts before them. To train one longer, take a new OUT and start from the old
    one's weights:

    \b
    edgeface train tfn --data data --out runs/longer --start-from runs/tfn/tfn.best.pt \\
      'parts=["attributes"]' regions.steps=12000
    """
    require_torch("training")
    from edgeface.models import families
    from edgeface.training.trainers import Request, trainer

    family = families.get(model)
    if start_from is not None:
        start_from = find(str(start_from), "torch")
    training = trainer.get(family.trainer)(
        Request(model, overrides, data, out, progress, config, start_from, cache, licence)
    )
    run_training(training, out)
    if training.leads:
        for line in training.result():
            say_lines(line)
        if training.weights.exists():
            say_lines(next_step("convert", str(training.weights), "--target", "ncnn"))
