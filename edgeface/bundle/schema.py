"""What bundle.json says, schema 2: the stages of a pipeline, its files, and where they come from.

The first stage finds faces: it is dense or a pyramid. Every further one is a ``FaceStage``, three choices that go with
one another: how an input is gathered for every face, the net, and how each of its outputs is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from edgeface.bundle.numbers import Count, Number, Pixels, Positive, Share
from edgeface.bundle.outputs import Binary, Bins, Classes, Heatmaps, Landmarks, Output, PoseFromPoints, Score
from edgeface.class_names import ClassNames
from edgeface.errors import BundleError

SCHEMA = 2
# What the fast form of a precision has behind its name.
FAST = "-fast"

# As ``edgeface.bundle.numbers``.
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file of the bundle, by plain name, with its sha256 in hex and its size. ``part`` is the folder of the bundle
    beside this one that the file lies in, where this bundle only names it."""

    name: str
    sha256: str
    size_bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
    part: str | None = None


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level of a dense stage that has anchors; maps are (channels, H / stride, W / stride).

    ``anchors_px`` are the sides of the square anchors at a position, centred at ((x + 0.5) * stride, (y + 0.5) *
    stride); A is their number. Outputs: ``score`` (A) logit face minus background; ``box`` (4A, anchor-major: dx dy dw
    dh); ``landmarks`` (10A, anchor-major: x y of five points).
    """

    stride: Pixels
    anchors_px: Annotated[list[Positive], Meta(min_length=1, max_length=64)]
    score: str
    box: str
    landmarks: str | None = None


class Map(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Features that a dense stage gives out, (channels, H / stride, W / stride), to gather from: with anchors or not.
    ``channels`` is None where a bundle of schema 1 did not say it."""

    name: str
    stride: Pixels
    channels: Count | None = None


class Distances(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="distances", tag_field="kind"):
    """Anchor-free boxes by level (SCRFD, FCOS): ``box`` (4A) is the distance of the left, top, right and bottom edge
    from the cell's point ((x + offset) * stride, (y + offset) * stride), ``landmarks`` (10A) each point from it, all
    in strides."""

    offset: Share = 0.0


class Cells(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cells", tag_field="kind"):
    """Boxes within bounds of a cell and an anchor (YOLOv5): ``box`` (4A) t; centre = (x + 2 sigmoid(tx) - 0.5) *
    stride, width = (2 sigmoid(tw))^2 * the anchor's; ``landmarks`` (10A) p: x * stride + p * the anchor's width, and
    height. ``anchors_px``: (width, height) of the anchors of each level."""

    anchors_px: Annotated[list[list[tuple[Positive, Positive]]], Meta(min_length=1)]


class Objectness(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="objectness", tag_field="kind"):
    """A score of two: (sigmoid(score) * sigmoid(objectness)) ** power. ``outputs`` (A) are the logits of objectness,
    one name a level; ``power`` is 1 (YOLOv5) or 0.5, the geometric mean (YuNet)."""

    outputs: Annotated[list[str], Meta(min_length=1)]
    power: Annotated[float, Meta(gt=0, le=1)] = 1.0


Coding = Distances | Cells


class DenseStage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="dense", tag_field="kind"
):
    """A net over the whole image: x = (bgr - mean) * scale as (3, H, W) float32, H and W multiples of ``multiple``.

    With anchor (cx, cy, s): centre = c + dx * v0 * s, side = s * exp(dw * v1), point = c + p * v0 * s, where
    ``variances`` = (v0, v1); another ``coding`` takes the place of this. With ``objectness`` a score is of two maps.
    """

    files: list[str]
    input: str
    mean: Number
    scale: Number
    multiple: Pixels
    levels: Annotated[list[Level], Meta(min_length=1)]
    variances: tuple[Positive, Positive]
    features: list[Map] = []
    coding: Coding | None = None
    objectness: Objectness | None = None


class PyramidStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pyramid", tag_field="kind"):
    """A net whose field is one window of ``cell_px``, run every ``stride`` pixels over all levels of an image pyramid,
    which lie side by side on one canvas: x = (bgr - mean) * scale as (3, H, W) float32 (mtcnn.txt, section II.A).

    A level is the picture at cell_px / face size, from ``min_face_px`` on and each ``factor`` of the one before.
    Outputs: ``score`` (1) logit of face, ``box`` (4) offsets of the face's edges from the window's, in windows. Windows
    of at least the probability ``threshold`` go on, at most ``limit`` of them, the best ones, after suppression at
    ``nms_iou`` within a level and at ``merge_iou`` between levels.
    """

    files: list[str]
    input: str
    mean: Number
    scale: Number
    cell_px: Pixels
    stride: Pixels
    score: str
    box: str
    factor: Annotated[float, Meta(gt=0, le=0.95)]
    min_face_px: Annotated[float, Meta(ge=1, le=1e4)]
    threshold: Share
    nms_iou: Share
    merge_iou: Share
    limit: Count


