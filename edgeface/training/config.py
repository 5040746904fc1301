"""The configuration of a training run: TOML into types, with overrides ``section.key=value`` from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import msgspec
from msgspec import Meta

from edgeface.data.settings import Data
from edgeface.errors import OptionError, TrainingError
from edgeface.regular_files import LARGEST_SETTINGS_BYTES, read_regular
from edgeface.toml_reasons import NOT_TOML, reason, require_no_zero

Settings = TypeVar("Settings", bound=msgspec.Struct)
Count = Annotated[int, Meta(ge=1)]


class Canvas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Crops of ``size_px``, ``batch`` of them a step on all GPUs together; ``share`` of the steps use this canvas."""

    size_px: int
    batch: int
    share: float


class Optimiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``name`` adamw or sgd (momentum 0.9), its peak learning rate, and the schedule: a warm-up, then half a cosine, or
    ``drops``: the shares of the run after which the rate falls to a tenth."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0)] = 0.002
    weight_decay: Annotated[float, Meta(ge=0)] = 0.02
    warmup_steps: Annotated[int, Meta(ge=0)] = 200
    final_share: Annotated[float, Meta(ge=0, le=1)] = 0.01      # of the peak rate, at the end of the cosine
    drops: list[Annotated[float, Meta(ge=0, le=1)]] = []
    clip_norm: Annotated[float, Meta(gt=0)] = 10.0
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998


class Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Anchor assignment, classification, box loss and the losses' weights.

    What pose, landmarks and learned weights need is for MOS alone; ``assignment``, ``classification``, ``box``,
    ``negative_iou`` and ``min_anchors`` are for MOS and MaskFace. MOS's paper has iou, mined and smooth_l1, with
    learned weights; MaskFace's iou, focal and smooth_l1; the others come from Zhang et al. 2020 (ATSS), Li et al. 2020
    (quality focal loss) and Zheng et al. 2020 (DIoU).
    """

    assignment: Literal["iou", "atss"] = "iou"
    classification: Literal["mined", "quality_focal", "focal"] = "mined"
    box: Literal["smooth_l1", "diou"] = "smooth_l1"
    atss_positions: int = 9             # ATSS: how many of a level's nearest positions are candidates of a face
    focal_beta: float = 2.0             # quality focal loss: exponent of the distance to the target
    positive_iou: float = 0.35
    negative_iou: float = 0.3
    min_anchors: int = 3                # every face gets at least so many, scale-compensated
    compensated_iou: float = 0.1        # S3FD: what an anchor needs to be given to a face that has too few
    negatives_per_positive: float = 3.0
    smooth_l1_beta: float = 0.33        # in units of 0.1 anchor side: below it the loss is quadratic
    pose_mse_weight: float = 0.001
    start: tuple[float, float, float, float] = (2.0, 1.0, 1.0, 0.25)    # score, box, landmarks, pose
    shares: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)    # of the logarithms; 1 each is eq. 7
    learn_weights: bool = True


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Online feedback sampling (mos.txt, section 3.3)."""

    stitch_below: float = 0.35          # T: stitch while the small faces' share of the box loss is under this
    small_face_px: float = 25.0
    every_epochs: int = 1               # how often the set S is renewed; 0 never
    pictures: int = 0                   # how many training pictures are tested for it, 0 all
    hard_share: float = 0.5             # share of the draws that come from S


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Length, checkpoints, precision and seed."""

    steps: int = 60000
    # > 0: the run ends after so many minutes, whatever the steps; reading the data and dev figures count.
    budget_minutes: float = 0.0
    epoch_steps: int = 500
    checkpoint_minutes: float = 5.0
    dev_pictures: int = 100             # of the dev part, for choosing the best weights; 0 all
    dev_size_px: int = 640
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: int = 0                    # 0: torch's default
    channels_last: bool = False         # dense 3x3 nets train up to 1.3 times as fast so on a CPU
    seed: int = 1


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it; ``model`` and ``options`` choose the network."""

    model: str
    options: dict[str, Any]
    canvases: list[Canvas]
    data: Data
    optimiser: Optimiser
    loss: Loss
    feedback: Feedback
    run: Run


