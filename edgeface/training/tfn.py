"""TFN's trainings, one after the other: the dense stage on whole pictures, the joint stage in which the trunk learns
from all tasks, then, with that frozen, the nets on regions of the trunk's features, each by itself (tfn.txt, section
IV.C)."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import torch
from msgspec.structs import replace
from torch import nn

from edgeface.bundle import sha256_of
from edgeface.data.pixels import ProgressBar, cache_directory
from edgeface.data.sets import open_data
from edgeface.errors import OptionError, TrainingError
from edgeface.models.checkpoint import Checkpoint, load, save
from edgeface.models.family import families
from edgeface.models.maskface import PYRAMID, MaskFace
from edgeface.models.tfn import TFN, Group, Task
from edgeface.training.config import Config, plain_config
from edgeface.training.detector import Lesson
from edgeface.training.joint import DevFaces, JointObjective, JointProbe, groups_of
from edgeface.training.joint_samples import Joint, JointSet, TaskFaces
from edgeface.training.region_heads import RegionTrainer, RegionTraining
from edgeface.training.region_samples import RegionCutter, RegionSamples, joined, scales_of
from edgeface.training.region_sources import Sources
from edgeface.training.state import STATE, RunDirectory

DETECTOR: Literal["detector"] = "detector"
JOINT: Literal["joint"] = "joint"
# Of the tasks: those whose nets are part of the joint stage.
JOINT_TASKS: tuple[Task, ...] = ("landmarks", "attributes")
Say = Callable[[str], None]
Part = Literal["detector", "joint", "detection", "landmarks", "attributes"]
_LOG = logging.getLogger(__name__)


class TFNConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A detector's configuration, those of the ``joint`` stage and of the nets on ``regions``, and which of the
    ``parts`` are trained: the dense stage ("detector"), trunk and nets together ("joint"), and the nets by their tasks.
    Without "detector" a run begins with --start-from."""

    regions: RegionTraining
    joint: Joint
    parts: tuple[Part, ...] = (DETECTOR, JOINT, "detection", "landmarks", "attributes")


class JointTrainer(Protocol):
    """Makes the trainer of a network's joint stage, in the folder ``out``, whose lessons ``widened`` gives."""

    def __call__(self, net: TFN, settings: Config, out: Path, widened: Callable[[Lesson], Lesson]) -> Any: ...


class TFNTraining:
    """A run in ``out``: its folder "detector" is that of ``detector``'s run, and each net on regions has one of its
    name.

    ``detector`` makes the detector's trainer when it is needed, ``joint`` that of the joint stage; ``start`` is a
    checkpoint of a TFN or of a MaskFace whose detector is trained; that of a MaskFace is not trained again by itself.
    Raises OptionError for parts that cannot be trained, and CheckpointError.
    """

    def __init__(
        self, config: TFNConfig, data: Path, out: Path, cache: Path | None, made: Mapping[str, Any],
        progress: ProgressBar, detector: Callable[[Path], Any], joint: JointTrainer, start: Path | None,
    ) -> None:
        if not config.parts or len(set(config.parts)) < len(config.parts):
            raise OptionError("parts must be some of detector, joint, detection, landmarks and attributes, each once")
        self._parts = set(config.parts)
        if JOINT in self._parts and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise OptionError('the joint stage trains in one process: leave torchrun out, or set parts=["detector"]')
        if start is not None and DETECTOR in self._parts and _is_maskface(start):
            _LOG.warning("%s: its detector is taken as it is, and what comes after it is trained", start)
            self._parts.discard(DETECTOR)
        if DETECTOR not in self._parts and start is None:
            raise OptionError("without the part detector --start-from is needed, a TFN or MaskFace that finds faces")
        self.config, self.out, self._data = config, out, data
        self._cache, self._made, self._progress = cache or cache_directory(), dict(made), progress
        self._start = start
        self._detector = detector(out / DETECTOR) if DETECTOR in self._parts else None
        self._joint = joint
        self._trainer: RegionTrainer | None = None
        self._joint_trainer: Any = None
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
        if self._joint_trainer is not None:
            self._joint_trainer.stop()
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
        sources = Sources(
            open_data(self._data), self.config.regions, self._cache, self.out / "faces", self._progress
        )
        net, options = self._network(started, checkpoint, sources)
        self.figures = dict(checkpoint.metrics) if checkpoint.model == self.config.model else {}
        if JOINT in self._parts and not self._jointly(net, options, sources, show):
            return
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

    def _jointly(self, net: TFN, options: dict[str, Any], sources: Sources, show: Say) -> bool:
        """Train trunk, pyramid and nets from all tasks together; False when ``stop`` ended that before.

        The weights are those at the end, when the learning rate is down for every task, and not those that are best for
        one of them.
        """
        ended = self.out / f"{JOINT}.pt"
        if not ended.is_file():
            run = replace(
                self.config.run, steps=self.config.joint.steps, budget_minutes=self.config.joint.budget_minutes,
                epoch_steps=self.config.joint.epoch_steps,
            )
            settings = replace(
                plain_config(self.config), options=options, optimiser=self.config.joint.optimiser, run=run
            )
            self._joint_trainer = self._joint(net, settings, self.out / JOINT, self._widened(net, sources))
            if not self.stop_requested:
                self._joint_trainer.run(lambda line: show(f"{JOINT} {line}"))
            if self.stop_requested:
                return False
            shutil.copyfile(self.out / JOINT / f"{self.config.model}.last.pt", ended)
        checkpoint = load(ended)
        net.load_state_dict(checkpoint.state)
        net.to(memory_format=torch.contiguous_format)   # type: ignore[call-overload]  # torch types the others alone
        self.figures |= {name: value for name, value in checkpoint.metrics.items() if name != "choose"}
        self._made[JOINT] = checkpoint.made
        return True

    def _widened(self, net: TFN, sources: Sources) -> Callable[[Lesson], Lesson]:
        """The joint stage's lesson, from that of a detector."""
        joint, tasks = self.config.joint, [each for each in JOINT_TASKS if each in net.design.tasks]
        groups = groups_of(net, tasks)
        pairs = [(group, task) for group in groups for task in group.tasks]
        taught = {
            task: TaskFaces(group, sources.drawing(task), sources.train_faces(task, net)) for group, task in pairs
        }
        dev = [
            DevFaces(group, faces, sources.drawing(task).dev_faces)
            for group, task in pairs if (faces := sources.dev_faces(task, net)) is not None
        ]
        small_px = self.config.feedback.small_face_px

        def widened(lesson: Lesson) -> Lesson:
            return Lesson(
                JointSet(lesson.dataset, taught, joint),
                JointObjective(net, self.config.loss, small_px, tasks, joint),
                JointProbe(lesson.probe, dev, self._progress),
            )

        return widened

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
