"""Table 3 of the MHCNN paper on our data: face quality by local binary patterns and an SVM against T-CNN's branch.

    python benchmarks/quality_lbp.py ../shared/data --run runs/tcnn --weights runs/tcnn/tcnn.best.pt

The SVM as published: circular LBP of 8 points at radius 2, the 59 uniform patterns' histogram in each of 7 x 5 cells
(2065 numbers), a radial kernel, C = 1.5 and gamma = 6.82; beside it the same with the gamma that cross-validation on
the training part chooses. Both sides see the same 48 x 48 patches: those of ``--run``'s quality samples, of which the
SVM takes ``--faces`` of each class, as its training time grows with their square, and T-CNN's branch is trained anew on
those same ones, on the frozen layers of ``--weights``; the weights as they are, trained on all, are the last line.

Figures are on the dev part's annotated faces, none of them spoilt by us; ``with degradations`` adds each high one once
more, blurred or brought down until it is a low one. The accuracy is the balanced one at its best threshold on dev, as
the paper searched it, since low faces are many more than high ones here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import click
import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import local_binary_pattern
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC
from torch import nn

from edgeface.data.pixels import pixels_directory
from edgeface.errors import EdgefaceError, TrainingError
from edgeface.evaluation.attributes import roc_auc
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.patch_nets import PatchNet
from edgeface.training.config import default_config_path, read_settings
from edgeface.training.freezing import fits
from edgeface.training.patches.faces import unrecognisable
from edgeface.training.patches.labels import QUALITY
from edgeface.training.patches.samples import NEGATIVE, POSITIVE, Samples
from edgeface.training.patches.training import Step, patch_trainer, predict
from edgeface.training.tcnn import QUALITY_BRANCH, TCNNConfig, TCNNData, narrowed

POINTS, RADIUS, PATTERNS = 8, 2, 59
CELLS = (7, 5)                              # down and across
COST, GAMMA = 1.5, 6.82
GAMMAS = (0.03, 0.1, 0.3, 1.0, 3.0)
FOLDS = 3

Patches = NDArray[np.uint8]
Floats = NDArray[np.float64]


def lbp_features(patches: Patches) -> Floats:
    """Histograms (N, 35 * 59) of uint8 patches (N, S, S, 3): each cell's sums to 1."""
    rows, columns = (np.linspace(0, patches.shape[1], count + 1).round().astype(int) for count in CELLS)
    features = np.empty((len(patches), CELLS[0] * CELLS[1] * PATTERNS))
    for out, patch in zip(features, patches, strict=True):
        grey = cv2.cvtColor(patch, cv2.COLOR_BGR2GRAY)
        codes = local_binary_pattern(grey, POINTS, RADIUS, "nri_uniform").astype(np.int64)
        cells = [
            np.bincount(codes[top:bottom, left:right].ravel(), minlength=PATTERNS) / ((bottom - top) * (right - left))
            for top, bottom in pairwise(rows)
            for left, right in pairwise(columns)
        ]
        out[:] = np.concatenate(cells)
    return features