class Crops(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="crops", tag_field="kind"):
    """Square crops of the picture, one a face: x = (bgr - mean) * scale, P crops of ``size_px`` one below the other,
    (3, size_px * P, size_px) float32. A crop has the box's centre and ``margin`` times its longer side. The net's
    outputs are (channels, P, 1)."""

    mean: Number
    scale: Number
    size_px: Annotated[int, Meta(ge=1, le=8192)]
    margin: Annotated[float, Meta(gt=0, le=100)]


class Points(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="points", tag_field="kind"):
    """Features round the anchor that a face was kept at: P patches of ``patch`` x ``patch`` side by side, (C, patch,
    patch * P) float32, zero outside the map. ``maps`` names the dense stage's features to take, one a level; each level
    has a net of its own, so that what lies before it can be folded in. Outputs are (channels, 1, P)."""

    maps: Annotated[list[str], Meta(min_length=1)]
    patch: Annotated[int, Meta(ge=1, le=31)]


class Regions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="regions", tag_field="kind"):
    """Features of each face's box by RoIAlign with ``sampling`` x ``sampling`` samples a cell: (C, size, size) float32,
    one face an inference. ``margin`` times the box's sides about its centre become the region.

    ``maps`` names the dense stage's features to take, finest first. A box whose side, the root of its area, is below
    ``finest_px`` in the net's input takes the first, each doubling one further, the last all others (maskface.txt,
    eq. 6: 224 px with k0 = 3)."""

    maps: Annotated[list[str], Meta(min_length=1)]
    size: Annotated[int, Meta(ge=1, le=64)]
    sampling: Annotated[int, Meta(ge=1, le=8)] = 2
    margin: Annotated[float, Meta(gt=0, le=100)] = 1.0
    finest_px: Positive = 224.0


class Joined(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="joined", tag_field="kind"):
    """Features of each face's box by RoIAlign, as of ``Regions``, of all ``maps`` of the dense stage at once: each
    map's values times its one of ``scales``, the channels one after the other, (C, size, size) float32, one face an
    inference (tfn.txt, section IV.A.3)."""

    maps: Annotated[list[str], Meta(min_length=1, max_length=16)]
    scales: Annotated[list[Positive], Meta(min_length=1, max_length=16)]
    size: Annotated[int, Meta(ge=1, le=64)]
    sampling: Annotated[int, Meta(ge=1, le=8)] = 2
    margin: Annotated[float, Meta(gt=0, le=100)] = 1.0


Gather = Crops | Points | Regions | Joined
Kind = TypeVar("Kind", bound=msgspec.Struct)


class FaceStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="faces", tag_field="kind"):
    """A net on something of each face found so far: how its input is gathered, and how its ``outputs`` are decoded.

    ``files`` has one set of files a net: one, or one a level for ``Points``. At most ``limit`` faces are looked at, the
    best ones; the others are given up. None: all are.
    """

    files: Annotated[list[list[str]], Meta(min_length=1)]
    input: str
    gather: Gather
    outputs: Annotated[list[Output], Meta(min_length=1)]
    limit: Count | None = None

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """Its outputs of a kind, such as ``Binary``."""
        return [output for output in self.outputs if isinstance(output, kind)]

    def one_of(self, kind: type[Kind]) -> Kind | None:
        """Its first output of a kind, of which ``inconsistency`` allows one; None where it has none."""
        return next(iter(self.all_of(kind)), None)

    def with_threshold(self, threshold: float) -> FaceStage:
        """It with another threshold of its score."""
        outputs = [
            msgspec.structs.replace(output, threshold=threshold) if isinstance(output, Score) else output
            for output in self.outputs
        ]
        return msgspec.structs.replace(self, outputs=outputs)

    @property
    def tells_pose(self) -> bool:
        """Whether one of its outputs is a head pose."""
        return self.one_of(Bins) is not None or self.one_of(PoseFromPoints) is not None

    @property
    def output_names(self) -> list[str]:
        """The names of the net's outputs that it reads, each once, in the order of ``outputs``."""
        return list(dict.fromkeys(output.output for output in self.outputs))


