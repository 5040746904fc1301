"""What MaskFace's keypoint head is trained on: regions of a frozen trunk's features, computed once and kept in
memory-mapped files (maskface.txt, section 3.3, "Training on the AFLW and 300W datasets")."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeface.bundle import Regions
from edgeface.data import augment
from edgeface.data.annotations import Face, Picture
from edgeface.data.augment import Crop
from edgeface.data.pixels import Pixels, ProgressBar, open_pixels
from edgeface.data.sets import DataFolder
from edgeface.data.targets import Targets, face_box_of_points
from edgeface.errors import DataError, TrainingError
from edgeface.mean_face import MIRRORED_68
from edgeface.models.keypoints import SIZE
from edgeface.models.maskface import FIVE, MaskFace
from edgeface.models.maskface_export import gather_of
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.runtime.gather.regions import widened
from edgeface.training.array_folders import open_arrays, write_arrays
from edgeface.training.config import Count
from edgeface.training.regions import region_features

Floats = NDArray[np.float32]

_MIRRORED_5 = (1, 0, 2, 4, 3)
_STEP_PX = 64               # canvases are multiples of it, as every pyramid needs
_LEAST_CANVAS_PX, _ROOM = 128, 1.6      # a canvas is so many faces wide
_LEAST_SOURCE_PX = 16.0     # of a face in its picture: in a smaller one points are guesses
_DEV_CANVAS_PX = 256


class Drawing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which faces are cut, how often, and how they are varied.

    ``sets``: weights by which faces are drawn. ``samples`` regions come of that, ``regions_a_picture`` of each varied
    picture, moved and scaled by normal deviations ``shift`` and ``scale`` of the box, as a detector's boxes are.
    ``face_px``: sides of faces, drawn evenly over the octaves; ``turn_deg``: the most that a picture is turned.
    """

    sets: dict[str, float]
    samples: Count = 24000
    regions_a_picture: Count = 3
    dev_faces: Count = 200
    face_px: tuple[float, float] = (24.0, 220.0)
    enlarged: float = 3.0               # a picture at most
    turn_deg: float = 30.0
    shift: float = 0.04
    scale: float = 0.08
    colour: float = 0.35
    degrade: float = 0.25
    seed: int = 1

    def chosen(self, among: Iterable[str]) -> list[str]:
        """Those of the sets ``among`` that have a weight."""
        return [name for name in among if self.sets.get(name, 0) > 0]

    def drawn(self, rng: np.random.Generator, among: Iterable[str]) -> str:
        """One of the sets ``among``, by their weights."""
        names = self.chosen(among)
        shares = np.array([self.sets[name] for name in names])
        return names[int(rng.choice(len(names), p=shares / shares.sum()))]


