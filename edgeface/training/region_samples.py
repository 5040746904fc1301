"""What TFN's nets on regions are trained on: joined regions of a frozen trunk's features, computed once and kept in
memory-mapped files, with what is known of each face (tfn.txt, section IV.C, stages 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from edgeface.data import augment
from edgeface.data.augment import Crop
from edgeface.data.pixels import Pixels, ProgressBar
from edgeface.data.targets import Targets
from edgeface.errors import TrainingError
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.tfn import POINTS, STRIDES, TFN, Group
from edgeface.models.tfn_export import gather_of
from edgeface.runtime.engines import RawMap
from edgeface.runtime.gather.joined import joined_regions
from edgeface.runtime.gather.regions import widened
from edgeface.runtime.nms import iou
from edgeface.torch_engine import network_detector
from edgeface.training.array_folders import open_arrays, write_arrays
from edgeface.training.config import Count
from edgeface.training.keypoint_samples import Drawing, jittered, varied_crop

Floats = NDArray[np.float32]

_POSITIVE_IOU, _NEGATIVE_IOU = 0.5, 0.4
# A proposal that lies so much on a face that does not count is none of the background.
_IGNORED_IOU = 0.1
# Of proposals: their net has to tell from one another what lies about a face.
_NMS_IOU = 0.6
# A crop has a side that every trunk takes.
_LEAST_CROP_PX = 64
_DEV_CANVAS_PX, _DEV_STEP_PX = 192, 64


class Proposals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which proposals the detection net learns from: of ``pictures`` crops of ``crop_px``, drawn by ``sets``, at most
    ``regions_a_picture`` boxes of at least the probability ``score``, and as many moved about faces at most."""

    sets: dict[str, float]
    pictures: Count = 900
    dev_pictures: Count = 80
    crop_px: Annotated[int, Meta(ge=_LEAST_CROP_PX)] = 320
    regions_a_picture: Count = 24
    score: float = 0.05
    shift: float = 0.1
    scale: float = 0.15
    seed: int = 1


@dataclass(frozen=True)
class Labels:
    """What is known of M regions, float32, NaN where it is not.

    ``score`` (M,): 1 a face, 0 none; ``box`` (M, 4): how far its edges are from the region's, in sides of it;
    ``points`` (M, 68, 2): x y from 0 to 1 of the region; ``age`` (M, 2): the least and the most years; ``gender`` and
    ``ethnicity`` (M,): the class's number.
    """

    score: Floats
    box: Floats
    points: Floats
    age: Floats
    gender: Floats
    ethnicity: Floats

    @classmethod
    def unknown(cls, count: int) -> Labels:
        """Nothing of ``count`` regions."""
        shapes = ((), (4,), (POINTS, 2), (2,), (), ())
        return cls(*(np.full((count, *shape), np.nan, np.float32) for shape in shapes))

    def rows(self, chosen: NDArray[np.integer]) -> dict[str, Tensor]:
        """Those of some regions, by the name of the field."""
        return {each.name: torch.from_numpy(np.array(getattr(self, each.name)[chosen])) for each in fields(self)}


@dataclass(frozen=True)
class RegionSamples:
    """M regions float16 (M, C, S, S), what is known of them, and their widths and heights in pixels, float32 (M, 2)."""

    regions: NDArray[np.float16]
    labels: Labels
    size_px: Floats

    def __len__(self) -> int:
        return len(self.regions)

    def write(self, folder: Path) -> None:
        """Write the arrays to ``folder``, which is complete or not there. Raises OutputError."""
        known = {each.name: getattr(self.labels, each.name) for each in fields(Labels)}
        write_arrays(folder, {"regions": self.regions, "size_px": self.size_px, **known})

    @classmethod
    def open(cls, folder: Path) -> RegionSamples:
        """The samples that ``write`` left in ``folder``, mapped; raises TrainingError when they cannot be read."""
        regions, size_px, *known = open_arrays(folder, ["regions", "size_px", *(each.name for each in fields(Labels))])
        return cls(regions, Labels(*map(np.asarray, known)), np.asarray(size_px))


