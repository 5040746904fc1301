"""TFN's trainings, one after the other: the dense stage on whole pictures, the joint stage in which the trunk learns
from all tasks, then, with that frozen, the nets on regions of the trunk's features, each by itself (tfn.txt, section
IV.C)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from msgspec.structs import replace
from torch import nn

from edgeface.atomic import write_bytes
from edgeface.data.pixels import ProgressBar, pixels_directory
from edgeface.data.sets import open_data
from edgeface.errors import OptionError, TrainingError
from edgeface.models.checkpoint import Checkpoint, load_checkpoint
from edgeface.models.family import families
from edgeface.models.maskface import PYRAMID, MaskFace
from edgeface.models.starting import is_archive
from edgeface.models.tfn import TFN, Group
from edgeface.training.config import Config, plain_config
from edgeface.training.detector import Lesson
from edgeface.training.devices import processes
from edgeface.training.joint import DevFaces, JointObjective, JointProbe, groups_of, tasks_of, trained_patterns
from edgeface.training.joint_samples import Joint, JointSet, TaskFaces
from edgeface.training.loop import Trainer
from edgeface.training.parts import DETECTOR, Say, StagedRun, Training
from edgeface.training.region_heads import RegionBatch, RegionTraining, region_trainer
from edgeface.training.region_samples import RegionCutter, RegionSamples, joined, scales_of
from edgeface.training.region_sources import Sources
from edgeface.training.state import STATE, RunDirectory

JOINT: Literal["joint"] = "joint"
Part = Literal["detector", "joint", "detection", "landmarks", "attributes"]
_LOG = logging.getLogger(__name__)


class TFNConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A detector's configuration, those of the ``joint`` stage and of the nets on ``regions``, and which of the
    ``parts`` are trained: the dense stage ("detector"), trunk and nets together ("joint"), and the nets by their tasks.
    Without "detector" a run begins with --start-from."""

    regions: RegionTraining
    joint: Joint
    parts: tuple[Part, ...] = (DETECTOR, JOINT, "detection", "landmarks", "attributes")


class JointRun(Protocol):
    """Makes the run of a network's joint stage, in the folder ``out``, whose lesson ``widened`` gives."""

    def __call__(self, net: TFN, settings: Config, out: Path, widened: Callable[[Lesson], Lesson]) -> Training: ...


