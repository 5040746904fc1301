"""Two bundles of one model side by side, a checkpoint's and a converted one: the parity report and what it measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeface.bundle import Bundle, file_sets
from edgeface.evaluation.measure import measure
from edgeface.faces import Faces
from edgeface.freed_memory import keep_freed_memory
from edgeface.runtime.detector import Detector
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.stages.kind import Sight
from edgeface.runtime.threads import default_threads
from edgeface.torch_engine import checkpoint_bundle

from .face_parity import FaceSums
from .parity import INT8_AGAINST_FLOAT, Floats, ParityReport, SizeParity, Tolerance
from .pictures import Image, Pictures
from .raw import FACES, Sessions, compare_raw
from .targets import target_of
from .walk import walk

# The raw outputs of a few pictures have millions of values; the faces need many pictures.
RAW_PICTURES = 8
# What 'edgeface evaluate' counts detections from.
AP_SCORE = 0.02
# A GPU gains little beyond this, and 640 px pictures of a batch fit any memory.
BATCH = 8
_ROUNDED = {"inputs": "what int8 layers read", "all": "every tensor"}


class Watch(Protocol):
    """Wraps a loop over pictures to show how far it is: (items, label, total) -> the same items."""

    def __call__(
        self, items: Iterable[tuple[str, Image]], label: str, total: int, /
    ) -> Iterable[tuple[str, Image]]: ...


@dataclasses.dataclass(frozen=True)
class Side:
    """One of two bundles under comparison, with its nets open."""

    bundle: Bundle
    directory: Path
    device: str
    sessions: Sessions

    @classmethod
    def open(cls, bundle: Bundle, directory: Path, device: str = "cpu") -> Side:
        """Open a bundle's nets; raises as ``open_sessions`` does."""
        return cls(bundle, directory, device, open_sessions(directory, bundle, default_threads(), device=device))

    @classmethod
    def open_checkpoint(cls, path: Path, engine: str, device: str = "cpu") -> Side:
        """A checkpoint as the reference of what ``engine`` runs, which decides where a quantised one rounds.

        Raises CheckpointError, ConversionError, MissingExtraError, OptionError, and UnknownTargetError for an engine
        that nothing is converted for.
        """
        return cls.open(checkpoint_bundle(path, target_of(engine).points), path.parent, device)

    def detector(self, size_px: int, score: float, nms_iou: float | None = None) -> Detector:
        """A detector on these nets; raises OptionError for a size that cannot work."""
        nms_iou = self.bundle.defaults.nms_iou if nms_iou is None else nms_iou
        return Detector(self.bundle, self.sessions, size_px=size_px, score=score, nms_iou=nms_iou)

    def describe(self) -> str:
        """What computes on this side, in words, for a checkpoint's side."""
        import torch

        where = "" if self.device == "cpu" else f" on {self.device}"
        how = "in float32"
        if self.bundle.precision == "int8":
            points = file_sets(self.bundle.stages[0])[0][-1]
            how = f"with fake int8 at {_ROUNDED[points]} ({points!r})"
        return f"torch {torch.__version__} {how}{where}"


def tolerance_of(reference: Bundle, candidate: Bundle) -> Tolerance:
    """What the candidate's precision allows, and when only the candidate is int8, what that allows against float.

    Raises UnknownTargetError for an engine that nothing is converted for.
    """
    if candidate.precision == "int8" and reference.precision != "int8":
        return INT8_AGAINST_FLOAT
    goal = target_of(candidate.engine)
    tolerance = goal.tolerances[candidate.precision]
    if candidate.fast and goal.fast is not None:
        tolerance = goal.fast.tolerance
    if candidate.refining_stages:
        return dataclasses.replace(tolerance, share=min(tolerance.share, tolerance.cascade_share))
    return tolerance


