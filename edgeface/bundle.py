"""A bundle: a directory with an engine's files and ``bundle.json``, which says all that the runtime must know.

Nothing is guessed from a file name or a shape, and every file's sha256 is checked before an engine sees it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgeface.atomic import refused, temporary_name, working_folder
from edgeface.errors import BundleError, BundleHashError, OutputError

SCHEMA = 1
MANIFEST = "bundle.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the bundle, by plain name, with its sha256 in hex and its size."""

    name: str
    sha256: str
    size_bytes: int


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pyramid level of a dense stage; maps are (channels, H / stride, W / stride).

    ``anchors_px`` are the sides of the square anchors at a position, centred at ((x + 0.5) * stride, (y + 0.5) *
    stride); A is their number. Outputs: ``score`` (A) logit face minus background; ``box`` (4A, anchor-major: dx dy dw
    dh); ``landmarks`` (10A, anchor-major: x y of five points); ``features`` (C), what a points stage gathers from.
    """

    stride: Count
    anchors_px: Annotated[list[Positive], Meta(min_length=1)]
    score: str
    box: str
    landmarks: str | None = None
    features: str | None = None


class DenseStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="dense", tag_field="kind"):
    """A net over the whole image: x = (bgr - mean) * scale as (3, H, W) float32, H and W multiples of ``multiple``.

    With anchor (cx, cy, s): centre = c + dx * v0 * s, side = s * exp(dw * v1), point = c + p * v0 * s, where
    ``variances`` = (v0, v1).
    """

    files: list[str]
    input: str
    mean: float
    scale: float
    multiple: Count
    levels: Annotated[list[Level], Meta(min_length=1)]
    variances: tuple[Positive, Positive]


class PoseStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pose_at_points", tag_field="kind"):
    """A net on features gathered round kept anchors: P patches of ``patch`` x ``patch`` side by side.

    Input (C, patch, patch * P), zero outside the map; output ``logits`` (3 * bins, 1, P), pitch, yaw, roll. An angle is
    the expectation over the bins' centres, first_centre_deg + i * bin_deg. ``level`` is the dense level's index; each
    level has its own file set because the multi-task head before it is folded in.
    """

    files: list[list[str]]
    input: str
    logits: str
    patch: Count
    bins: Count
    bin_deg: Positive
    first_centre_deg: float


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
    mean: float
    scale: float
    cell_px: Count
    stride: Count
    score: str
    box: str
    factor: Annotated[float, Meta(gt=0, lt=1)]
    min_face_px: Positive
    threshold: Share
    nms_iou: Share
    merge_iou: Share
    limit: Count


class Attribute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A yes or no that a net gives of each face: ``name``, channel ``channel`` of output ``output`` as a logit, and the
    probability ``threshold`` from which it is a yes."""

    name: str
    output: str
    channel: Annotated[int, Meta(ge=0)]
    threshold: Share


class CropStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="crops", tag_field="kind"):
    """A net on square crops of the picture, one for each box so far: x = (bgr - mean) * scale, P crops of ``size_px``
    one below the other, (3, size_px * P, size_px) float32. A crop has the box's centre and ``margin`` times its longer
    side.

    Outputs, (channels, P, 1): ``score`` (1) logit of face, ``box`` (4) offsets of the face's left, top, right and
    bottom edge from the crop's, ``landmarks`` (10) x y of five points from its centre, both in sides of the crop, and
    those of ``attributes``. At most ``limit`` boxes are looked at, the best ones; the others are given up. A face's new
    score replaces the old one, or is averaged with it (``scores`` "mean": mhcnn.txt, section 3.3); those of at least
    ``threshold`` stay, after suppression at ``nms_iou``. With "mean", and after a dense stage, a box needs the
    threshold before as well, so that few are looked at. In the last stage the detector's own score threshold holds
    too, and its own NMS threshold instead of the stage's.
    """

    files: list[str]
    input: str
    mean: float
    scale: float
    size_px: Count
    margin: Positive
    score: str
    box: str
    threshold: Share
    nms_iou: Share
    limit: Count
    scores: Literal["replace", "mean"] = "replace"
    landmarks: str | None = None
    attributes: list[Attribute] = []


Stage = DenseStage | PyramidStage | PoseStage | CropStage


def file_sets(stage: Stage) -> list[list[str]]:
    """The files of each of the stage's nets: a pose stage has one a level, the others have one."""
    return stage.files if isinstance(stage, PoseStage) else [stage.files]


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a detector uses when its caller does not say: longest side of the input, score and NMS IoU thresholds."""

    size_px: Count
    score: Share
    nms_iou: Share


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of bundle.json.

    ``scales``: of a file's inputs and outputs that are int8, file -> tensor -> scale; real value = scale * integer.
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

    @property
    def dense(self) -> DenseStage:
        """The dense stage, which is the first one; raises BundleError for a bundle that has another first."""
        stage = self.stages[0]
        if not isinstance(stage, DenseStage):
            raise BundleError(f"{self.name}: has no dense stage: use a bundle of a model such as mos_s")
        return stage

    @property
    def crop_stages(self) -> list[CropStage]:
        """The stages on crops, in their order, which is the pipeline's end."""
        return [stage for stage in self.stages if isinstance(stage, CropStage)]

    @property
    def is_refinement(self) -> bool:
        """Whether it has no stage that finds faces, and can only refine what another bundle's found."""
        return len(self.crop_stages) == len(self.stages)

    @property
    def gives_landmarks(self) -> bool:
        """Whether its faces have landmarks."""
        if any(stage.landmarks is not None for stage in self.crop_stages[-1:]):
            return True
        first = self.stages[0]
        return isinstance(first, DenseStage) and all(level.landmarks is not None for level in first.levels)

    @property
    def gives_pose(self) -> bool:
        """Whether its faces have a head pose."""
        return any(isinstance(stage, PoseStage) for stage in self.stages)

    @property
    def attributes(self) -> dict[str, float]:
        """The thresholds of the attributes that its faces have, by name."""
        return {attribute.name: attribute.threshold for stage in self.crop_stages for attribute in stage.attributes}


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_file(path: Path) -> File:
    """The manifest entry of a file that lies in the bundle's directory."""
    return File(path.name, sha256_of(path), path.stat().st_size)


