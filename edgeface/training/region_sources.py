"""The faces that TFN's nets on regions are trained on, by task: points of one set, apparent age, gender and ethnicity
of another, and for the detection net whole pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data import augment
from edgeface.data.annotations import Face, Picture
from edgeface.data.apparent import ethnicity_of, gender_of, years_of
from edgeface.data.augment import Crop
from edgeface.data.pixels import Pixels, ProgressBar, open_pixels
from edgeface.data.sets import DataFolder
from edgeface.data.targets import targets_of
from edgeface.errors import DataError
from edgeface.evaluation.locate import locate_labelled
from edgeface.models.tfn import ETHNICITIES, GENDERS, POINTS, TFN, Task
from edgeface.runtime.detector import Detector
from edgeface.torch_engine import network_detector
from edgeface.training.array_folders import open_arrays, write_arrays
from edgeface.training.keypoint_samples import Drawing, read_faces
from edgeface.training.region_heads import RegionTraining
from edgeface.training.region_samples import LabelledFaces, Labels, RegionCutter, RegionSamples

Floats = NDArray[np.float32]

_SUBJECT_SCORE, _SUBJECT_NMS_IOU = 0.2, 0.4     # of the face at a picture's centre, which nobody annotated
_SMALLEST_PX, _LARGEST_PX = 128, 256
_FOUND = ("picture", "box")
_NOTHING = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
_STEP_PX = 32
_PICTURES_FOR_SCALES = 24
_LOG = logging.getLogger(__name__)


class Sources:
    """The faces of a data folder for every task. Where those are of which nobody said so is kept in ``found``."""

    def __init__(
        self, folder: DataFolder, config: RegionTraining, cache: Path, found: Path, progress: ProgressBar
    ) -> None:
        self._folder, self._config, self._cache, self._progress = folder, config, cache, progress
        self._found = found

    def require(self, task: Task) -> None:
        """Raises DataError where the folder has none of the sets that a task is to be trained on."""
        self._names(self._config.proposals.sets if task == "detection" else self.drawing(task).sets, task)

    def train(self, task: Task, net: TFN, cutter: RegionCutter) -> RegionSamples:
        """The regions that a task is trained on. Raises DataError where no set has faces for it."""
        if task == "detection":
            how = self._config.proposals
            names = self._names(how.sets, task)
            return cutter.proposals(self._crops(names, "train", how.pictures, net.multiple), how)
        return cutter.varied(self.train_faces(task, net), self.drawing(task), self._progress)

    def drawing(self, task: Task) -> Drawing:
        """How the faces of a task are drawn and varied: of landmarks, or of attributes."""
        return self._config.landmarks if task == "landmarks" else self._config.attributes

    def train_faces(self, task: Task, net: TFN) -> dict[str, LabelledFaces]:
        """The training faces for landmarks or attributes by set. Raises DataError where no set has any."""
        return {name: self._faces(task, name, "train", net) for name in self._names(self.drawing(task).sets, task)}

    def dev_faces(self, task: Task, net: TFN) -> LabelledFaces | None:
        """The faces of the first set that has a dev part for landmarks or attributes."""
        for name in self._names(self.drawing(task).sets, task):
            try:
                return self._faces(task, name, "dev", net)
            except DataError:
                continue
        return None

    def dev(self, task: Task, net: TFN, cutter: RegionCutter) -> Iterator[RegionSamples]:
        """The regions of the dev part that a task is looked at on; none where no set has one."""
        if task == "detection":
            how = self._config.proposals
            names = [name for name in self._names(how.sets, task) if self._folder.dev_part(name)][:1]
            if names:
                yield cutter.proposals(self._crops(names, "dev", how.dev_pictures, net.multiple), how)
            return
        faces = self.dev_faces(task, net)
        if faces is not None:
            yield cutter.plain(faces, self.drawing(task).dev_faces, self._progress)

    def some_pictures(self) -> Iterator[NDArray[np.uint8]]:
        """Training pictures of single faces, their sides multiples of 32 px: what scales are measured on."""
        drawings = (self._config.landmarks, self._config.attributes)
        names = {name for drawing in drawings for name, weight in drawing.sets.items() if weight > 0}
        for name in sorted(names & set(self._folder.sets)):
            pictures = self._folder.pictures(name, "train")
            chosen = pictures[:: max(1, len(pictures) // _PICTURES_FOR_SCALES)][:_PICTURES_FOR_SCALES]
            pixels = open_pixels(chosen, self._cache, self._progress)
            for i in range(len(chosen)):
                side_px = max(_SMALLEST_PX, max(pixels[i].shape[:2]) // _STEP_PX * _STEP_PX)
                scale = side_px / max(pixels[i].shape[:2])
                faces = targets_of(chosen[i], regress_boxes=False)
                yield augment.cut(pixels[i], faces, (0.0, 0.0), scale, side_px).image

    def _names(self, sets: Mapping[str, float], task: Task) -> list[str]:
        names = [name for name, weight in sets.items() if weight > 0 and name in self._folder.sets]
        if not names:
            key = "proposals" if task == "detection" else task
            raise DataError(
                f"the data folder has none of the sets {', '.join(sets)} for {task}: set regions.{key}.sets, or leave "
                "the part out"
            )
        return names

    def _faces(self, task: Task, name: str, split: str, net: TFN) -> LabelledFaces:
        if task == "landmarks":
            return pointed(self._folder, name, split, self._cache, self._progress)
        return apparent(self._folder, name, split, self._cache, self._progress, net, self._found)

    def _crops(
        self, names: list[str], split: str, count: int, multiple: int
    ) -> Iterator[tuple[Crop, np.random.Generator]]:
        """Crops of pictures, drawn by the sets' weights; of the dev part the pictures one after the other."""
        how = self._config.proposals
        parts = []
        for name in names:
            pictures = self._folder.pictures(name, "train") if split == "train" else self._folder.dev_part(name)
            regress = self._folder.sets[name].regress
            parts.append((pictures, open_pixels(pictures, self._cache, self._progress), regress))
        shares = np.array([how.sets[name] for name in names])
        for number in self._progress(range(count), f"{split} proposals", count):
            rng = np.random.default_rng((how.seed, split == "dev", number))
            pictures, pixels, regress = parts[int(rng.choice(len(parts), p=shares / shares.sum()))]
            at = int(rng.integers(len(pictures)))
            yield _crop(rng, pictures[at], pixels[at], regress, how.crop_px // multiple * multiple), rng


def _crop(
    rng: np.random.Generator, picture: Picture, image: NDArray[np.uint8], regress: bool, side_px: int
) -> Crop:
    """A crop of a picture at .5 to 1.5 of its size about one of its faces, or anywhere where it has none."""
    targets = targets_of(picture, regress_boxes=regress)
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(1.5))))
    kept = np.flatnonzero(~targets.ignore)
    face = int(rng.choice(kept)) if len(kept) else None
    corner = augment.crop_window(rng, image.shape, targets, face, side_px / scale)
    crop = augment.cut(image, targets, corner, scale, side_px)
    return augment.flip(crop) if rng.random() < 0.5 else crop