ConfigKind = TypeVar("ConfigKind", bound=Config)


@overload
def load_config(path: Path, overrides: Sequence[str] = ...) -> Config: ...


@overload
def load_config(path: Path, overrides: Sequence[str], kind: type[ConfigKind]) -> ConfigKind: ...


def load_config(path: Path, overrides: Sequence[str] = (), kind: type[Config] = Config) -> Config:
    """Read a TOML file and apply overrides such as ``run.steps=2000`` or ``data.weights.wider=1``; as ``kind``.

    Raises OptionError that names the file or the override and what is wrong with it.
    """
    return config_of(read_toml(path), overrides, path, kind)


def config_of(
    content: dict[str, Any], overrides: Sequence[str], where: Path | str, kind: type[ConfigKind]
) -> ConfigKind:
    """As ``load_config``, of plain types that were read already; ``where`` from, for what is raised."""
    config = _settings(content, overrides, where, kind)
    _check(config, where)
    return config


def read_settings(path: Path, overrides: Sequence[str], kind: type[Settings]) -> Settings:
    """A TOML file with overrides as the types of ``kind``; raises OptionError as ``load_config``."""
    return _settings(read_toml(path), overrides, path, kind)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain types; raises OptionError that names the file."""
    try:
        content: dict[str, Any] = msgspec.toml.decode(read_regular(path, LARGEST_SETTINGS_BYTES))
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror}") from None
    except NOT_TOML as error:
        raise OptionError(f"{path}: not TOML: {error}") from None
    return content


def _settings(
    content: dict[str, Any], overrides: Sequence[str], where: Path | str, kind: type[Settings]
) -> Settings:
    for override in overrides:
        _apply(content, override)
    require_no_zero(content, where)
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        named = f"{where} with {' '.join(overrides)}" if overrides else str(where)
        raise OptionError(f"{named}: {reason(error, kind)}") from None


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise OptionError(f"override {override!r}: write section.key=value, for instance run.steps=2000")
    try:
        value = msgspec.toml.decode(f"value = {text}")["value"]
    except NOT_TOML:
        value = text                    # a bare word is a string: run.precision=bf16
    *path, last = key.split(".")
    table = content
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise OptionError(f"override {override!r}: {name} is not a section")
    table[last] = value


def _check(config: Config, where: Path | str) -> None:
    if not config.canvases or any(c.size_px % 64 or c.size_px <= 0 or c.batch < 1 for c in config.canvases):
        raise OptionError(f"{where}: canvases need a batch of 1 or more and a size_px that is a multiple of 64")
    if sum(c.share for c in config.canvases) <= 0 or any(c.share < 0 for c in config.canvases):
        raise OptionError(f"{where}: the canvases' shares must not be negative, and not all 0")
    if sum(config.data.weights.values()) <= 0 or any(w < 0 for w in config.data.weights.values()):
        raise OptionError(f"{where}: data.weights must not be negative, and not all 0")
    if config.run.epoch_steps < 1 or config.run.steps < 1:
        raise OptionError(f"{where}: run.steps and run.epoch_steps must be 1 or more")


def default_config_path(model: str) -> Path:
    """The configuration that ships for a model; raises TrainingError when none does."""
    path = Path(sys.modules[__name__].__file__ or "").parent / "configs" / f"{model}.toml"
    if not path.is_file():
        raise TrainingError(f"no configuration ships for {model!r}: give one with --config")
    return path


def plain_config(config: Config) -> Config:
    """What a dense detector's trainer takes of a configuration that says more."""
    return Config(*(getattr(config, name) for name in Config.__struct_fields__))


def plain(config: Config) -> dict[str, Any]:
    """The configuration as plain types, for checkpoints and logs."""
    result: dict[str, Any] = msgspec.to_builtins(config)
    return result