@dataclass(frozen=True)
class KeypointSamples:
    """M regions: ``trunk`` float16 (M, C, 14, 14), ``detail`` float16 (M, D, 14, 14), what the trunk's finest map adds
    to that before its 1x1 (D is 0 in the published pyramid), ``points`` float32 (M, K, 2), x y from 0 to 1 of the
    region, and ``size_px`` float32 (M, 2), its width and height."""

    trunk: NDArray[np.float16]
    detail: NDArray[np.float16]
    points: Floats
    size_px: Floats

    def __len__(self) -> int:
        return len(self.points)

    def write(self, folder: Path) -> None:
        """Write the arrays to ``folder``, which is complete or not there. Raises OutputError."""
        write_arrays(folder, {name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def open(cls, folder: Path) -> KeypointSamples:
        """The samples that ``write`` left in ``folder``, mapped; raises TrainingError when they cannot be read."""
        return cls(*open_arrays(folder, _FIELDS))


_FIELDS = ("trunk", "detail", "points", "size_px")


@dataclass(frozen=True)
class PointedFaces:
    """Faces with all of ``points`` points: a row each of ``picture``, its number among ``pixels``, ``box`` (4,) and
    ``points`` (K, 2)."""

    pixels: Pixels
    rows: list[tuple[int, Floats, Floats]]


def read_faces(
    folder: DataFolder, name: str, split: str, points: int, cache: Path, progress: ProgressBar
) -> PointedFaces:
    """The faces of a set's ``split`` with 5 or 68 ``points``. Raises DataError where there are none."""
    pictures = folder.dev_part(name) if split == "dev" else folder.pictures(name, split)
    kept: list[Picture] = []
    rows: list[tuple[int, Floats, Floats]] = []
    for picture in pictures:
        own = []
        for face in picture.faces:
            box, known = face_box_of_points(face, picture.complete), _points(face, points)
            if box is None or known is None or face.ignore or min(box[2:] - box[:2]) < _LEAST_SOURCE_PX:
                continue
            own.append((len(kept), box, known))
        rows += own
        kept += [picture] if own else []
    if not rows:
        raise DataError(
            f"{folder.directory(name)}: no {split} face with {points} points: set keypoints.drawing.sets.{name}=0"
        )
    return PointedFaces(open_pixels(kept, cache, progress), rows)


def _points(face: Face, points: int) -> Floats | None:
    found = face.landmarks if points == FIVE else face.landmarks68
    return None if found is None else np.asarray(found, np.float32)


class Cutter:
    """Cuts regions of ``net``'s features, a MaskFace as it is trained, which must not change meanwhile."""

    def __init__(self, net: MaskFace, drawing: Drawing) -> None:
        self._net, self._drawing = net.eval(), drawing
        self._gather: Regions = gather_of(net.form, net.margin)

    def varied(self, sources: Mapping[str, PointedFaces], progress: ProgressBar) -> KeypointSamples:
        """``Drawing.samples`` regions of faces drawn by ``Drawing.sets``; the same seed gives the same."""
        drawing = self._drawing
        pictures = max(1, -(-drawing.samples // drawing.regions_a_picture))
        parts = []
        for number in progress(range(pictures), "regions", pictures):
            rng = np.random.default_rng((drawing.seed, number))
            source = sources[drawing.drawn(rng, sources)]
            picture, box, points = source.rows[int(rng.integers(len(source.rows)))]
            crop = varied_crop(rng, source.pixels[picture], box, points, drawing)
            boxes = jittered(
                rng, crop.targets.boxes[0], drawing.regions_a_picture, drawing.shift, drawing.scale
            )
            parts.append(self._regions(crop, boxes))
        return _joined(parts)

    def plain(self, source: PointedFaces, count: int, progress: ProgressBar) -> KeypointSamples:
        """About ``count`` faces as they are, each with its own box, in pictures brought to 256 px."""
        rows = source.rows[:: max(1, len(source.rows) // max(1, count))]
        parts = []
        for number in progress(range(len(rows)), "dev regions", len(rows)):
            picture, box, points = rows[number]
            image = source.pixels[picture]
            scale = _DEV_CANVAS_PX / max(image.shape[:2])
            crop = augment.cut(image, _target(box, points), (0.0, 0.0), scale, _DEV_CANVAS_PX)
            if len(crop.targets.boxes):
                parts.append(self._regions(crop, crop.targets.boxes))
        return _joined(parts)

    def _regions(self, crop: Crop, boxes: Floats) -> KeypointSamples:
        planes = torch.from_numpy(np.ascontiguousarray(crop.image.transpose(2, 0, 1)))[None].float()
        with torch.inference_mode():
            maps = self._net.parts_of_regions((planes - PIXEL_MEAN) * PIXEL_SCALE)
        found = region_features(maps, self._net.form.region_strides, boxes, self._gather)
        regions = widened(boxes, self._gather.margin)
        size_px = regions[:, 2:] - regions[:, :2]
        points = (crop.targets.landmarks - regions[:, None, :2]) / size_px[:, None]
        detail = found[1] if len(found) > 1 else torch.zeros(len(boxes), 0, SIZE, SIZE)
        return KeypointSamples(
            found[0].numpy().astype(np.float16), detail.numpy().astype(np.float16), points.astype(np.float32), size_px
        )


def varied_crop(
    rng: np.random.Generator, image: NDArray[np.uint8], box: Floats, points: Floats, drawing: Drawing,
    canvas_px: int | None = None,
) -> Crop:
    """A crop about a face, as large, turned, mirrored and changed as ``drawing`` asks for; its one target has ``box``
    (4,) and ``points`` (K, 2). Without ``canvas_px`` the canvas is as large as the face needs."""
    side = max(1.0, float(np.sqrt((box[2:] - box[:2]).prod())))
    goal_px = float(np.exp(rng.uniform(*np.log(drawing.face_px))))
    scale = min(goal_px / side, drawing.enlarged)
    if canvas_px is None:
        canvas_px = max(_LEAST_CANVAS_PX, math.ceil(_ROOM * scale * side / _STEP_PX) * _STEP_PX)
    window = canvas_px / scale
    middle = (box[:2] + box[2:]) / 2 + rng.uniform(-0.1, 0.1, 2) * window
    corner = float(middle[0] - window / 2), float(middle[1] - window / 2)
    crop = augment.cut(image, _target(box, points), corner, scale, canvas_px)
    crop = augment.turn(crop, float(rng.uniform(-drawing.turn_deg, drawing.turn_deg)))
    if rng.random() < 0.5:
        crop = _flipped(crop)
    changed = augment.colour(rng, crop.image, drawing.colour)
    if rng.random() < drawing.degrade:
        changed = augment.degrade(rng, changed)
    return Crop(changed, crop.targets)


def _target(box: Floats, points: Floats) -> Targets:
    return Targets(
        box[None], points[None], np.full((1, 3), np.nan, np.float32), np.zeros(1, bool), np.ones(1, bool), False
    )


def _flipped(crop: Crop) -> Crop:
    mirrored = augment.flip(Crop(crop.image, Targets(
        crop.targets.boxes, np.zeros((len(crop.targets.boxes), FIVE, 2), np.float32), crop.targets.pose,
        crop.targets.ignore, crop.targets.regress, crop.targets.complete,
    )))
    points = crop.targets.landmarks
    order = _MIRRORED_5 if points.shape[1] == FIVE else MIRRORED_68
    points = points[:, list(order)] * np.array([-1, 1], np.float32) + np.array([crop.image.shape[1], 0], np.float32)
    own: Any = mirrored.targets
    return Crop(mirrored.image, Targets(own.boxes, points, own.pose, own.ignore, own.regress, own.complete))


def jittered(rng: np.random.Generator, box: Floats, n: int, shift: float, scale: float) -> Floats:
    """Boxes (n, 4) about one, as a detector's lie about a face: moved and scaled by normal deviations of its sides."""
    size = box[2:] - box[:2]
    middle = (box[:2] + box[2:]) / 2 + rng.normal(0, shift, (n, 2)) * size
    half = size * np.exp(rng.normal(0, scale, (n, 1)) + rng.normal(0, scale / 2, (n, 2))) / 2
    boxes: Floats = np.concatenate((middle - half, middle + half), 1).astype(np.float32)
    return boxes


def _joined(parts: Sequence[KeypointSamples]) -> KeypointSamples:
    if not parts:
        raise TrainingError("no regions to train keypoints on: the data folder has no faces that can be used")
    return KeypointSamples(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


def batch_of(samples: KeypointSamples, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Trunk (B, C, 14, 14), detail (B, D, 14, 14) and points (B, K, 2) of ``rows``, float32."""
    trunk, detail, points = (
        torch.from_numpy(np.array(getattr(samples, name)[rows])).float() for name in ("trunk", "detail", "points")
    )
    return trunk, detail, points
