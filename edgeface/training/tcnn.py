"""Training of T-CNN in two steps, as published (mhcnn.txt, section 5.1): face, landmarks and attributes first, then all
of that frozen and the quality branch alone.

Everything lies below the run's folder: ``detections/`` of the dense detector, ``faces/`` and ``quality/`` with samples,
state and log of a step each, so that a run goes on wherever it was stopped, between the steps as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.atomic import refused
from edgeface.data.annotations import ANNOTATIONS, read_annotations
from edgeface.data.pixels import ProgressBar
from edgeface.errors import DataError, TrainingError
from edgeface.models import model
from edgeface.models.checkpoint import Checkpoint, save
from edgeface.models.patch_nets import PatchNet
from edgeface.training.patches.detections import detections
from edgeface.training.patches.face_probe import Annotated, FaceProbe, annotated, refinable
from edgeface.training.patches.faces import (
    SIZE_PX,
    Drawing,
    Labelled,
    add_detections,
    add_faces,
    add_quality,
    read_labelled,
)
from edgeface.training.patches.labels import LABELS, QUALITY
from edgeface.training.patches.loop import PatchTrainer, Step
from edgeface.training.patches.samples import NEGATIVE, POSITIVE, SampleList, Samples
from edgeface.training.state import STATE, RunDirectory

STEPS = ("faces", "quality")
_LOG = logging.getLogger(__name__)
Say = Callable[[str], None]
Found = Sequence[NDArray[np.float32]]
Add = Callable[[SampleList, Labelled, Found, Drawing, np.random.Generator, ProgressBar], None]


class TCNNConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run's configuration: the samples, and how each of the two steps is trained. ``samples_of`` is the folder of an
    earlier run whose detections and samples are taken instead of new ones."""

    model: str
    options: dict[str, Any]
    drawing: Drawing
    faces: Step
    quality: Step
    samples_of: str = ""
    threads: int = 0
    seed: int = 1


class TCNNData:
    """The sets of a data folder as T-CNN needs them, read when first asked for; sets that are not there are left out.

    ``home`` is the folder that keeps detections and samples. Raises DataError where a set that is there is wrong.
    """

    def __init__(self, config: TCNNConfig, data: Path, home: Path, cache: Path, progress: ProgressBar) -> None:
        self._drawing, self._data, self._home, self._cache = config.drawing, data, home, cache
        self._progress, self._seed = progress, config.seed
        self._sets: dict[tuple[str, str], Labelled | None] = {}

    def labelled(self, name: str, split: str) -> Labelled | None:
        """One set's ``split``, or None where the folder has none."""
        key = (name, split)
        if key not in self._sets:
            self._sets[key] = None
            if (self._data / name / ANNOTATIONS).is_file() and any(
                picture.split == split for picture in read_annotations(self._data / name, None)
            ):
                self._sets[key] = read_labelled(self._data, name, split, self._cache, self._progress)
            elif split == "train":
                _LOG.warning("%s: no training pictures: trains without this set", self._data / name)
        return self._sets[key]

    def found(self, labelled: Labelled, split: str) -> Found:
        """The detections in a set's pictures; scenes of the dev part are looked at in their first size alone."""
        drawing, name = self._drawing, labelled.source.name
        scene = name in drawing.scenes
        sizes = drawing.scenes[name] if scene else drawing.face_sizes_px
        score = drawing.scene_score if scene else drawing.face_score
        folder = self._home / "detections" / f"{name}-{split}"
        return detections(
            labelled.source, drawing.detector, sizes[:1] if split == "dev" else sizes, score, folder, self._progress
        )

    def samples(self, step: str) -> Samples:
        """The training samples of "faces" or "quality", drawn when the home has none yet."""
        folder = self._home / step / "samples"
        if not folder.is_dir():
            rng = np.random.default_rng((self._seed, STEPS.index(step)))
            out = SampleList(SIZE_PX, len(LABELS))
            if step == "quality":
                self._add(out, [*self._drawing.scenes, *self._drawing.faces], add_quality, rng)
            else:
                self._add(out, self._drawing.scenes, add_detections, rng)
                self._add(out, self._drawing.faces, add_faces, rng)
            out.samples().write(folder)
        return Samples.open(folder)

    def _add(self, out: SampleList, names: Iterable[str], add: Add, rng: np.random.Generator) -> None:
        for name in dict.fromkeys(names):
            labelled = self.labelled(name, "train")
            if labelled is not None:
                add(out, labelled, self.found(labelled, "train"), self._drawing, rng, self._progress)

    def dev_faces(self) -> Annotated:
        """The annotated faces of all dev parts."""
        sets = self._dev_sets()
        return annotated(sets, {each.source.name: self.found(each, "dev") for each in sets})

    def _dev_sets(self) -> list[Labelled]:
        names = dict.fromkeys((*self._drawing.scenes, *self._drawing.faces))
        return [each for name in names if (each := self.labelled(name, "dev")) is not None]

    def probe(self, attributes: Sequence[str]) -> FaceProbe:
        """Dev figures for a net with these attributes, from what dev parts there are."""
        sets = self._dev_sets()
        found = {each.source.name: self.found(each, "dev") for each in sets}
        scenes = [s for s in sets if s.source.complete and any(f.subset for p in s.source.pictures for f in p.faces)]
        empty = [s for s in sets if s.source.complete and not any(p.faces for p in s.source.pictures)]
        return FaceProbe(
            self.dev_faces(),
            [each for s in scenes for each in refinable(s, found[s.source.name])],
            [each for s in empty for each in refinable(s, found[s.source.name])],
            attributes,
        )


