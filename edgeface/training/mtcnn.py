"""Training of MTCNN: P-Net, R-Net and O-Net in this order, each on what the earlier ones let through.

P-Net has two rounds, the second with what the first wrongly let through among its negatives: windows drawn at random
are nearly all easy, and a picture has a hundred thousand. Everything lies below the run's folder, a folder a round with
samples, state and log, so that a run goes on wherever it was stopped, between the rounds as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec.structs import replace
from torch import nn

from edgeface.data.detection import SourceSet, read_sources
from edgeface.data.pixels import ProgressBar
from edgeface.data.sets import open_data
from edgeface.errors import OptionError, TrainingError
from edgeface.int8.network import Quantisation
from edgeface.models.patch_nets import MTCNN
from edgeface.training.parts import Say
from edgeface.training.patches.mining import (
    Proposals,
    Sampling,
    add_landmark_faces,
    add_mined,
    propose,
    random_samples,
)
from edgeface.training.patches.own_sets import own_sets
from edgeface.training.patches.run import PatchRun
from edgeface.training.patches.samples import LANDMARK, NEGATIVE, PART, POSITIVE, SampleList, Samples
from edgeface.training.patches.training import Step, patch_trainer, predict
from edgeface.training.state import RunDirectory

# The rounds, and the net that each trains.
ROUNDS = {"pnet": "pnet", "pnet_hard": "pnet", "rnet": "rnet", "onet": "onet"}
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_DEV_SHARE_LANDMARKS = 0.3      # of the choice of the best weights; the rest is telling faces from others


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The probability from which on a window goes from each net to the next one."""

    pnet: _Share
    rnet: _Share


class MTCNNConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run's configuration: the samples, and how each net is trained.

    ``rounds`` leaves some of ROUNDS out, for a run that starts from trained weights. ``samples_of`` is the folder of an
    earlier run whose samples are taken instead of new ones. The weights carry the ``thresholds`` with them.
    """

    model: str
    options: dict[str, Any]
    sampling: Sampling
    pnet: Step
    pnet_hard: Step
    rnet: Step
    onet: Step
    thresholds: Thresholds
    rounds: tuple[str, ...] = tuple(ROUNDS)
    samples_of: str = ""
    threads: int = 0
    seed: int = 1


class MTCNNTraining(PatchRun):
    """A run of the three nets, a part for each round.

    Raises OptionError for a round that does not exist, and TrainingError for a quantised network without
    ``samples_of``.
    """

    net: MTCNN
    config: MTCNNConfig

    def __init__(
        self, net: MTCNN, config: MTCNNConfig, data: Path, out: Path, cache: Path,
        made: Mapping[str, Any], licence: str, progress: ProgressBar, quantisation: Quantisation | None = None,
    ) -> None:
        unknown = [name for name in config.rounds if name not in ROUNDS]
        if unknown:
            raise OptionError(f"no round {unknown[0]!r}: choose rounds from {', '.join(ROUNDS)}")
        if quantisation is not None and not config.samples_of:
            raise TrainingError("training in int8 needs samples_of: give it the folder of the run in float")
        own = own_sets(data, (*config.sampling.scenes, *config.sampling.faces))
        if own:
            config = replace(config, sampling=replace(config.sampling, scenes=own, faces=own))
        super().__init__(net, config, config.options, config.rounds, out, made, licence, quantisation)
        self._data, self._cache, self._progress = data, cache, progress
        self._sources: dict[str, dict[str, SourceSet]] = {}

    def _metrics(self) -> dict[str, Any]:
        return {**self.figures, "thresholds": msgspec.to_builtins(self.config.thresholds)}

    def _lines(self) -> Iterator[str]:
        for name in self.parts:
            figures = {k: v for k, v in self.figures.items() if k.startswith(f"{name} ")}
            yield ", ".join(f"{key} {value:.4g}" for key, value in figures.items())

    def _train_parts(self, show: Say) -> bool:
        return all(self._train_round(name, show) for name in self.parts)

    def _train_round(self, name: str, show: Say) -> bool:
        if self.stop_requested:     # before the samples of the next round, which take minutes
            return False
        net, config = self.net.nets()[ROUNDS[name]], getattr(self.config, name)
        train, dev = self._samples(name, "train"), self._samples(name, "dev")
        trainer = patch_trainer(net, train, config, self.out / name, dev=lambda n: dev_figures(n, dev))
        done = self._train(trainer, name, show)
        self.figures |= {f"{name} {figure}": value for figure, value in trainer.figures.items() if figure != "choose"}
        return done

    def _samples(self, name: str, split: str) -> Samples:
        home = Path(self.config.samples_of) if self.config.samples_of else self.out
        folder = home / name / f"samples-{split}"
        if not folder.is_dir():
            if self.config.samples_of:
                raise TrainingError(f"{folder}: no samples there: give samples_of the folder of a finished run")
            self._draw(name, split).write(folder)
        return Samples.open(folder)

    def _draw(self, name: str, split: str) -> Samples:
        sampling, size_px = self.config.sampling, self.net.nets()[ROUNDS[name]].architecture.size_px
        rng = np.random.default_rng((self.config.seed, list(ROUNDS).index(name), split == "dev"))
        sources = self._read(split)
        if ROUNDS[name] == "pnet":
            out = random_samples(sources, sampling, size_px, rng, self._progress)
        else:
            out = SampleList(size_px)
        if name != "pnet":
            assert not self.net.is_deployed      # a quantised one has its samples already
            rnet = self.net.rnet if name == "onet" else None
            add_mined(out, self._proposals(split, name), sources, sampling, size_px, rng, self._progress, rnet)
        add_landmark_faces(out, sources, sampling, size_px, rng, self._progress)
        return out.samples()

    def _read(self, split: str) -> dict[str, SourceSet]:
        if split not in self._sources:
            sampling = self.config.sampling
            folder = open_data(self._data)
            names = [n for n in (*sampling.scenes, *sampling.faces) if split == "train" or folder.has_part(n, split)]
            self._sources[split] = read_sources(folder, names, self._cache, self._progress, split)
        return self._sources[split]

    def _proposals(self, split: str, name: str) -> Proposals:
        """What the newest P-Net before the round ``name`` lets through, computed once for all rounds after it."""
        hard = name != "pnet_hard" and "pnet_hard" in self.parts
        directory = RunDirectory(self.out / ("pnet_hard" if hard else "pnet") / f"proposals-{split}")
        state = directory.load_state()
        if state is not None:
            return Proposals.from_state(state["proposals"])
        assert not self.net.is_deployed
        proposals = propose(self.net.pnet, self._read(split), self.config.sampling, self._progress)
        directory.save_state({"proposals": proposals.state()})
        return proposals


def dev_figures(net: nn.Module, dev: Samples) -> dict[str, float]:
    """Of a patch net on dev samples: ``average_precision`` of telling positives from negatives, ``box_percent`` the
    mean error of an edge, ``nme_percent`` that of the landmarks on LANDMARK samples, by the eyes' distance.

    ``choose`` weighs the first and the last.
    """
    out = predict(net, dev.pixels)
    judged = np.isin(dev.kind, (NEGATIVE, POSITIVE))
    order = np.argsort(-out.score.numpy()[judged], kind="stable")
    hits = np.cumsum(dev.kind[judged][order] == POSITIVE)
    precision = hits / np.arange(1, len(hits) + 1)
    is_face = dev.kind[judged][order] == POSITIVE
    average = float((precision * is_face).sum() / max(1, int(is_face.sum())))
    boxed = np.isin(dev.kind, (POSITIVE, PART)) & ~np.isnan(dev.box).any(1)
    box = float(np.abs(out.box.numpy()[boxed] - dev.box[boxed]).mean()) if boxed.any() else float("nan")
    marked = dev.kind == LANDMARK
    found, true = (values[marked].reshape(-1, 5, 2) for values in (out.landmarks.numpy(), dev.landmarks))
    eyes = np.linalg.norm(true[:, 0] - true[:, 1], axis=1).clip(0.05)
    nme = float((np.linalg.norm(found - true, axis=2).mean(1) / eyes).mean()) if marked.any() else 0.0
    return {
        "average_precision": average, "box_percent": 100 * box, "nme_percent": 100 * nme,
        "choose": average - _DEV_SHARE_LANDMARKS * nme,
    }