def pointed(folder: DataFolder, name: str, split: str, cache: Path, progress: ProgressBar) -> LabelledFaces:
    """The faces of a set's ``split`` with 68 points. Raises DataError where there are none."""
    found = read_faces(folder, name, split, POINTS, cache, progress)
    pictures, boxes, points = zip(*found.rows, strict=True)
    return LabelledFaces(
        found.pixels, np.array(pictures, np.int64), np.stack(boxes), np.stack(points), Labels.unknown(len(pictures))
    )


def apparent(
    folder: DataFolder, name: str, split: str, cache: Path, progress: ProgressBar, net: TFN, kept_in: Path
) -> LabelledFaces:
    """The faces of a set's ``split`` with an apparent age, gender or ethnicity, one a picture, in the boxes that the
    net's own dense stage gives them: at the annotated place, or at the middle where no source says one. A face that it
    does not find is left out. The boxes are kept in ``kept_in``, so that they are looked for once. Raises DataError
    where there are no faces."""
    # A set may be for no other measuring than this.
    pictures = folder.pictures(name, split) if folder.has_part(name, split) else []
    kept = [picture for picture in pictures if len(picture.faces) == 1 and is_labelled(picture.faces[0])]
    pixels = open_pixels(kept, cache, progress)
    place = kept_in / f"{name}-{split}"
    numbers, boxes = map(np.asarray, open_arrays(place, _FOUND)) if place.is_dir() else _NOTHING
    if not len(numbers):        # of nothing nothing is kept: a detector that is trained further may find them
        numbers, boxes = _looked_for(kept, pixels, name, progress, net)
        if len(numbers):
            write_arrays(place, dict(zip(_FOUND, (numbers, boxes), strict=True)))
    if not len(numbers):
        raise DataError(
            f"{folder.directory(name)}: the detector finds none of its {len(kept)} {split} faces with an apparent age, "
            "gender or ethnicity: train the detector first"
        )
    if len(numbers) < len(kept):
        _LOG.warning("%s, %s: of %d faces %d were found and are used", name, split, len(kept), len(numbers))
    labels = Labels.unknown(len(numbers))
    for at, i in enumerate(numbers.tolist()):
        face = kept[i].faces[0]
        years = years_of(face)
        if years is not None:
            labels.age[at] = years
        for known, names, values in (
            (gender_of(face), GENDERS, labels.gender), (ethnicity_of(face), ETHNICITIES, labels.ethnicity),
        ):
            if known in names:
                values[at] = names.index(known)
    return LabelledFaces(pixels, numbers, boxes, np.full((len(numbers), POINTS, 2), np.nan, np.float32), labels)


def _looked_for(
    pictures: Sequence[Picture], pixels: Pixels, name: str, progress: ProgressBar, net: TFN
) -> tuple[NDArray[np.int64], Floats]:
    """Of each face that the dense stage finds of pictures of one face, the picture's number (N,) and its box (N, 4)."""
    detectors: dict[int, Detector] = {}
    numbers, boxes = [], [np.zeros((0, 4), np.float32)]
    for i in progress(range(len(pictures)), f"faces of {name}", len(pictures)):
        side_px = min(_LARGEST_PX, max(pixels[i].shape[:2]) // _STEP_PX * _STEP_PX)
        size_px = max(_SMALLEST_PX, side_px)
        if size_px not in detectors:
            detectors[size_px] = network_detector(
                net, size_px=size_px, score=_SUBJECT_SCORE, nms_iou=_SUBJECT_NMS_IOU, threads=1
            )
        found = detectors[size_px](pixels[i])
        index = locate_labelled(pictures[i], pictures[i].faces[0], found)
        if index is not None:
            numbers.append(i)
            boxes.append(found.boxes[index][None])
    return np.array(numbers, np.int64), np.concatenate(boxes)


def is_labelled(face: Face) -> bool:
    """Whether anything of an apparent age, gender or ethnicity is known of a face."""
    return not face.ignore and any(each is not None for each in (years_of(face), gender_of(face), ethnicity_of(face)))
