"""Quantisation-aware training: a calibrated network trained on with its rounding, by the trainer of edgeface train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgeface.data.detection import Batch
from edgeface.data.pixels import ProgressBar
from edgeface.models.checkpoint import Checkpoint
from edgeface.models.mos import MOS
from edgeface.training.config import Config, config_of, default_config_path, read_toml
from edgeface.training.detector import network_trainer
from edgeface.training.loop import Trainer

from .calibrated import Calibrated


def qat_config(checkpoint: Checkpoint, path: Path, overrides: Sequence[str]) -> Config:
    """The configuration of a quantisation-aware training of ``checkpoint``, read from ``path``, with ``overrides``.

    Crops, data, losses and the memory format are those of its float training, as the checkpoint tells; of a checkpoint
    that does not, those that ship for its model. Optimiser, feedback and length are ``configs/qat.toml``'s. Raises
    OptionError that names the override or the checkpoint, and TrainingError where nothing ships for its model.
    """
    told = checkpoint.made.get("config")
    trained = told if isinstance(told, Mapping) else read_toml(default_config_path(checkpoint.model))
    content = {**trained, **read_toml(default_config_path("qat"))}
    run = trained.get("run")
    if isinstance(run, Mapping) and "channels_last" in run:
        content["run"]["channels_last"] = run["channels_last"]
    content |= {"model": checkpoint.model, "options": dict(checkpoint.options)}
    return config_of(content, overrides, f"{path}: the configuration in it", Config)


def qat_trainer(
    checkpoint: Checkpoint,
    source_sha256: str,
    start: Calibrated,
    config: Config,
    data: Path,
    out: Path,
    cache: Path,
    overrides: Sequence[str],
    progress: ProgressBar,
) -> Trainer[Batch]:
    """A trainer of ``start``'s weights and scales, resumed when ``out`` holds an earlier run.

    ``checkpoint`` is the float one that ``start`` was calibrated from, whose network ``config`` names, and
    ``source_sha256`` its file's hash. The weights that the trainer saves are quantised checkpoints, and its dev figures
    those of the quantised network. Errors as in ``edgeface.training.detector.detector_trainer``.
    """
    made = {"overrides": list(overrides), "quantised_from": {"sha256": source_sha256, "made": checkpoint.made}}
    assert isinstance(start.net, MOS)      # the caller asked for a detector's trainer
    return network_trainer(
        start.net.train(), config, data, out, cache, checkpoint.licence, made, progress,
        replace(start.quantisation, trained=True),
    )
