"""Table 2 of the MHCNN paper on our data: what one attribute gains from landmarks and from the other attribute.

    python benchmarks/tcnn_ablation.py ../shared/data --run runs/tcnn

Five short trainings on the labelled faces of a T-CNN run (``--run``: the folder of ``edgeface train tcnn``, whose
samples are taken, or are drawn there), from the same random weights and of the same length; then the accuracy on the
dev faces at a threshold of 0.5, as the paper has it, and the balanced accuracy, since our classes are not of one size.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
import torch

from edgeface.data.pixels import pixels_directory
from edgeface.errors import EdgefaceError
from edgeface.evaluation.attributes import BinaryFigures, binary_figures
from edgeface.models import families
from edgeface.models.patch_nets import PatchNet
from edgeface.training.config import default_config_path, read_settings
from edgeface.training.patches.face_probe import Annotated, FaceProbe
from edgeface.training.patches.labels import LABELS
from edgeface.training.patches.samples import Samples
from edgeface.training.patches.training import Step, patch_trainer, predict
from edgeface.training.tcnn import TCNNConfig, TCNNData, narrowed

THRESHOLD = 0.5


@dataclass(frozen=True)
class Row:
    """One line of the table: the attributes that are trained, and whether landmarks are."""

    attributes: tuple[str, ...]
    landmarks: bool

    @property
    def name(self) -> str:
        """As the paper writes it."""
        return " + ".join((*self.attributes, *(("landmarks",) if self.landmarks else ())))


ROWS = (
    Row(("sunglasses",), False), Row(("sunglasses",), True), Row(("mask",), False), Row(("mask",), True),
    Row(("mask", "sunglasses"), True),
)  # fmt: skip


def step_of(row: Row, steps: int, batch: int, seed: int) -> Step:
    """How every row is trained: labelled faces alone, without telling faces from others."""
    return msgspec.convert(
        {
            "steps": steps, "batch": batch, "shares": {"landmarks": 1.0}, "hard_share": 1.0, "beta": 0.02,
            "weights": {
                "face": 0.0, "box": 0.0, "quality": 0.0, "attributes": 1.0, "landmarks": float(row.landmarks),
            },
            "optimiser": {"learning_rate": 0.003, "weight_decay": 0.01, "warmup_steps": 50, "ema_decay": 0.98},
            "dev_every_steps": steps + 1, "seed": seed,
        },
        Step,
    )


def dev_figures(net: PatchNet, attributes: Sequence[str], faces: Annotated) -> dict[str, BinaryFigures]:
    """Each attribute's figures on the dev faces that are labelled with it."""
    probabilities = FaceProbe(faces, (), (), attributes).probabilities(predict(net, faces.patches))
    figures = {}
    for name, values in probabilities.items():
        truth = faces.labels[:, LABELS.index(name)]
        known = ~np.isnan(truth)
        figures[name] = binary_figures(values[known], truth[known] == 1, THRESHOLD)
    return figures


def train_row(row: Row, samples: Samples, faces: Annotated, step: Step, progress: bool) -> dict[str, BinaryFigures]:
    """One training from seeded weights, and its dev figures."""
    torch.manual_seed(step.seed)
    net = families.get("tcnn").build(attributes=row.attributes, quality=False)
    assert isinstance(net, PatchNet)
    with tempfile.TemporaryDirectory(prefix="edgeface-ablation-") as folder:
        trainer = patch_trainer(net, narrowed(samples, row.attributes), step, Path(folder))
        trainer.run(lambda report: click.echo(f"{row.name}: {report}", err=True) if progress else None)
        trainer.take_best()
    return dev_figures(net.eval(), row.attributes, faces)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--run", required=True, type=click.Path(path_type=Path), help="Folder of a T-CNN run.")
@click.option("--steps", default=600, show_default=True, help="Of each training.")
@click.option("--batch", default=256, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), help="Where decoded pictures are kept.")
@click.option("--json", "as_json", is_flag=True, help="The table as JSON.")
def main(
    data: Path, run: Path, steps: int, batch: int, seed: int, threads: int, cache: Path | None, as_json: bool
) -> None:
    """Train the five rows of table 2 on DATA and print their accuracies on dev."""
    torch.set_num_threads(threads)
    config = read_settings(default_config_path("tcnn"), [], TCNNConfig)
    try:
        ready = TCNNData(config, data, run, cache or pixels_directory(), _silent)
        samples, faces = ready.samples("faces"), ready.dev_faces()
        rows = {
            row.name: train_row(row, samples, faces, step_of(row, steps, batch, seed), not as_json) for row in ROWS
        }
    except EdgefaceError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    if as_json:
        click.echo(msgspec.json.encode({"steps": steps, "batch": batch, "seed": seed, "rows": rows}))
        return
    names = ("sunglasses", "mask")
    click.echo(f"{'T-CNN trained on':36s}" + "".join(f"{name:>30s}" for name in names))
    for title, figures in rows.items():
        click.echo(f"{title:36s}" + "".join(f"{_cell(figures.get(name)):>30s}" for name in names))


def _cell(figures: BinaryFigures | None) -> str:
    if figures is None or figures.accuracy is None:
        return "-"
    balanced = "-" if figures.balanced_accuracy is None else f"{figures.balanced_accuracy:.2%}"
    return f"{figures.accuracy:.2%} (balanced {balanced})"


def _silent(items: Iterable[int], _label: str, _total: int) -> Iterable[int]:
    return items


if __name__ == "__main__":
    main()