Stage = DenseStage | PyramidStage | FaceStage


def file_sets(stage: Stage) -> list[list[str]]:
    """The files of each of the stage's nets: a stage that gathers points has one a level, the others have one."""
    return stage.files if isinstance(stage, FaceStage) else [stage.files]


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a detector uses when its caller does not say: longest side of the input, score and NMS IoU thresholds."""

    size_px: Annotated[int, Meta(ge=1, le=8192)]
    score: Share
    nms_iou: Share


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of bundle.json.

    ``scales``: of a file's inputs and outputs that are int8, file -> tensor -> scale; real value = scale * integer.
    ``fast``: in int8, its engine may round as suits the processor, so that results differ a little between processors.
    """

    schema: int
    name: str
    model: str
    precision: Literal["fp32", "fp16", "int8"]
    engine: str
    stages: list[Stage]
    defaults: Defaults
    files: list[File]
    licence: str
    metrics: dict[str, Any]
    made: dict[str, Any]
    verified: bool
    scales: dict[str, dict[str, Positive]] = {}
    fast: bool = False

    @property
    def form(self) -> str:
        """Its precision, and whether it is the fast form of it: "int8-fast"."""
        return self.precision + FAST if self.fast else self.precision

    @property
    def dense(self) -> DenseStage:
        """The dense stage, which is the first one; raises BundleError for a bundle that has another first."""
        stage = self.stages[0]
        if not isinstance(stage, DenseStage):
            raise BundleError(f"{self.name}: has no dense stage: use a bundle of a model such as mos_s")
        return stage

    @property
    def face_stages(self) -> list[FaceStage]:
        """The stages per face, in their order, which is the pipeline's end."""
        return [stage for stage in self.stages if isinstance(stage, FaceStage)]

    @property
    def refining_stages(self) -> list[FaceStage]:
        """Those that score every face anew, in their order."""
        return [stage for stage in self.face_stages if stage.one_of(Score) is not None]

    @property
    def is_refinement(self) -> bool:
        """Whether it has no stage that finds faces, and can only refine what another bundle's found."""
        return len(self.face_stages) == len(self.stages)

    @property
    def gives_landmarks(self) -> bool:
        """Whether its faces have five landmarks."""
        telling = [stage for stage in self.face_stages if stage.one_of(Score) is None] + self.refining_stages[-1:]
        if any(stage.one_of(Landmarks) or stage.one_of(Heatmaps) for stage in telling):
            return True     # 68 points have the five in them
        first = self.stages[0]
        return isinstance(first, DenseStage) and all(level.landmarks is not None for level in first.levels)

    @property
    def gives_landmarks68(self) -> bool:
        """Whether its faces have the 68 points of 300-W."""
        stages = self.face_stages
        return any(each.points == 68 for stage in stages for each in stage.all_of(Landmarks)) or any(
            each.points == 68 for stage in stages for each in stage.all_of(Heatmaps)
        )

    @property
    def gives_pose(self) -> bool:
        """Whether its faces have a head pose."""
        return any(stage.tells_pose for stage in self.face_stages)

    @property
    def attributes(self) -> dict[str, float]:
        """The thresholds of the yes-or-no attributes that its faces have, by name."""
        return {each.name: each.threshold for stage in self.face_stages for each in stage.all_of(Binary)}

    @property
    def classes(self) -> dict[str, ClassNames]:
        """The classes that its faces are told apart by, by name."""
        return {each.name: each.names for stage in self.face_stages for each in stage.all_of(Classes)}

    def without_classes(self) -> Bundle:
        """It without what is told of classes, and without stages that tell nothing else."""
        stages: list[Stage] = []
        for stage in self.stages:
            if isinstance(stage, FaceStage):
                outputs = [output for output in stage.outputs if not isinstance(output, Classes)]
                stages += [msgspec.structs.replace(stage, outputs=outputs)] if outputs else []
            else:
                stages.append(stage)
        return msgspec.structs.replace(self, stages=stages)

    @property
    def parts(self) -> list[str]:
        """The folders of the bundles beside it that it takes files from."""
        return list(dict.fromkeys(file.part for file in self.files if file.part is not None))

    def folder(self, directory: Path, files: Sequence[str]) -> Path:
        """Where ``files``, a net's, lie: in the bundle's ``directory``, or in that of the part that has them."""
        part = next((entry.part for entry in self.files if entry.name in files), None)
        return directory if part is None else directory.resolve().parent / part