def joined(parts: Sequence[RegionSamples]) -> RegionSamples:
    """The samples of all parts; raises TrainingError where there are none."""
    if not sum(map(len, parts)):
        raise TrainingError("no regions to train on: the data folder has no faces that can be used")
    return RegionSamples(
        np.concatenate([part.regions for part in parts]), labels_joined([part.labels for part in parts]),
        np.concatenate([part.size_px for part in parts]),
    )


def labels_joined(parts: Sequence[Labels]) -> Labels:
    """What is known of the regions of all parts, of which there is one at least."""
    return Labels(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Labels)))


@dataclass(frozen=True)
class LabelledFaces:
    """Faces to cut: a row each of ``picture``, its number among ``pixels``, ``box`` (4,) and ``points`` (68, 2) in the
    picture, NaN where unknown; ``labels`` are the rest of what is known, a row each."""

    pixels: Pixels
    picture: NDArray[np.int64]
    box: Floats
    points: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.picture)


class RegionCutter:
    """Cuts the regions of ``group`` from the features of ``net``, a TFN as it is trained, which must not change
    meanwhile."""

    def __init__(self, net: TFN, group: Group) -> None:
        self._net, self._group, self._gather = net.eval(), group, gather_of(group)

    def varied(self, sources: Mapping[str, LabelledFaces], drawing: Drawing, progress: ProgressBar) -> RegionSamples:
        """``drawing.samples`` regions of faces drawn by ``drawing.sets``; the same seed gives the same."""
        pictures = max(1, -(-drawing.samples // drawing.regions_a_picture))
        parts = []
        for number in progress(range(pictures), f"regions for {self._group.name}", pictures):
            rng = np.random.default_rng((drawing.seed, number))
            source = sources[drawing.drawn(rng, sources)]
            row = int(rng.integers(len(source)))
            image = source.pixels[int(source.picture[row])]
            crop = varied_crop(rng, image, source.box[row], source.points[row], drawing)
            boxes = jittered(rng, crop.targets.boxes[0], drawing.regions_a_picture, drawing.shift, drawing.scale)
            parts.append(self._of_face(crop, boxes, source, row))
        return joined(parts)

    def plain(self, source: LabelledFaces, count: int, progress: ProgressBar) -> RegionSamples:
        """About ``count`` faces as they are, each with its own box, in pictures of 192 px at most, none enlarged by
        more than the step of 64 px between canvases."""
        rows = range(0, len(source), max(1, len(source) // max(1, count)))
        parts = []
        for row in progress(rows, f"dev regions for {self._group.name}", len(rows)):
            image = source.pixels[int(source.picture[row])]
            target = _target(source.box[row][None], source.points[row][None])
            side_px = max(image.shape[:2])
            canvas_px = min(_DEV_CANVAS_PX, -(-side_px // _DEV_STEP_PX) * _DEV_STEP_PX)
            crop = augment.cut(image, target, (0.0, 0.0), canvas_px / side_px, canvas_px)
            if len(crop.targets.boxes):
                parts.append(self._of_face(crop, crop.targets.boxes, source, row))
        return joined(parts)

    def proposals(
        self, pictures: Iterable[tuple[Crop, np.random.Generator]], how: Proposals
    ) -> RegionSamples:
        """Regions of what the net's own dense stage proposes in crops of pictures, and of boxes moved about their
        faces, each a face or none by its overlap (tfn.txt, section IV.B.2)."""
        detector = network_detector(self._net, size_px=how.crop_px, score=how.score, nms_iou=_NMS_IOU, threads=1)
        parts = []
        for crop, rng in pictures:
            targets = crop.targets
            proposed = detector(crop.image).boxes[: how.regions_a_picture]
            kept = np.flatnonzero(~targets.ignore)
            about = [
                jittered(rng, targets.boxes[i], 1, how.shift, how.scale)
                for i in rng.permutation(kept)[: how.regions_a_picture]
            ]
            boxes = np.concatenate([proposed, *about]).astype(np.float32)
            boxes, labels = _judged(boxes, targets, self._group.margin)
            if len(boxes):
                parts.append(self._cut(crop, boxes, labels))
        return joined(parts)

    def _of_face(self, crop: Crop, boxes: Floats, source: LabelledFaces, row: int) -> RegionSamples:
        return self._cut(crop, boxes, known_of_face(crop, boxes, source, row, self._group.margin)[1])

    def _cut(self, crop: Crop, boxes: Floats, labels: Labels) -> RegionSamples:
        planes = torch.from_numpy(np.ascontiguousarray(crop.image.transpose(2, 0, 1)))[None].float()
        with torch.inference_mode():
            maps = self._net.trunk_maps((planes - PIXEL_MEAN) * PIXEL_SCALE)
        regions = widened(boxes, self._group.margin)
        found = regions_of(maps, self._group, regions)
        return RegionSamples(found.astype(np.float16), labels, regions[:, 2:] - regions[:, :2])


def known_of_face(
    crop: Crop, boxes: Floats, source: LabelledFaces, row: int, margin: float
) -> tuple[Floats, Labels]:
    """The regions (N, 4) that ``boxes`` (N, 4) about the one face of a crop give, ``margin`` boxes wide, and what
    ``row`` of ``source`` says of each."""
    labels, regions = Labels.unknown(len(boxes)), widened(boxes, margin)
    for each in fields(Labels):
        getattr(labels, each.name)[:] = getattr(source.labels, each.name)[row]
    labels.points[:] = (crop.targets.landmarks - regions[:, None, :2]) / (regions[:, 2:] - regions[:, :2])[:, None]
    return regions, labels


def regions_of(maps: Mapping[int, Tensor], group: Group, regions: Floats) -> Floats:
    """The joined features (P, C, S, S) of ``regions`` (P, 4) in pixels of the network's input, from one picture's maps
    (1, C, h, w) by stride, as the board cuts them."""
    raw = {f"trunk{stride}": RawMap(maps[stride][0].detach().float().cpu().numpy()) for stride in group.strides}
    strides = {f"trunk{stride}": stride for stride in group.strides}
    return joined_regions(gather_of(group), strides, raw.__getitem__, regions)


def scales_of(net: TFN, images: Iterable[NDArray[np.uint8]]) -> list[float]:
    """What brings the trunk's maps of pictures uint8 (H, W, 3), H and W multiples of 32, to a root mean square of 1
    each, by ``STRIDES``; 1 for a map that the trunk has not."""
    squares: dict[int, list[float]] = {}
    for image in images:
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()
        with torch.inference_mode():
            levels = net.backbone((planes - PIXEL_MEAN) * PIXEL_SCALE)
        for stride, level in zip(net.trunk_strides, levels, strict=True):
            squares.setdefault(stride, []).append(float(level.square().mean()))
    means = {stride: float(np.mean(each)) for stride, each in squares.items()}
    return [float(f"{max(1e-12, means.get(stride, 1.0)) ** -0.5:.4g}") for stride in STRIDES]


def _judged(boxes: Floats, targets: Targets, margin: float) -> tuple[Floats, Labels]:
    """The boxes that are a face, or clearly none, and what is known of them."""
    if not len(boxes):
        return boxes, Labels.unknown(0)
    overlap = iou(boxes, targets.boxes) if len(targets) else np.zeros((len(boxes), 1), np.float32)
    best, nearest = overlap.max(axis=1), overlap.argmax(axis=1)
    ignored = targets.ignore[nearest] if len(targets) else np.zeros(len(boxes), bool)
    positive = (best > _POSITIVE_IOU) & ~ignored
    negative = (best < _NEGATIVE_IOU) & ~((best > _IGNORED_IOU) & ignored) & targets.complete
    chosen = np.flatnonzero(positive | negative)
    labels = Labels.unknown(len(chosen))
    labels.score[:] = positive[chosen]
    regions = widened(boxes[chosen], margin)
    sides = regions[:, 2:] - regions[:, :2]
    for i, at in enumerate(chosen.tolist()):
        if positive[at] and targets.regress[nearest[at]]:
            labels.box[i] = (targets.boxes[nearest[at]] - regions[i]) / np.concatenate((sides[i], sides[i]))
    return boxes[chosen], labels


def _target(boxes: Floats, points: Floats) -> Targets:
    n = len(boxes)
    return Targets(
        boxes, points, np.full((n, 3), np.nan, np.float32), np.zeros(n, bool), np.ones(n, bool), False
    )