def figures(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Area under the ROC curve, and the balanced accuracy at the best of all thresholds."""
    edges = np.unique(scores)
    high, low = np.sort(scores[truth]), np.sort(scores[~truth])
    balanced = (1 - np.searchsorted(high, edges) / len(high) + np.searchsorted(low, edges) / len(low)) / 2
    return {"auc": roc_auc(scores, truth) or 0.0, "balanced_accuracy": float(balanced.max())}


def kernel(features: Floats, others: Floats) -> Floats:
    """Squared distances (N, M) of features, from which a radial kernel of any gamma follows: libsvm would work them out
    anew for each, and without BLAS."""
    return euclidean_distances(features, others, squared=True)


def svm_scores(train: Floats, truth: NDArray[np.bool_], test: Floats, gamma: float) -> Floats:
    """Decision values (M,) of an SVM from squared distances: train (N, N), and test (M, N)."""
    fitted = SVC(C=COST, kernel="precomputed").fit(np.exp(-gamma * train), truth)
    return np.asarray(fitted.decision_function(np.exp(-gamma * test)))


def best_gamma(distances: Floats, truth: NDArray[np.bool_], seed: int) -> float:
    """The one of GAMMAS with the largest mean area under the ROC curve over the folds of the training part."""
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(distances, truth))

    def quality(gamma: float) -> float:
        return float(np.mean([
            roc_auc(svm_scores(distances[np.ix_(a, a)], truth[a], distances[np.ix_(b, a)], gamma), truth[b])
            for a, b in folds
        ]))

    return max(GAMMAS, key=quality)


def subset(samples: Samples, each: int, seed: int) -> Samples:
    """``each`` faces of high and as many of low quality, or all where there are fewer."""
    rng = np.random.default_rng(seed)
    chosen = np.concatenate([
        rng.permutation(np.nonzero(samples.kind == kind)[0])[:each] for kind in (POSITIVE, NEGATIVE)
    ])
    chosen.sort()
    return Samples(
        samples.pixels[chosen], samples.kind[chosen], samples.box[chosen], samples.landmarks[chosen],
        samples.labels[chosen],
    )


def train_branch(weights: Path, samples: Samples, step: Step) -> PatchNet:
    """A fresh quality branch on the frozen layers of a checkpoint, trained on ``samples``; raises TrainingError."""
    net = load_checkpoint(weights).build()
    if not isinstance(net, PatchNet) or net.quality_unit is None:
        raise TrainingError(f"{weights}: is no T-CNN with a quality branch")
    torch.manual_seed(step.seed)
    for name, module in net.named_modules():
        if fits(name, QUALITY_BRANCH) and isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.PReLU):
            module.reset_parameters()
    with tempfile.TemporaryDirectory(prefix="edgeface-quality-") as folder:
        trainer = patch_trainer(net, samples, step, Path(folder), patterns=QUALITY_BRANCH)
        trainer.run()
        trainer.take_best()
    return net.eval()


def branch_scores(net: PatchNet, patches: Patches) -> NDArray[np.float32]:
    """The quality logits (N,) of patches."""
    quality = predict(net, patches).quality
    assert quality is not None
    return quality.numpy()


def table(data: TCNNData, config: TCNNConfig, weights: Path, each: int, steps: int) -> dict[str, dict[str, float]]:
    """The table's lines by name, each with its figures on dev, without and with degradations."""
    checkpoint = load_checkpoint(weights)
    attributes = checkpoint.options.get("attributes", ())
    train = narrowed(data.samples("quality"), attributes)
    few = subset(train, each, config.seed)
    truth_of_few = few.kind == POSITIVE
    faces = data.dev_faces()
    known = ~np.isnan(faces.labels[:, QUALITY])
    patches, truth = faces.patches[known], faces.labels[known, QUALITY] == 1
    rng = np.random.default_rng(config.seed)
    spoilt = np.array([unrecognisable(patch, rng) for patch in patches[truth]])
    both, both_truth = np.concatenate((patches, spoilt)), np.concatenate((truth, np.zeros(len(spoilt), bool)))

    def line(scores: NDArray[np.floating]) -> dict[str, float]:
        plain, more = figures(scores[: len(truth)], truth), figures(scores, both_truth)
        return plain | {f"{name}_with_degradations": value for name, value in more.items()}

    features, dev_features = lbp_features(few.pixels), lbp_features(both)
    distances, to_dev = kernel(features, features), kernel(dev_features, features)
    gamma = best_gamma(distances, truth_of_few, config.seed)
    step = msgspec.structs.replace(config.quality, steps=steps, budget_minutes=0.0, dev_every_steps=steps + 1)
    trained = load_checkpoint(weights).build()
    assert isinstance(trained, PatchNet)
    return {
        f"LBP + SVM, gamma {GAMMA}": line(svm_scores(distances, truth_of_few, to_dev, GAMMA)),
        f"LBP + SVM, gamma {gamma} by cross-validation": line(svm_scores(distances, truth_of_few, to_dev, gamma)),
        "T-CNN's branch, trained on the same faces": line(branch_scores(train_branch(weights, few, step), both)),
        "T-CNN, trained on all": line(branch_scores(trained, both)),
    }


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--run", required=True, type=click.Path(path_type=Path), help="Folder of a T-CNN run.")
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="T-CNN's checkpoint.")
@click.option("--faces", default=3000, show_default=True, help="Training faces of each class for the SVM.")
@click.option("--steps", default=400, show_default=True, help="Of the branch's training on the same faces.")
@click.option("--threads", default=1, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), help="Where decoded pictures are kept.")
@click.option("--json", "as_json", is_flag=True, help="The table as JSON.")
def main(
    data: Path, run: Path, weights: Path, faces: int, steps: int, threads: int, cache: Path | None, as_json: bool
) -> None:
    """Train both sides on DATA and print how they tell high from low quality on dev."""
    torch.set_num_threads(threads)
    config = read_settings(default_config_path("tcnn"), [], TCNNConfig)
    try:
        lines = table(TCNNData(config, data, run, cache or pixels_directory(), _silent), config, weights, faces, steps)
    except EdgefaceError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    if as_json:
        click.echo(msgspec.json.encode(lines))
        return
    names = list(next(iter(lines.values())))
    click.echo(f"{'':52s}" + "".join(f"{name.replace('_', ' '):>38s}" for name in names))
    for title, values in lines.items():
        click.echo(f"{title:52s}" + "".join(f"{value:38.4f}" for value in values.values()))


def _silent(items: Iterable[int], _label: str, _total: int) -> Iterable[int]:
    return items


if __name__ == "__main__":
    main()
