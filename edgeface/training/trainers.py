"""Who trains which model, for ``edgeface train``: a family says the name of its trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import nn

from edgeface.bundle import sha256_of
from edgeface.data.detection import Batch
from edgeface.data.pixels import ProgressBar, pixels_directory
from edgeface.errors import TrainingError, UnknownModelError
from edgeface.int8.network import Quantisation
from edgeface.models import families
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.patch_nets import ATTRIBUTES, MTCNN, PatchNet
from edgeface.models.tfn import TFN
from edgeface.registry import Registry
from edgeface.training.config import Config, default_config_path, load_config, plain_config, read_settings
from edgeface.training.detector import DEFAULT_LICENCE, Lesson, detector_trainer, network_trainer, versions
from edgeface.training.loop import Trainer
from edgeface.training.maskface import MaskFaceConfig, MaskFaceTraining
from edgeface.training.mtcnn import MTCNNConfig, MTCNNTraining
from edgeface.training.parts import Training
from edgeface.training.plots import plot_curves
from edgeface.training.tcnn import TCNNConfig, TCNNTraining
from edgeface.training.tfn import TFNConfig, TFNTraining


@dataclass(frozen=True)
class Request:
    """What the command line asks for. ``config`` None is the model's own; ``cache`` None the user's cache folder;
    ``licence`` None is what the sets' set.toml say, of a cascade research only; ``start_from`` is a checkpoint, a NumPy
    archive of a trunk, or for s3fd the state dict of a VGG16."""

    model: str
    overrides: Sequence[str]
    data: Path
    out: Path
    progress: ProgressBar
    config: Path | None = None
    start_from: Path | None = None
    cache: Path | None = None
    licence: str | None = None

    @property
    def config_path(self) -> Path:
        """The TOML file; raises TrainingError when the model has none and none was given."""
        return self.config or default_config_path(self.model)


# By the name that a family gives its trainer.
trainer: Registry[Callable[[Request], Training]] = Registry("trainer", UnknownModelError)


class DetectorTraining:
    """A dense detector's run, as ``Trainer`` trains it, with ``checkpoints``."""

    def __init__(self, trainer: Trainer[Batch]) -> None:
        self._trainer = trainer
        self.leads = trainer.place.leads

    def going_on(self) -> str | None:
        step = self._trainer.progress.step
        return f"step {step}" if step else None

    def stop(self) -> None:
        self._trainer.stop()

    def run(self, show: Callable[[str], None]) -> None:
        self._trainer.run(lambda report: show(str(report)))

    def result(self) -> Iterator[str]:
        plot_curves(self._trainer.directory.path)
        if self._trainer.stop_requested:
            yield f"stopped at step {self._trainer.progress.step}: the same command goes on"
            return
        figures = ", ".join(f"{key} {value:g}" for key, value in self._trainer.dev.items() if key != "choose")
        yield f"step {self._trainer.progress.step}, {figures or 'no dev part to measure on'}"
        yield f"weights: {self.weights}"

    @property
    def weights(self) -> Path:
        checkpoints = self._trainer.checkpoints
        assert checkpoints is not None      # every detector's trainer writes them
        best = checkpoints.path("best")
        return best if best.exists() else checkpoints.path("last")


@trainer("detector")
def train_detector(request: Request) -> DetectorTraining:
    """The trainer of dense detectors on a request; raises as ``detector_trainer`` and ``load_config``."""
    settings = load_config(request.config_path, [f"model={request.model}", *request.overrides])
    return _detector(request, settings, request.out)


def _detector(request: Request, settings: Config, out: Path) -> DetectorTraining:
    """A detector's run in the folder ``out``."""
    return DetectorTraining(
        detector_trainer(
            plain_config(settings), request.data, out, request.cache or pixels_directory(), request.licence,
            request.overrides, request.progress, request.start_from,
        )
    )


@trainer("maskface")
def train_maskface(request: Request) -> Training:
    """MaskFace's detector, then its keypoint head; raises as ``detector_trainer`` and ``load_config``."""
    config = load_config(request.config_path, [f"model={request.model}", *request.overrides], MaskFaceConfig)
    return MaskFaceTraining(
        config, request.data, request.out, request.cache, _made(request), request.progress,
        lambda out: _detector(request, config, out), request.start_from,
    )