def read_bundle(directory: Path, *, verify: bool = True) -> Bundle:
    """Read and check bundle.json, and with ``verify`` the hash of every file.

    Raises BundleError (missing, not JSON, another schema, inconsistent) and BundleHashError (a file is not the one
    described).
    """
    manifest = directory / MANIFEST
    try:
        raw = manifest.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{directory}: no {MANIFEST} there: give a bundle's directory") from None
    except OSError as error:
        raise BundleError(f"{manifest}: {error.strerror}") from None
    try:
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("schema")
        if version != SCHEMA:
            raise BundleError(
                f"{manifest}: schema {version!r}, this edgeface reads {SCHEMA}: convert the checkpoint again"
            )
        bundle = msgspec.json.decode(raw, type=Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{manifest}: {error}: copy the bundle again") from None
    _check(bundle, manifest)
    if verify:
        verify_files(directory, bundle)
    return bundle


def _check(bundle: Bundle, manifest: Path) -> None:
    listed = {f.name for f in bundle.files}
    for name in sorted(listed):
        if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{manifest}: file name {name!r} is not a plain name: do not use this bundle")
    problem = inconsistency(bundle)
    if problem:
        raise BundleError(f"{manifest}: {problem}: convert the checkpoint again")
    for name in (name for stage in bundle.stages for files in file_sets(stage) for name in files):
        if name not in listed:
            raise BundleError(f"{manifest}: stage file {name!r} is not under 'files': convert the checkpoint again")


def inconsistency(bundle: Bundle) -> str | None:
    """What in the stages contradicts itself, in words; None when nothing does."""
    kinds = "".join(_LETTERS[type(stage)] for stage in bundle.stages)
    if not _PIPELINE.fullmatch(kinds):
        names = ", ".join(str(stage.__struct_config__.tag) for stage in bundle.stages)
        return (
            f"the stages {names or '(none)'} are no pipeline, which is a dense one, then at most one pose_at_points and"
            " any crops; or a pyramid and then crops; or, to refine what another model finds, crops alone"
        )
    return _dense_inconsistency(bundle.stages) or _crops_inconsistency(bundle.crop_stages)


_LETTERS: dict[type, str] = {DenseStage: "d", PyramidStage: "y", PoseStage: "p", CropStage: "c"}
_PIPELINE = re.compile("dp?c*|yc+|c+")


def _dense_inconsistency(stages: Sequence[Stage]) -> str | None:
    levels = stages[0].levels if isinstance(stages[0], DenseStage) else []
    if len({level.landmarks is None for level in levels}) > 1:
        return "some levels have landmarks and some have not"
    for stage in stages:
        if not isinstance(stage, PoseStage):
            continue
        if len(stage.files) != len(levels):
            return f"{len(stage.files)} pose nets for {len(levels)} levels"
        if any(level.features is None for level in levels):
            return "a pose stage needs features from every level"
    return None


def _crops_inconsistency(stages: Sequence[CropStage]) -> str | None:
    if any(stage.attributes for stage in stages[:-1]):
        return "a stage before the last one has attributes, which the last one would not have"
    attributes = [attribute for stage in stages for attribute in stage.attributes]
    for what, values in (
        ("name", [attribute.name for attribute in attributes]),
        ("channel", [f"{attribute.channel} of {attribute.output}" for attribute in attributes]),
    ):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            return f"two attributes have the {what} {twice}"
    return None


def verify_files(directory: Path, bundle: Bundle) -> None:
    """Compare every file with its sha256; raises BundleHashError, or BundleError when there is none, with its name."""
    for entry in bundle.files:
        path = directory / entry.name
        try:
            actual = sha256_of(path)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}: copy the bundle again") from None
        if actual != entry.sha256:
            raise BundleHashError(
                f"{path}: sha256 {actual[:12]}... is not {MANIFEST}'s {entry.sha256[:12]}...: "
                "copy the bundle again"
            )


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """A temporary directory beside ``directory`` that takes its place when the block ends without an error.

    An existing bundle of that name is replaced only then; after an error nothing is left. Raises OutputError when the
    disk refuses, and when ``directory`` holds something that is not a bundle.
    """
    try:
        occupied = directory.exists() and not (directory / MANIFEST).is_file() and any(directory.iterdir())
    except OSError as error:
        raise refused(directory, error) from None
    if occupied:
        raise OutputError(f"{directory}: exists and is not a bundle: choose another --out")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(directory.parent) as work:
            yield work
            work.chmod(0o755)
            _replace(work, directory)
    except OSError as error:
        raise refused(directory, error) from None


def _replace(work: Path, directory: Path) -> None:
    """Put ``work`` in the place of ``directory``; when that fails, what was there is there again."""
    if not directory.exists():
        work.replace(directory)
        return
    # A directory that is not empty cannot be replaced in one step.
    old = temporary_name(directory.parent, "")
    directory.replace(old)
    try:
        work.replace(directory)
    except BaseException:
        old.replace(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(directory: Path, bundle: Bundle) -> None:
    """Write bundle.json into ``directory``, indented, for people to read as well."""
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n")
