"""The training set of a face detector: every set of the data folder, drawn by weight, cropped and augmented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edgeface.data import augment
from edgeface.data.annotations import Picture
from edgeface.data.augment import Crop
from edgeface.data.pixels import Pixels, ProgressBar, open_pixels
from edgeface.data.sets import DataFolder, describe, open_data
from edgeface.data.settings import Data
from edgeface.data.targets import Targets, targets_of
from edgeface.errors import DataError


@dataclass(frozen=True)
class Cropping:
    """How crops of one kind of set are scaled: see ``augment.choose_scale``."""

    native: float
    smallest_px: float
    scale_range: tuple[float, float]


# Pictures of one face teach large faces and their landmarks; pasting brings their faces into scenes as small ones. A
# crop of 80 px may be enlarged further than a whole scene.
FACE_CROPS = Cropping(0.2, 48.0, (0.15, 4.5))
SCENE_SMALLEST_PX, SCENE_SCALE_RANGE = 8.0, (0.25, 2.0)
PASTED_FACE_PX = (8.0, 72.0)


@dataclass(frozen=True)
class SourceSet:
    """One set's training pictures: pixels, targets a picture, and which of them serve for what.

    ``paste``: whether the first face of each picture is pasted into scenes.
    """

    name: str
    pictures: list[Picture]
    pixels: Pixels
    targets: list[Targets]
    complete: bool
    paste: bool = False


def read_sources(
    data: Path | DataFolder,
    names: Iterable[str],
    cache: Path,
    progress: ProgressBar = lambda items, _label, _total: items,
    split: str = "train",
) -> dict[str, SourceSet]:
    """The ``split`` of the named sets below ``data``, without the pictures whose faces nothing places.

    Raises DataError when a set is missing or wrong (file and line are named).
    """
    folder = data if isinstance(data, DataFolder) else open_data(data)
    sources = {}
    for name in names:
        description = describe(folder.directory(name))
        pictures, targets = [], []
        for picture in folder.pictures(name, split):
            found = targets_of(picture, regress_boxes=description.regress)
            if picture.complete or len(found):
                pictures.append(picture)
                targets.append(found)
        if not pictures:
            raise DataError(
                f"{folder.directory(name)}: no {split} picture with a placed face: set data.weights.{name}=0"
            )
        pixels = open_pixels(pictures, cache, progress)
        sources[name] = SourceSet(name, pictures, pixels, targets, all(p.complete for p in pictures), description.paste)
    return sources


class FeedbackState:
    """What training tells its loaders: whether to stitch, and which pictures are in the hard set S.

    S starts from all training pictures (mos.txt, section 3.3). Lies in shared memory, so that loader processes see a
    change at their next sample.
    """

    def __init__(self, sources: Mapping[str, SourceSet]) -> None:
        self.stitch = torch.zeros(1, dtype=torch.uint8)
        self.hard = {name: torch.ones(len(s.pictures), dtype=torch.uint8) for name, s in sources.items()}
        for shared in (self.stitch, *self.hard.values()):
            shared.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves this one method untyped


@dataclass(frozen=True)
class Draw:
    """What one sample is made from: its number in the run (which seeds it) and the side of its canvas."""

    number: int
    canvas_px: int


class DetectionSet(Dataset[Crop]):
    """Draws crops; the same seed and number give the same crop while the feedback state is the same. ``collate`` makes
    a batch of some."""

    def __init__(
        self, sources: Mapping[str, SourceSet], data: Data, feedback: FeedbackState, hard_share: float, seed: int
    ) -> None:
        self.sources = sources
        self.config = data
        self.feedback = feedback
        self.hard_share = hard_share
        self.seed = seed
        self.names = [n for n in sources if data.weights.get(n, 0) > 0]
        weights = np.array([data.weights[n] for n in self.names])
        self.weights = weights / weights.sum()
        scenes = [self.sources[n].complete for n in self.names]
        self.scene_names = [n for n, scene in zip(self.names, scenes, strict=True) if scene]
        scene_weights = self.weights[scenes]
        self.scene_weights = scene_weights / scene_weights.sum() if len(scene_weights) else scene_weights
        self.scenes = Cropping(data.native, SCENE_SMALLEST_PX, SCENE_SCALE_RANGE)
        self.paste_names = [n for n, source in sources.items() if source.paste and _one_face_each(source)]

    def __getitem__(self, draw: Draw) -> Crop:
        rng = np.random.default_rng((self.seed, draw.number))
        if self.scene_names and bool(self.feedback.stitch[0]):
            half = draw.canvas_px // 2
            return augment.stitch([self._crop(rng, half, 0.5, scenes_only=True) for _ in range(4)])
        return self._crop(rng, draw.canvas_px, 1.0, scenes_only=False)

    def collate(self, crops: list[Crop]) -> Batch:
        """Crops of one canvas size into a batch."""
        return collate(crops)

    def _pick(self, rng: np.random.Generator, scenes_only: bool) -> tuple[SourceSet, int]:
        names, weights = (self.scene_names, self.scene_weights) if scenes_only else (self.names, self.weights)
        name = names[int(rng.choice(len(names), p=weights))]
        source = self.sources[name]
        if rng.random() < self.hard_share:
            hard = np.flatnonzero(self.feedback.hard[name].numpy())
            if len(hard):
                return source, int(rng.choice(hard))
        return source, int(rng.integers(len(source.pictures)))

    def _crop(self, rng: np.random.Generator, canvas_px: int, shrink: float, scenes_only: bool) -> Crop:
        source, i = self._pick(rng, scenes_only)
        targets = source.targets[i]
        image = source.pixels[i]
        how = self.scenes if source.complete else FACE_CROPS
        scale, face = augment.choose_scale(
            rng, targets, round(canvas_px / shrink), how.native, how.smallest_px, self.config.largest, how.scale_range
        )
        scale *= shrink
        corner = augment.crop_window(rng, image.shape, targets, face, canvas_px / scale)
        crop = augment.cut(image, targets, corner, scale, canvas_px)
        if source.complete and self.paste_names and rng.random() < self.config.paste:
            for _ in range(int(rng.integers(1, 4))):
                crop = self._pasted(rng, crop)
        if rng.random() < 0.5:
            crop = augment.flip(crop)
        if rng.random() < self.config.turn_any:
            crop = augment.turn(crop, float(rng.uniform(-180, 180)))
        elif rng.random() < self.config.turn:
            crop = augment.turn(crop, float(rng.normal(0, self.config.turn_deg)))
        image = augment.colour(rng, crop.image, self.config.colour)
        if rng.random() < self.config.degrade:
            image = augment.degrade(rng, image)
        return Crop(image, self._without_noise(crop.targets))

    def _pasted(self, rng: np.random.Generator, crop: Crop) -> Crop:
        faces = self.sources[self.paste_names[int(rng.integers(len(self.paste_names)))]]
        i = int(rng.integers(len(faces.pictures)))
        low, high = PASTED_FACE_PX
        goal_px = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        return augment.paste(rng, crop, faces.pixels[i], faces.targets[i].select(np.array([0])), goal_px)

    def _without_noise(self, targets: Targets) -> Targets:
        """Tiny faces become ``ignore``, and those a little larger lose their landmarks."""
        side_px = augment.sides(targets.boxes)
        blurred = side_px < self.config.min_landmarks_px
        return Targets(
            targets.boxes,
            np.where(blurred[:, None, None], np.float32(np.nan), targets.landmarks),
            targets.pose,
            targets.ignore | (side_px < self.config.min_face_px),
            targets.regress,
            targets.complete,
        )


def _one_face_each(source: SourceSet) -> bool:
    return all(len(targets) for targets in source.targets)


@dataclass(frozen=True)
class FaceTargets:
    """What is known of F faces, as tensors: ``boxes`` float32 (F, 4), x1 y1 x2 y2 in pixels of the canvas;
    ``landmarks`` (F, 10) likewise; ``pose`` (F, 3) pitch yaw roll in degrees, both NaN where unknown; ``ignore`` and
    ``regress`` bool (F,), as ``Targets`` has them."""

    boxes: Tensor
    landmarks: Tensor
    pose: Tensor
    ignore: Tensor
    regress: Tensor

    @classmethod
    def of(cls, parts: Sequence[Targets]) -> FaceTargets:
        """The faces of several pictures, one after the other."""
        return cls(
            _floats([part.boxes for part in parts], 4),
            _floats([part.landmarks.reshape(len(part), 10) for part in parts], 10),
            _floats([part.pose for part in parts], 3),
            torch.from_numpy(np.concatenate([part.ignore for part in parts])),
            torch.from_numpy(np.concatenate([part.regress for part in parts])),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, rows: Tensor) -> FaceTargets:
        """Those of ``rows``, int64 or bool."""
        return FaceTargets(*(getattr(self, each.name)[rows] for each in fields(self)))

    def to(self, device: torch.device) -> FaceTargets:
        """The same on a device."""
        return FaceTargets(*(getattr(self, each.name).to(device, non_blocking=True) for each in fields(self)))

    def split(self, counts: Sequence[int]) -> list[FaceTargets]:
        """So many faces each, one after the other, as views."""
        parts = [getattr(self, each.name).split(list(counts)) for each in fields(self)]
        return [FaceTargets(*tensors) for tensors in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Batch:
    """B crops as one tensor, uint8 (B, 3, S, S) BGR, with their faces one picture after the other: ``counts`` (B,) of
    them. ``complete`` (B,): whether every face of a crop is among them. ``known``: what an objective of more tasks
    learns from besides, by name."""

    images: Tensor
    faces: FaceTargets
    counts: list[int]
    complete: list[bool]
    known: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
        """The same on a device; ``memory_format`` is that of the images."""
        images = self.images.to(device, non_blocking=True, memory_format=memory_format)
        known = {name: tensor.to(device, non_blocking=True) for name, tensor in self.known.items()}
        return Batch(images, self.faces.to(device), self.counts, self.complete, known)

    def first(self, count: int) -> Batch:
        """The first ``count`` crops with their faces, and nothing that is known besides."""
        rows = torch.arange(sum(self.counts[:count]), device=self.faces.boxes.device)
        return Batch(self.images[:count], self.faces.select(rows), self.counts[:count], self.complete[:count])


def collate(crops: list[Crop]) -> Batch:
    """Crops of one canvas size into a batch."""
    images = torch.from_numpy(np.stack([c.image for c in crops])).permute(0, 3, 1, 2).contiguous()
    targets = [crop.targets for crop in crops]
    return Batch(images, FaceTargets.of(targets), [len(each) for each in targets], [each.complete for each in targets])


def _floats(parts: Sequence[NDArray[np.float32]], columns: int) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32).reshape(-1, columns))