@trainer("tfn")
def train_tfn(request: Request) -> Training:
    """TFN's dense stage, then its joint stage and nets on regions; raises as ``detector_trainer`` and ``load_config``.
    """
    config = load_config(request.config_path, [f"model={request.model}", *request.overrides], TFNConfig)

    def joint(net: TFN, settings: Config, out: Path, widened: Callable[[Lesson], Lesson]) -> DetectorTraining:
        return DetectorTraining(
            network_trainer(
                net, settings, request.data, out, request.cache or pixels_directory(), request.licence,
                {"overrides": list(request.overrides)}, request.progress, widened=widened,
            )
        )

    return TFNTraining(
        config, request.data, request.out, request.cache, _made(request), request.progress,
        lambda out: _detector(request, config, out), joint, request.start_from,
    )


def _made(request: Request) -> dict[str, object]:
    """What a run's weights say of how they came about."""
    return {"overrides": list(request.overrides), "versions": versions()}


@trainer("mtcnn")
def train_mtcnn(request: Request) -> Training:
    """MTCNN's three nets, one after the other."""
    config = read_settings(request.config_path, [f"model={request.model}", *request.overrides], MTCNNConfig)
    torch.manual_seed(config.seed)
    made = _made(request)
    net, quantisation = starting_net(config.model, config.options, request.start_from, made)
    if not isinstance(net, MTCNN):
        raise TrainingError(f"{config.model} is not MTCNN, the only network that this trainer knows")
    return MTCNNTraining(
        net, config, request.data, request.out, request.cache or pixels_directory(), made,
        request.licence or DEFAULT_LICENCE, request.progress, quantisation,
    )


@trainer("tcnn")
def train_tcnn(request: Request) -> Training:
    """T-CNN's two steps."""
    config = read_settings(request.config_path, [f"model={request.model}", *request.overrides], TCNNConfig)
    config = replace(config, options={"attributes": list(ATTRIBUTES), **config.options})
    torch.manual_seed(config.seed)
    made = _made(request)
    net, quantisation = starting_net(config.model, config.options, request.start_from, made)
    if not isinstance(net, PatchNet):
        raise TrainingError(f"{config.model} is not T-CNN, the only network that this trainer knows")
    return TCNNTraining(
        net, config, request.data, request.out, request.cache or pixels_directory(), made,
        request.licence or DEFAULT_LICENCE, request.progress, quantisation,
    )


def starting_net(
    name: str, options: dict[str, Any], path: Path | None, made: dict[str, object]
) -> tuple[nn.Module, Quantisation | None]:
    """The network that a run begins with: new, or with the weights of the checkpoint ``path``.

    A quantised checkpoint gives its own network, to be trained in int8, and its quantisation. Where the weights came
    from goes into ``made``. Raises CheckpointError, and TrainingError for a checkpoint of another network.
    """
    if path is not None:
        checkpoint = load_checkpoint(path)
        if checkpoint.quantisation is not None:
            if (checkpoint.model, checkpoint.options) != (name, options):
                raise TrainingError(
                    f"{path}: is {checkpoint.model} {checkpoint.options}, the configuration says {name} {options}: "
                    "set options to what the checkpoint has"
                )
            made["started_from"] = {"sha256": sha256_of(path), "made": checkpoint.made}
            return checkpoint.build(), checkpoint.quantisation
    net = families.get(name).network(options)
    if path is not None:
        made["started_from"] = started_from(net, path)
    return net, None


def started_from(net: nn.Module, path: Path) -> dict[str, object]:
    """Load a checkpoint's weights into ``net``, for a run to start from, and say where they came from.

    The activation may be another one: ReLU drops PReLU's slopes. Raises CheckpointError, and TrainingError for a
    checkpoint of another network.
    """
    checkpoint = load_checkpoint(path)
    own, given = net.state_dict(), checkpoint.build().state_dict()
    shared = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    matrices = {name for name, tensor in own.items() if tensor.ndim > 1}
    if not matrices <= set(shared):
        raise TrainingError(f"{path}: is {checkpoint.model} {checkpoint.options}, whose layers are not this network's")
    net.load_state_dict(shared, strict=False)
    return {"sha256": sha256_of(path), "made": checkpoint.made}
