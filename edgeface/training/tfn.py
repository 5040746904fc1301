"""TFN's trainings, one after the other: the dense stage on whole pictures, then, with that frozen, the nets on regions
of its trunk's features, each by itself (tfn.txt, section IV.C)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from edgeface.bundle import sha256_of
from edgeface.data.pixels import ProgressBar, cache_directory
from edgeface.data.sets import open_data
from edgeface.errors import OptionError, TrainingError
from edgeface.models.checkpoint import Checkpoint, load, save
from edgeface.models.family import families
from edgeface.models.maskface import PYRAMID, MaskFace
from edgeface.models.tfn import TFN, Group
from edgeface.training.config import Config
from edgeface.training.region_heads import RegionTrainer, RegionTraining
from edgeface.training.region_samples import RegionCutter, RegionSamples, joined, scales_of
from edgeface.training.region_sources import Sources
from edgeface.training.state import STATE, RunDirectory

DETECTOR: Literal["detector"] = "detector"
Say = Callable[[str], None]
Part = Literal["detector", "detection", "landmarks", "attributes"]
_LOG = logging.getLogger(__name__)


class TFNConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A detector's configuration, that of the nets on ``regions``, and which of the ``parts`` are trained: the dense
    stage ("detector"), and the nets by their tasks. Without "detector" a run begins with --start-from."""

    regions: RegionTraining
    parts: tuple[Part, ...] = (DETECTOR, "detection", "landmarks", "attributes")


