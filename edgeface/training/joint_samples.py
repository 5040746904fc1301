"""What a TFN learns from in its joint stage (tfn.txt, section IV.C, stage 1): crops of scenes for the dense stage, and
canvases of tiles with one face each for the nets on regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeface.data.augment import PAD_VALUE, Crop
from edgeface.data.detection import Batch, DetectionSet, Draw, collate
from edgeface.data.targets import Targets
from edgeface.models.tfn import Group, Task
from edgeface.training.config import Count, Optimiser
from edgeface.training.keypoint_samples import Drawing, jittered, varied_crop
from edgeface.training.region_samples import LabelledFaces, Labels, known_of_face, labels_joined

Share = Annotated[float, Meta(gt=0, le=1)]
# What of a picture's known values says where its faces are; the others are labels.
PICTURE, REGION = "picture", "region"


class Joint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the trunk learns from all tasks at once, and from what.

    ``faces_share`` of a step's pictures are canvases of tiles; on each the tiles have one of the sides ``tile_px``, the
    smaller ones as much more often as they are smaller. A face is drawn for a task by ``tasks`` and is ``face`` of its
    tile's side, as far as its picture may be enlarged; sets and variation are those of ``regions``. ``weight`` is that
    of the losses of regions beside the dense stage's. ``frozen`` are the trunk's modules that stay as they are.
    """

    optimiser: Optimiser
    tasks: dict[Task, Annotated[float, Meta(ge=0)]]
    faces_share: Annotated[float, Meta(gt=0, lt=1)] = 0.4
    tile_px: Annotated[tuple[Count, ...], Meta(min_length=1)] = (85, 128, 256)
    face: tuple[Share, Share] = (0.5, 0.85)
    weight: Annotated[float, Meta(ge=0)] = 0.5
    frozen: tuple[str, ...] = ()
    steps: Count = 20000
    budget_minutes: float = 0.0         # > 0: the stage ends after so many minutes, whatever the steps
    epoch_steps: Count = 800


@dataclass(frozen=True)
class TaskFaces:
    """The faces of a task by set, how they are drawn and varied, and the group whose net learns from them."""

    group: Group
    drawing: Drawing
    sources: Mapping[str, LabelledFaces]


@dataclass(frozen=True)
class TiledCrop(Crop):
    """A canvas of faces: the regions (K, 4) of its K tiles in pixels, and what is known of each. It has no targets."""

    regions: NDArray[np.float32]
    labels: Labels


class JointSet(DetectionSet):
    """The crops of ``scenes``, and in place of some of them canvases of ``faces``, by task; each of these tasks has a
    share in ``joint.tasks``."""

    def __init__(self, scenes: DetectionSet, faces: Mapping[Task, TaskFaces], joint: Joint) -> None:
        super().__init__(scenes.sources, scenes.config, scenes.feedback, scenes.hard_share, scenes.seed)
        self._faces, self._joint = faces, joint
        shares = np.array([joint.tasks[task] for task in faces])
        self._shares = shares / shares.sum()
        often = 1 / np.array(joint.tile_px)
        self._often = often / often.sum()

    def __getitem__(self, draw: Draw) -> Crop:
        rng = np.random.default_rng((self.seed, draw.number, 1))
        if rng.random() < self._joint.faces_share:
            return self._canvas(rng, draw.canvas_px)
        return super().__getitem__(draw)

    def collate(self, crops: list[Crop]) -> Batch:
        """As ``DetectionSet``; the canvases of faces come last, and ``known`` has a row a tile: the "picture" that it
        is in, the "region" in pixels, and the fields of ``Labels``."""
        scenes = [crop for crop in crops if not isinstance(crop, TiledCrop)]
        tiled = [crop for crop in crops if isinstance(crop, TiledCrop)]
        batch = collate([*scenes, *tiled])
        labels = labels_joined([crop.labels for crop in tiled]) if tiled else Labels.unknown(0)
        regions = [np.zeros((0, 4), np.float32), *(crop.regions for crop in tiled)]
        picture = [np.full(len(crop.regions), len(scenes) + i) for i, crop in enumerate(tiled)]
        known = {
            PICTURE: torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *picture])),
            REGION: torch.from_numpy(np.concatenate(regions)), **labels.rows(np.arange(sum(map(len, picture)))),
        }
        return Batch(batch.images, batch.faces, batch.counts, batch.complete, known)

    def _canvas(self, rng: np.random.Generator, canvas_px: int) -> TiledCrop:
        tile_px = min(canvas_px, int(rng.choice(self._joint.tile_px, p=self._often)))
        canvas = np.full((canvas_px, canvas_px, 3), PAD_VALUE, np.uint8)
        regions, labels = [], []
        for number in range((canvas_px // tile_px) ** 2):
            top, left = (tile_px * at for at in divmod(number, canvas_px // tile_px))
            tile, region, known = self._tile(rng, tile_px)
            canvas[top : top + tile_px, left : left + tile_px] = tile.image
            regions.append(region + np.array([left, top, left, top], np.float32))
            labels.append(known)
        empty = Targets(
            np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros((0, 3), np.float32),
            np.zeros(0, bool), np.zeros(0, bool), False,
        )
        return TiledCrop(canvas, empty, np.concatenate(regions), labels_joined(labels))

    def _tile(self, rng: np.random.Generator, tile_px: int) -> tuple[Crop, NDArray[np.float32], Labels]:
        """A face as a picture of ``tile_px``, its region (1, 4) and what is known of it."""
        faces = list(self._faces.values())[int(rng.choice(len(self._shares), p=self._shares))]
        low, high = self._joint.face
        drawing = replace(faces.drawing, face_px=(low * tile_px, high * tile_px))
        source = faces.sources[drawing.drawn(rng, faces.sources)]
        row = int(rng.integers(len(source)))
        image = source.pixels[int(source.picture[row])]
        crop = varied_crop(rng, image, source.box[row], source.points[row], drawing, tile_px)
        boxes = jittered(rng, crop.targets.boxes[0], 1, drawing.shift, drawing.scale)
        return crop, *known_of_face(crop, boxes, source, row, faces.group.margin)
