"""From a configuration and a data folder to a running trainer of a dense detector."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import distributed, nn

from edgeface.bundle import sha256_of
from edgeface.data.annotations import ANNOTATIONS
from edgeface.data.detection import Batch, DetectionSet, FeedbackState, read_sources
from edgeface.data.pixels import ProgressBar
from edgeface.data.sets import licence_of, open_data, remark_on_weights, settled_weights
from edgeface.errors import OptionError, OutputError, TrainingError, UnknownModelError
from edgeface.int8.network import Quantisation
from edgeface.models import families
from edgeface.models.checkpoint import FORMAT, load_checkpoint, read_untrusted
from edgeface.models.family import Family
from edgeface.models.starting import is_archive, load_backbone
from edgeface.registry import unknown_name
from edgeface.training import maskface_objective, mos_objective, s3fd  # noqa: F401  (register their objectives)
from edgeface.training.checkpoints import Checkpoints
from edgeface.training.config import Config, plain
from edgeface.training.crop_batches import CropBatches, HardProbe
from edgeface.training.dense import DenseObjective, objective_of
from edgeface.training.devices import find_place
from edgeface.training.freezing import ALL
from edgeface.training.loop import Schedule, Trainer
from edgeface.training.probe import DetectionProbe
from edgeface.training.state import RunDirectory

# What the sets of the data folder allow; weights trained on data of one's own carry what --licence says.
DEFAULT_LICENCE = "research only: trained on WIDER FACE, 300-W and other data with research terms"
_LOG = logging.getLogger(__name__)


def detector_trainer(
    config: Config, data: Path, out: Path, cache: Path, licence: str | None, overrides: Sequence[str],
    progress: ProgressBar, start_from: Path | None = None,
) -> Trainer[Batch]:
    """A trainer for ``config`` on the sets below ``data``, resumed when ``out`` holds an earlier run.

    A new run starts from the weights of the checkpoint ``start_from``, or of what its family takes for its
    backbone, or from random ones. Reads every set with a weight above 0, decoding its pictures into ``cache`` once;
    ``settled_weights`` says which those are. ``licence`` None is what the sets say. Raises UnknownModelError for a
    model that is no dense detector, and DataError, OptionError, TrainingError, CheckpointError and OutputError, each
    naming the file.
    """
    family = detector_family(config.model)
    torch.manual_seed(config.run.seed)
    made: dict[str, Any] = {"overrides": list(overrides)}
    if start_from is None:
        net = family.network(config.options)
    else:
        net, made_before = _started(start_from, config, family)
        made["started_from"] = {"sha256": sha256_of(start_from), "made": made_before}
    return network_trainer(net, config, data, out, cache, licence, made, progress)


@dataclass(frozen=True)
class Lesson:
    """What a detector is trained by: the crops, the losses, what looks at it between steps, and which of it is trained,
    by ``patterns`` as ``Trained`` has them; ``section`` as of ``Schedule``."""

    dataset: DetectionSet
    objective: DenseObjective
    probe: HardProbe
    patterns: tuple[str, ...] = ALL
    section: str = ""


def network_trainer(
    net: nn.Module, config: Config, data: Path, out: Path, cache: Path, licence: str | None, made: Mapping[str, Any],
    progress: ProgressBar, quantisation: Quantisation | None = None,
    widened: Callable[[Lesson], Lesson] = lambda lesson: lesson,
) -> Trainer[Batch]:
    """A trainer for a network that is built already; else as ``detector_trainer``, with the same errors.

    ``made`` goes into the weights, with versions and the data's hashes; so does ``quantisation``, of a quantised net.
    ``widened`` gives a detector's lesson more tasks.
    """
    began_s = time.monotonic()
    multiple = detector_family(config.model).canvas_multiple
    if any(canvas.size_px % multiple for canvas in config.canvases):
        raise OptionError(f"the canvases of {config.model} need a size_px that is a multiple of {multiple}")
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    place = find_place(config.run.precision)
    folder = open_data(data)
    weights = settled_weights(config.data.weights, folder, made["overrides"])
    if place.leads:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out}: {error.strerror}: choose another --out") from None
    if place.leads:
        for remark in (remark_on_weights(config.data.weights, weights), folder.remark()):
            if remark:
                _LOG.warning("%s", remark)
    config = msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, weights=weights))
    names = [name for name, weight in weights.items() if weight > 0]
    if place.leads:                         # the leader decodes, the others map what it wrote
        sources = read_sources(folder, names, cache, progress)
    if place.world > 1:
        distributed.barrier()
    if not place.leads:
        sources = read_sources(folder, names, cache)
    lesson = widened(Lesson(
        DetectionSet(sources, config.data, FeedbackState(sources), config.feedback.hard_share, config.run.seed),
        objective_of(net, config.loss, config.feedback.small_face_px),
        DetectionProbe(config, folder, sources, place.device),
    ))
    hashes = {name: sha256_of(folder.directory(name) / ANNOTATIONS) for name in names}
    made = {**made, "versions": versions(), "data_sha256": hashes}
    licence = licence or licence_of(folder, names, DEFAULT_LICENCE)
    if config.run.channels_last:
        net.to(memory_format=torch.channels_last)   # type: ignore[call-overload]  # torch types the other overloads
    run = config.run
    trainer = Trainer(
        lesson.objective, CropBatches(config, lesson.dataset, place, lesson.probe),
        Schedule(
            run.steps, run.budget_minutes, run.checkpoint_minutes, run.epoch_steps, config.optimiser, lesson.section
        ),
        RunDirectory(out), probe=lesson.probe, patterns=lesson.patterns, place=place, began_s=began_s,
        checkpoints=Checkpoints(out, config, made, licence, quantisation), about={"config": plain(config), **made},
        identity={"model": config.model, "options": config.options},
    )
    trainer.resume()
    return trainer


def detector_family(name: str) -> Family:
    """The family of a dense detector; raises UnknownModelError for another model, with those that there are."""
    family = families.get(name)
    if not family.is_dense:
        others = (other for other in families.names() if families.get(other).is_dense)
        raise UnknownModelError(unknown_name("dense detector", name, others))
    return family


def _started(path: Path, config: Config, family: Family) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, or one with a backbone's weights, and how those were made.

    Raises TrainingError when a checkpoint is not the configuration's, and CheckpointError.
    """
    if is_archive(path):
        net = family.network(config.options)
        return net, {"backbone": load_backbone(net, path)}
    if family.starts is not None and (state := read_untrusted(path)).get("format") != FORMAT:
        net = family.network(config.options)
        family.starts(net, state, str(path))
        return net, {"backbone": path.name}
    checkpoint = load_checkpoint(path)
    if (checkpoint.model, checkpoint.options) != (config.model, config.options):
        raise TrainingError(
            f"{path}: is {checkpoint.model} {checkpoint.options}, the configuration says {config.model} "
            f"{config.options}: set options to what the checkpoint has"
        )
    return checkpoint.build(), checkpoint.made


def versions() -> dict[str, str]:
    """Of what a run's result depends on, by package."""
    packages = ("edgeface", "torch", "numpy", "opencv-python-headless")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
