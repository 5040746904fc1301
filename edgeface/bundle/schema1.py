"""bundle.json of schema 1, which is read as schema 2: what its stages said, and what that is now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from edgeface.bundle import outputs as tell
from edgeface.bundle import schema as new
from edgeface.bundle.numbers import Count, Index, Number, Pixels, Positive, Share


class Level1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A level with its features beside its anchors' maps."""

    stride: Pixels
    anchors_px: Annotated[list[Positive], Meta(min_length=1, max_length=64)]
    score: str
    box: str
    landmarks: str | None = None
    features: str | None = None


class DenseStage1(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="dense", tag_field="kind"):
    """As ``DenseStage``, of such levels."""

    files: list[str]
    input: str
    mean: Number
    scale: Number
    multiple: Pixels
    levels: Annotated[list[Level1], Meta(min_length=1)]
    variances: tuple[Positive, Positive]


class PoseStage1(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pose_at_points", tag_field="kind"):
    """``Points`` of the levels' features, and ``Bins``."""

    files: Annotated[list[list[str]], Meta(min_length=1)]
    input: str
    logits: str
    patch: Annotated[int, Meta(ge=1, le=31)]
    bins: Annotated[int, Meta(ge=1, le=1024)]
    bin_deg: Positive
    first_centre_deg: Number


class Attribute1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As ``Binary``."""

    name: str
    output: str
    channel: Index
    threshold: Share


class CropStage1(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="crops", tag_field="kind"):
    """``Crops`` with ``Score``, ``Box``, and the others where they were."""

    files: list[str]
    input: str
    mean: Number
    scale: Number
    size_px: Annotated[int, Meta(ge=1, le=8192)]
    margin: Annotated[float, Meta(gt=0, le=100)]
    score: str
    box: str
    threshold: Share
    nms_iou: Share
    limit: Count
    scores: Literal["replace", "mean"] = "replace"
    landmarks: str | None = None
    attributes: list[Attribute1] = []


Stage1 = DenseStage1 | new.PyramidStage | PoseStage1 | CropStage1


class Bundle1(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As ``Bundle``, of such stages."""

    schema: int
    name: str
    model: str
    precision: Literal["fp32", "fp16", "int8"]
    engine: str
    stages: list[Stage1]
    defaults: new.Defaults
    files: list[new.File]
    licence: str
    metrics: dict[str, Any]
    made: dict[str, Any]
    verified: bool
    scales: dict[str, dict[str, Positive]] = {}


def upgraded(old: Bundle1) -> new.Bundle:
    """The bundle as schema 2 says it: the same nets with the same results."""
    names = [level.features or "" for level in _levels(old.stages)]
    known = {field: getattr(old, field) for field in old.__struct_fields__} | {
        "schema": new.SCHEMA, "stages": [_upgraded(stage, names) for stage in old.stages],
    }
    return new.Bundle(**known)


def _levels(stages: Sequence[Stage1]) -> list[Level1]:
    return [level for stage in stages if isinstance(stage, DenseStage1) for level in stage.levels]


def _upgraded(stage: Stage1, features: list[str]) -> new.Stage:
    if isinstance(stage, DenseStage1):
        levels = [
            new.Level(level.stride, level.anchors_px, level.score, level.box, level.landmarks)
            for level in stage.levels
        ]
        maps = [new.Map(each.features, each.stride) for each in stage.levels if each.features is not None]
        return new.DenseStage(**(asdict(stage) | {"levels": levels, "features": maps}))
    if isinstance(stage, PoseStage1):
        return new.FaceStage(
            stage.files, stage.input, new.Points(features or [""], stage.patch),
            [tell.Bins(stage.logits, stage.bins, stage.bin_deg, stage.first_centre_deg)],
        )
    if isinstance(stage, CropStage1):
        outputs: list[tell.Output] = [
            tell.Score(stage.score, stage.threshold, stage.nms_iou, stage.scores), tell.Box(stage.box),
        ]
        outputs += [] if stage.landmarks is None else [tell.Landmarks(stage.landmarks)]
        outputs += [tell.Binary(**asdict(each)) for each in stage.attributes]
        return new.FaceStage(
            [stage.files], stage.input, new.Crops(stage.mean, stage.scale, stage.size_px, stage.margin), outputs,
            stage.limit,
        )
    return stage