class TFNTraining:
    """A run in ``out``: its folder "detector" is that of ``detector``'s run, and each net on regions has one of its
    name.

    ``detector`` makes the detector's trainer when it is needed; ``start`` is a checkpoint of a TFN or of a MaskFace
    whose detector is trained. With a MaskFace the nets on regions alone are trained. Raises OptionError for parts that
    cannot be trained, and CheckpointError.
    """

    def __init__(
        self, config: TFNConfig, data: Path, out: Path, cache: Path | None, made: Mapping[str, Any],
        progress: ProgressBar, detector: Callable[[Path], Any], start: Path | None,
    ) -> None:
        if not config.parts or len(set(config.parts)) < len(config.parts):
            raise OptionError("parts must be some of detector, detection, landmarks and attributes, each once")
        self._parts = set(config.parts)
        if start is not None and DETECTOR in self._parts and _is_maskface(start):
            _LOG.warning("%s: its detector is taken as it is, and the nets on regions are trained", start)
            self._parts.discard(DETECTOR)
        if DETECTOR not in self._parts and start is None:
            raise OptionError("without the part detector --start-from is needed, a TFN or MaskFace that finds faces")
        self.config, self.out, self._data = config, out, data
        self._cache, self._made, self._progress = cache or cache_directory(), dict(made), progress
        self._start = start
        self._detector = detector(out / DETECTOR) if DETECTOR in self._parts else None
        self._trainer: RegionTrainer | None = None
        self.leads = True if self._detector is None else self._detector.leads
        self.stop_requested = False
        self.figures: dict[str, Any] = {}

    def going_on(self) -> str | None:
        """As ``Training``."""
        begun = sorted(path.parent.name for path in self.out.glob(f"*/{STATE}") if path.parent.name != DETECTOR)
        if begun:
            return ", ".join(begun)
        return None if self._detector is None else self._detector.going_on()

    def stop(self) -> None:
        """As ``Training``."""
        self.stop_requested = True
        if self._detector is not None:
            self._detector.stop()
        if self._trainer is not None:
            self._trainer.stop_requested = True

    @property
    def weights(self) -> Path:
        """As ``Training``."""
        return self.out / f"{self.config.model}.best.pt"

    def run(self, show: Say = lambda _line: None) -> None:
        """As ``Training``; raises CheckpointError too, for a detector that cannot be read."""
        started = self._start
        if self._detector is not None:
            self._detector.run(show)
            if self.stop_requested or not self.leads:
                return
            started = self._detector.weights
        assert started is not None
        if self.config.run.threads:
            torch.set_num_threads(self.config.run.threads)
        checkpoint = load(started)
        sources = Sources(open_data(self._data), self.config.regions, self._cache, self._progress)
        net, options = self._network(started, checkpoint, sources)
        self.figures = dict(checkpoint.metrics) if checkpoint.model == self.config.model else {}
        net.requires_grad_(False)
        for group in net.design.groups:
            if self._parts & set(group.tasks) and not self._trained(net, group, sources, show):
                return
        made = {**checkpoint.made, **self._made, "config": msgspec.to_builtins(self.config)}
        if self._detector is None:
            made["started_from"] = {"sha256": sha256_of(started), "model": checkpoint.model, "made": checkpoint.made}
        state = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
        save(self.weights, Checkpoint(
            self.config.model, options, state, self.figures, made, checkpoint.licence
        ))

    def _network(self, path: Path, checkpoint: Checkpoint, sources: Sources) -> tuple[TFN, dict[str, Any]]:
        """The network with the detector of ``checkpoint``, and with its nets on regions where it has them; the scales
        of its maps are measured where nobody gave any."""
        if checkpoint.quantisation is not None:
            raise TrainingError(f"{path}: is quantised: give the float checkpoint that it was made from")
        torch.manual_seed(self.config.run.seed)
        options = dict(self.config.options)
        given = checkpoint.build()
        same = isinstance(given, TFN) and checkpoint.options.get("scales")
        if same:
            options.setdefault("scales", checkpoint.options["scales"])
        net = families.get(self.config.model).network(options)
        assert isinstance(net, TFN)
        _take(net, given, path, checkpoint)
        if "scales" not in options:
            options["scales"] = scales_of(net.eval(), sources.some_pictures())
            scaled = families.get(self.config.model).network(options)
            assert isinstance(scaled, TFN)
            scaled.load_state_dict(net.state_dict())
            net = scaled
        return net, options

    def _trained(self, net: TFN, group: Group, sources: Sources, show: Say) -> bool:
        """Train the net of a group; False when ``stop`` ended that before."""
        folder = self.out / group.name
        directory = RunDirectory(folder)
        directory.claim()
        try:
            train, dev = self._samples(net, group, sources, folder)
            own = net.regions[group.name].requires_grad_(True)
            self._trainer = RegionTrainer(group.name, own, train, dev, self.config.regions, folder)
            if self.stop_requested or not self._trainer.run(show):
                return False
            own.requires_grad_(False)
        finally:
            directory.release()
        self.figures |= self._trainer.figures
        return True

    def _samples(
        self, net: TFN, group: Group, sources: Sources, folder: Path
    ) -> tuple[RegionSamples, RegionSamples | None]:
        """The regions to train on and to look at, cut once; no dev regions where no set has such a part."""
        places = folder / "train", folder / "dev"
        if not places[0].is_dir():
            cutter = RegionCutter(net, group)
            dev = [part for task in group.tasks for part in sources.dev(task, net, cutter)]
            if dev:
                joined(dev).write(places[1])
            joined([sources.train(task, net, cutter) for task in group.tasks]).write(places[0])
        return RegionSamples.open(places[0]), RegionSamples.open(places[1]) if places[1].is_dir() else None

    def result(self) -> Iterator[str]:
        """As ``Training``."""
        if self.stop_requested:
            yield "stopped: the same command goes on"
            return
        figures = ", ".join(f"{key} {value:g}" for key, value in self.figures.items() if isinstance(value, float))
        yield figures or "no dev part to measure on"
        yield f"weights: {self.weights}"


def _is_maskface(path: Path) -> bool:
    from edgeface.models.starting import is_archive

    return not is_archive(path) and load(path).model == "maskface"


def _take(net: TFN, given: nn.Module, path: Path, checkpoint: Checkpoint) -> None:
    """Give ``net`` the detector of ``given``, a TFN or a light MaskFace of the same trunk and channels, and of a TFN
    its nets on regions where they are the same. Raises TrainingError for another one."""
    light = isinstance(given, MaskFace) and checkpoint.options.get("pyramid", PYRAMID) == "light"
    own, theirs = net.state_dict(), given.state_dict()
    fitting = {name: tensor for name, tensor in theirs.items() if name in own and own[name].shape == tensor.shape}
    needed = {name for name in own if not name.startswith("regions.")}
    if not (light or isinstance(given, TFN)) or not needed <= set(fitting):
        raise TrainingError(
            f"{path}: is {checkpoint.model} {checkpoint.options}, whose detector is not this network's: give a TFN or "
            "a light MaskFace of the same width and channels"
        )
    net.load_state_dict(fitting, strict=False)