def compare(
    reference: Side, candidate: Side, pictures: Pictures, sizes_px: Sequence[int], watch: Watch | None = None
) -> ParityReport:
    """The parity report of ``candidate`` against ``reference``, a checkpoint's side, at every size in turn.

    When it fails by more than its AP, the network is walked for the layer that departs. ``watch`` wraps the loop over
    the pictures. Raises OptionError, InputError, DataError, EngineError, and ParityError when an output has another
    shape.
    """
    keep_freed_memory()
    tolerance = tolerance_of(reference.bundle, candidate.bundle)
    sizes = [_at_size(reference, candidate, pictures, tolerance, size_px, watch) for size_px in sizes_px]
    report = ParityReport(candidate.bundle.name, reference.describe(), pictures.source, tolerance, sizes)
    # What is another network, or rounds otherwise on purpose, departs at its first layer.
    if report.passed or tolerance is INT8_AGAINST_FLOAT or candidate.bundle.fast:
        return report
    image, boxes = next(_with_boxes(pictures))
    sight = Sight(image, boxes, sizes_px[0], FACES[-1])
    return dataclasses.replace(
        report, walk=walk(reference.bundle, reference.sessions, candidate.bundle, candidate.directory, sight)
    )


def _at_size(
    reference: Side, candidate: Side, pictures: Pictures, tolerance: Tolerance, size_px: int, watch: Watch | None
) -> SizeParity:
    raw = compare_raw(
        reference.bundle, reference.sessions, candidate.sessions, islice(_with_boxes(pictures), RAW_PICTURES), size_px
    )
    if reference.bundle.is_refinement:
        return SizeParity(size_px, raw, None)
    score = reference.bundle.defaults.score if tolerance.least_score is None else tolerance.least_score
    lowered = max(0.0, score - tolerance.score)
    # NMS takes the best score first, so the faces from a score on do not depend on those below it.
    first_score = min(score, AP_SCORE) if pictures.annotated else score
    sides = reference, candidate
    detectors = [side.detector(size_px, first_score) for side in sides]
    contenders = [side.detector(size_px, lowered, 1.0) for side in sides]
    sums = FaceSums(tolerance.iou, tolerance.score, score)
    found: tuple[list[Faces], list[Faces]] = [], []
    items: Iterable[tuple[str, Image]] = pictures
    if watch is not None:
        items = watch(pictures, f"comparing at {size_px} px", len(pictures))
    for batch in _batches(items, BATCH):
        both = [detector.batch([image for _, image in batch]) for detector in detectors]
        for (name, image), *faces in zip(batch, *both, strict=True):
            one, two = (side.select(side.scores >= score) for side in faces)
            sums.add(name, one, two, partial(_faces, contenders[0], image), partial(_faces, contenders[1], image))
        for all_faces, new in zip(found, both, strict=True):
            all_faces.extend(new)
    measures = [measure(pictures.annotated, faces) for faces in found] if pictures.annotated else [None, None]
    return SizeParity(size_px, raw, sums.parity(), *measures)


def _faces(detector: Detector, image: Image) -> Faces:
    return detector.timed(image)[0]


def _with_boxes(pictures: Pictures) -> Iterator[tuple[Image, Floats]]:
    """Each picture, and the boxes (n, 4) of those faces in it that are annotated, the largest first."""
    for i, (_, image) in enumerate(pictures):
        faces = pictures.annotated[i].faces if pictures.annotated else ()
        boxes = np.array([f.box for f in faces if f.box is not None and not f.ignore], np.float32).reshape(-1, 4)
        largest = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
        yield image, boxes[largest]


def _batches(items: Iterable[tuple[str, Image]], count: int) -> Iterator[list[tuple[str, Image]]]:
    iterator = iter(items)
    while batch := list(islice(iterator, count)):
        yield batch


def version_of(package: str) -> str:
    """A package's version in its own word: a distribution can have another name, as onnxruntime-gpu has."""
    return str(getattr(import_module(package), "__version__", "unknown"))