class TCNNTraining:
    """A run of the two steps in ``out``; ``run`` goes on where an earlier one stopped.

    ``net`` holds the weights that it starts from, and the trained ones afterwards; a task without labels in the data is
    taken out of it, and ``say`` is told so.
    """

    def __init__(
        self, net: PatchNet, config: TCNNConfig, data: Path, out: Path, cache: Path, made: Mapping[str, Any],
        licence: str, progress: ProgressBar, say: Say = _LOG.warning,
    ) -> None:
        self.net, self.config, self.out = net, config, out
        self.options = dict(config.options)
        self.made, self.licence = dict(made), licence
        self.leads = True
        self.stop_requested = False
        self.figures: dict[str, float] = {}
        self.thresholds: dict[str, float] = {}
        self._say = say
        self._data = TCNNData(
            config, data, Path(config.samples_of) if config.samples_of else out, cache, progress
        )
        self._current: PatchTrainer | None = None

    def stop(self) -> None:
        """Save after the step at hand, and end."""
        self.stop_requested = True
        if self._current is not None:
            self._current.stop_requested = True

    def going_on(self) -> str | None:
        """The steps that an earlier run has done or begun, in words; None for a new run."""
        return ", ".join(step for step in STEPS if (self.out / step / STATE).exists()) or None

    def result(self) -> Iterator[str]:
        """The dev figures, the thresholds chosen on dev, and where the weights are."""
        if self.stop_requested:
            yield "stopped: the same command goes on"
            return
        yield ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.figures.items())
        yield "thresholds: " + ", ".join(f"{name} {value:g}" for name, value in self.thresholds.items())
        yield f"weights: {self.weights}"

    @property
    def weights(self) -> Path:
        """Where the trained weights go."""
        return self.out / f"{self.config.model}.best.pt"

    def run(self, show: Say = lambda _line: None) -> None:
        """Train both steps, or as far as ``stop`` lets it. Raises as ``PatchTrainer.run``, and DataError."""
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        for step in STEPS:
            self._make(self.out / step)
        directory = RunDirectory(self.out)
        directory.claim()
        try:
            if not self._steps(show):
                return
            config = msgspec.to_builtins(self.config)
            directory.log({
                "kind": "done", "config": config, **self.made, **self.figures, "thresholds": self.thresholds,
            })
        finally:
            directory.release()
        save(self.weights, Checkpoint(
            self.config.model, self.options, {k: v.clone() for k, v in self.net.state_dict().items()},
            {**self.figures, "thresholds": self.thresholds}, {**self.made, "config": config}, self.licence,
        ))

    @staticmethod
    def _make(folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(folder, error) from None

    def _steps(self, show: Say) -> bool:
        home = Path(self.config.samples_of)
        if self.config.samples_of and not all((home / step / "samples").is_dir() for step in STEPS):
            raise TrainingError(f"{home}: no samples there: give samples_of the folder of a finished run")
        samples = self._data.samples("faces")
        if not ((samples.kind == POSITIVE).any() and (samples.kind == NEGATIVE).any()):
            raise DataError("no detected faces and false alarms to train on: give data with complete pictures (wider)")
        quality = self._data.samples("quality") if self.options.get("quality", True) else None
        self._fit(samples, quality)
        attributes = self.options["attributes"]
        probe = self._data.probe(attributes)
        trainer = PatchTrainer(
            self.net, narrowed(samples, attributes), self.config.faces, self.out / "faces", dev=probe.figures
        )
        if not self._train(trainer, "faces", show):
            return False
        if self.options.get("quality", True):
            assert quality is not None
            self._train_quality(narrowed(quality, attributes), probe, show)
            if self.stop_requested:
                return False
        self.net.eval()
        self.thresholds = probe.thresholds(self.net)
        self.figures = {k: v for k, v in probe.figures(self.net, self.thresholds).items() if k != "choose"}
        return True

    def _train(self, trainer: PatchTrainer, step: str, show: Say) -> bool:
        self._current = trainer
        trainer.directory.log({"kind": "samples", **trainer.samples.counts()})
        if self.stop_requested:
            return False
        return trainer.run(lambda report: show(f"{step} {report}"))

    def _train_quality(self, samples: Samples, probe: FaceProbe, show: Say) -> None:
        assert self.net.quality_unit is not None
        branch = nn.ModuleList([self.net.quality_unit, self.net.quality])
        frozen = [p for p in self.net.parameters() if not any(p is own for own in branch.parameters())]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            trainer = PatchTrainer(
                self.net, samples, self.config.quality, self.out / "quality", dev=probe.quality_figures,
                trainable=branch,
            )
            self._train(trainer, "quality", show)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _fit(self, samples: Samples, quality: Samples | None) -> None:
        """Take the tasks out of the net that the data have no labels of both kinds for, and say so."""
        wanted = tuple(self.options.get("attributes", LABELS[:QUALITY]))
        kept = [name for name in wanted if _both_kinds(samples.labels[:, LABELS.index(name)])]
        for name in wanted:
            if name not in kept:
                self._say(f"no training faces with and without {name}: trains without that task")
        options = self.options | {"attributes": kept}
        if quality is not None and not _both_kinds(quality.labels[:, QUALITY]):
            self._say("no training faces of high and low quality: trains without that task")
            options["quality"] = False
        if (tuple(kept), options.get("quality", True)) != (wanted, self.options.get("quality", True)):
            self.net = fitted(self.net, self.config.model, options, [wanted.index(name) for name in kept])
        self.options = options


def fitted(net: PatchNet, name: str, options: Mapping[str, Any], rows: Sequence[int]) -> PatchNet:
    """A net of ``options`` with the weights of ``net``, of whose attribute outputs it has ``rows``."""
    smaller = model.get(name)(**options)
    if not isinstance(smaller, PatchNet):
        raise TrainingError(f"{name} is not T-CNN, the only network that this trainer knows")
    state = net.state_dict()
    for key in ("attributes.weight", "attributes.bias"):
        if key in state:
            state[key] = state[key][list(rows)]
    own = smaller.state_dict()
    smaller.load_state_dict({key: value for key, value in state.items() if key in own})
    return smaller


def narrowed(samples: Samples, attributes: Sequence[str]) -> Samples:
    """The samples with the labels of these attributes, in their order, and the quality last."""
    columns = [*(LABELS.index(name) for name in attributes), QUALITY]
    return replace(samples, labels=np.ascontiguousarray(samples.labels[:, columns]))


def _both_kinds(labels: NDArray[np.float32]) -> bool:
    return bool((labels == 0).any() and (labels == 1).any())
