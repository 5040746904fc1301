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
from msgspec.structs import replace as replace_fields
from numpy.typing import NDArray

from edgeface.data.pixels import ProgressBar
from edgeface.data.sets import open_data
from edgeface.errors import DataError, TrainingError
from edgeface.int8.network import Quantisation
from edgeface.models import families
from edgeface.models.patch_nets import PatchNet
from edgeface.runtime.logistic import logit
from edgeface.training.parts import Say
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
from edgeface.training.patches.own_sets import own_sets
from edgeface.training.patches.run import PatchRun
from edgeface.training.patches.samples import NEGATIVE, POSITIVE, Mixture, SampleList, Samples
from edgeface.training.patches.training import Step, patch_trainer, predict

STEPS = ("faces", "quality")
QUALITY_BRANCH = ("quality_unit*", "heads.quality*")    # what the second step trains alone
_LEVELLED_ON = 1024     # samples of quality that its bias is set on
OWN_SIZE_PX = 640       # the longest side at which the detector looks at the pictures of one's own sets
_LOG = logging.getLogger(__name__)
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
            if open_data(self._data).has_part(name, split):
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


class TCNNTraining(PatchRun):
    """A run of the two steps. A task without labels in the data is taken out of the net, and ``say`` is told so.

    ``run`` raises TrainingError where that is a quantised net, whose scales know all its tasks.
    """

    net: PatchNet
    config: TCNNConfig

    def __init__(
        self, net: PatchNet, config: TCNNConfig, data: Path, out: Path, cache: Path,
        made: Mapping[str, Any], licence: str, progress: ProgressBar, quantisation: Quantisation | None = None,
        say: Say = _LOG.warning,
    ) -> None:
        own = own_sets(data, (*config.drawing.scenes, *config.drawing.faces))
        if own:
            drawing = replace_fields(config.drawing, scenes={name: [OWN_SIZE_PX] for name in own}, faces=own)
            config = replace_fields(config, drawing=drawing)
        super().__init__(net, config, config.options, STEPS, out, made, licence, quantisation)
        self.thresholds: dict[str, float] = {}
        self._say = say
        self._data = TCNNData(
            config, data, Path(config.samples_of) if config.samples_of else out, cache, progress
        )

    def _lines(self) -> Iterator[str]:
        yield ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.figures.items())
        yield "thresholds: " + ", ".join(f"{name} {value:g}" for name, value in self.thresholds.items())

    def _metrics(self) -> dict[str, Any]:
        return {**self.figures, "thresholds": self.thresholds}

    def _train_parts(self, show: Say) -> bool:
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
        trainer = patch_trainer(
            self.net, narrowed(samples, attributes), self.config.faces, self.out / "faces", dev=probe.figures
        )
        if not self._train(trainer, "faces", show):
            return False
        if self.options.get("quality", True):
            assert quality is not None
            if not self._train_quality(narrowed(quality, attributes), probe, show):
                return False
        self.thresholds = probe.thresholds(self.net)
        if not self.net.is_deployed:      # a quantised one has scales that fit its biases
            self.thresholds = centred(self.net, self.thresholds, attributes)
        self.figures = {k: v for k, v in probe.figures(self.net, self.thresholds).items() if k != "choose"}
        return True

    def _train_quality(self, samples: Samples, probe: FaceProbe, show: Say) -> bool:
        if not self.net.is_deployed:
            step = self.config.quality
            level_quality(self.net, samples, Mixture(samples, step.shares, _LEVELLED_ON, step.seed).draw(0))
        trainer = patch_trainer(
            self.net, samples, self.config.quality, self.out / "quality", dev=probe.quality_figures,
            patterns=QUALITY_BRANCH,
        )
        return self._train(trainer, "quality", show)

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
            if self.net.is_deployed:
                raise TrainingError("a quantised net is trained with all its tasks: give data with their labels")
            self.net = fitted(self.net, self.config.model, options, [wanted.index(name) for name in kept])
        self.options = options


def fitted(net: PatchNet, name: str, options: Mapping[str, Any], rows: Sequence[int]) -> PatchNet:
    """A net of ``options`` with the weights of ``net``, of whose attribute outputs it has ``rows``."""
    smaller = families.get(name).network(options)
    if not isinstance(smaller, PatchNet):
        raise TrainingError(f"{name} is not T-CNN, the only network that this trainer knows")
    state = net.state_dict()
    for key in ("heads.attributes.weight", "heads.attributes.bias"):
        if key in state:
            state[key] = state[key][list(rows)]
    own = smaller.state_dict()
    smaller.load_state_dict({key: value for key, value in state.items() if key in own})
    return smaller


def centred(net: PatchNet, thresholds: Mapping[str, float], attributes: Sequence[str]) -> dict[str, float]:
    """Move the heads' biases so that each of the ``thresholds``, by name, becomes a probability of 0.5; return these.

    How often a thing is there in training is not how often it is met, so that a threshold may come out at 0.01, and the
    probabilities about it mean nothing to anyone. ``attributes`` are the names of the net's attribute outputs in order.
    """
    with torch.no_grad():
        for name, threshold in thresholds.items():
            head, row = ("attributes", attributes.index(name)) if name in attributes else ("quality", 0)
            net.bias_of(head)[row] -= logit(min(max(threshold, 1e-6), 1 - 1e-6))
    return dict.fromkeys(thresholds, 0.5)


def level_quality(net: PatchNet, samples: Samples, indices: NDArray[np.int64]) -> None:
    """Move the bias of the quality head so that its mean probability over ``indices`` is their mean label.

    Finished weights were moved by ``centred``: trained on from there, the first steps would do nothing but move back,
    and the branch would forget meanwhile what it knows.
    """
    quality = predict(net, samples.pixels[indices]).quality
    assert quality is not None
    logits, goal = quality.double(), float(samples.labels[indices, -1].mean())
    low, high = -50.0, 50.0
    while high - low > 1e-3:        # the mean probability rises with the shift
        middle = (low + high) / 2
        low, high = (middle, high) if float(torch.sigmoid(logits + middle).mean()) < goal else (low, middle)
    with torch.no_grad():
        net.bias_of("quality").add_((low + high) / 2)


def narrowed(samples: Samples, attributes: Sequence[str]) -> Samples:
    """The samples with the labels of these attributes, in their order, and the quality last."""
    columns = [*(LABELS.index(name) for name in attributes), QUALITY]
    return replace(samples, labels=np.ascontiguousarray(samples.labels[:, columns]))


def _both_kinds(labels: NDArray[np.float32]) -> bool:
    return bool((labels == 0).any() and (labels == 1).any())