class TFNTraining(StagedRun):
    """A run whose parts after the detector's are the joint stage and the nets on regions, by their groups' names.

    ``joint`` makes the run of the joint stage; ``start`` is a checkpoint of a TFN or of a MaskFace whose detector is
    trained; that of a MaskFace is not trained again by itself. Raises OptionError and DataError for parts that cannot
    be trained, before any is, and CheckpointError.
    """

    config: TFNConfig

    def __init__(
        self, config: TFNConfig, data: Path, out: Path, cache: Path | None, made: Mapping[str, Any],
        progress: ProgressBar, detector: Callable[[Path], Training], joint: JointRun, start: Path | None,
    ) -> None:
        if not config.parts or len(set(config.parts)) < len(config.parts):
            raise OptionError("parts must be some of detector, joint, detection, landmarks and attributes, each once")
        parts = list(config.parts)
        if JOINT in parts and processes() > 1:
            raise OptionError('the joint stage trains in one process: leave torchrun out, or set parts=["detector"]')
        if start is not None and DETECTOR in parts and _is_maskface(start):
            _LOG.warning("%s: its detector is taken as it is, and what comes after it is trained", start)
            parts.remove(DETECTOR)
        if DETECTOR not in parts and start is None:
            raise OptionError("without the part detector --start-from is needed, a TFN or MaskFace that finds faces")
        self._sources = Sources(
            open_data(data), config.regions, cache or pixels_directory(), out / "faces", progress
        )
        _require_possible(config, parts, self._sources)
        super().__init__(config, parts, data, out, cache, made, progress, detector, start)
        self._joint = joint

    def going_on(self) -> str | None:
        # A group's net is for one or several of the parts' tasks, and has a name of its own.
        begun = sorted(path.parent.name for path in self.out.glob(f"*/{STATE}") if path.parent.name != DETECTOR)
        return ", ".join(begun) or super().going_on()

    def _train_parts(self, path: Path, checkpoint: Checkpoint, show: Say) -> tuple[nn.Module, dict[str, Any]] | None:
        net, options = self._network(path, checkpoint)
        if JOINT in self.parts and not self._jointly(net, options, show):
            return None
        for group in net.design.groups:
            if set(self.parts) & set(group.tasks) and not self._trained(net, group, show):
                return None
        return net, options

    def _network(self, path: Path, checkpoint: Checkpoint) -> tuple[TFN, dict[str, Any]]:
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
        net = _built(self.config.model, options)
        _take(net, given, path, checkpoint)
        if "scales" not in options:
            options["scales"] = scales_of(net.eval(), self._sources.some_pictures())
            scaled = _built(self.config.model, options)
            scaled.load_state_dict(net.state_dict())
            net = scaled
        return net, options

    def _jointly(self, net: TFN, options: dict[str, Any], show: Say) -> bool:
        """Train trunk, pyramid and nets from all tasks together; False when ``stop`` ended that before.

        The weights are those at the end, when the learning rate is down for every task, and not those that are best for
        one of them.
        """
        ended = self.out / f"{JOINT}.pt"
        if not ended.is_file():
            length = replace(
                self.config.run, steps=self.config.joint.steps, budget_minutes=self.config.joint.budget_minutes,
                epoch_steps=self.config.joint.epoch_steps,
            )
            settings = replace(
                plain_config(self.config), options=options, optimiser=self.config.joint.optimiser, run=length
            )
            run = self._joint(net, settings, self.out / JOINT, self._widened(net))
            self._current = run
            if not self.stop_requested:
                run.run(lambda line: show(f"{JOINT} {line}"))
            if self.stop_requested:
                return False
            write_bytes(ended, (self.out / JOINT / f"{self.config.model}.last.pt").read_bytes())
        checkpoint = load_checkpoint(ended)
        net.load_state_dict(checkpoint.state)
        # Regions are cut and nets trained on them on the CPU, wherever the stage ran.
        net.cpu().to(memory_format=torch.contiguous_format)     # type: ignore[call-overload]  # torch types the others
        self.figures |= {name: value for name, value in checkpoint.metrics.items() if name != "choose"}
        self._made[JOINT] = checkpoint.made
        return True

    def _widened(self, net: TFN) -> Callable[[Lesson], Lesson]:
        """The joint stage's lesson, from that of a detector."""
        joint, sources = self.config.joint, self._sources
        tasks = tasks_of(net, joint)
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
                JointProbe(lesson.probe, dev, self._progress), trained_patterns(net, joint), f"{JOINT}.",
            )

        return widened

    def _trained(self, net: TFN, group: Group, show: Say) -> bool:
        """Train the net of a group; False when ``stop`` ended that before."""

        def trainer(directory: RunDirectory) -> Trainer[RegionBatch]:
            train, dev = self._samples(net, group, directory.path)
            return region_trainer(net.regions[group.name], train, dev, self.config.regions, directory)

        return self._train_on(group.name, show, trainer, dropped=("choose", "loss"))

    def _samples(self, net: TFN, group: Group, folder: Path) -> tuple[RegionSamples, RegionSamples | None]:
        """The regions to train on and to look at, cut once; no dev regions where no set has such a part."""
        places = folder / "train", folder / "dev"
        if not places[0].is_dir():
            cutter = RegionCutter(net, group)
            dev = [part for task in group.tasks for part in self._sources.dev(task, net, cutter)]
            if dev:
                joined(dev).write(places[1])
            joined([self._sources.train(task, net, cutter) for task in group.tasks]).write(places[0])
        return RegionSamples.open(places[0]), RegionSamples.open(places[1]) if places[1].is_dir() else None


def _built(model: str, options: dict[str, Any]) -> TFN:
    net = families.get(model).network(options)
    assert isinstance(net, TFN)
    return net


def _require_possible(config: TFNConfig, parts: Sequence[str], sources: Sources) -> None:
    """Raises OptionError and DataError for what the joint stage and the nets on regions would else refuse when the
    detector is trained."""
    net = _built(config.model, config.options)
    tasks = {task for group in net.design.groups if set(parts) & set(group.tasks) for task in group.tasks}
    if JOINT in parts:
        together = tasks_of(net, config.joint)
        groups_of(net, together)
        trained_patterns(net, config.joint)
        tasks |= set(together)
    for task in net.design.tasks:
        if task in tasks:
            sources.require(task)


def _is_maskface(path: Path) -> bool:
    return not is_archive(path) and load_checkpoint(path).model == "maskface"


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
