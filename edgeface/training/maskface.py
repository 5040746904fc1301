"""MaskFace's two trainings, one after the other: the detector on whole pictures, then, with that frozen, the keypoint
head on regions of its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from edgeface.data.pixels import ProgressBar
from edgeface.data.sets import DataFolder, open_data
from edgeface.errors import DataError, OptionError, TrainingError
from edgeface.models.checkpoint import Checkpoint
from edgeface.models.maskface import POINTS, MaskFace
from edgeface.training.config import Config
from edgeface.training.keypoint_samples import Cutter, Drawing, KeypointSamples, PointedFaces, read_faces
from edgeface.training.keypoints import KeypointBatch, Keypoints, keypoint_trainer
from edgeface.training.loop import Trainer
from edgeface.training.parts import DETECTOR, Say, StagedRun, Training
from edgeface.training.state import RunDirectory

KEYPOINTS: Literal["keypoints"] = "keypoints"


class MaskFaceConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A detector's configuration, that of the ``keypoints``, and which of the ``parts`` are trained: a run of the
    keypoints alone begins with --start-from a MaskFace whose detector is trained."""

    keypoints: Keypoints
    parts: tuple[Literal["detector", "keypoints"], ...] = (DETECTOR, KEYPOINTS)


class MaskFaceTraining(StagedRun):
    """A run whose last part is the keypoint head; ``start`` is a MaskFace whose detector is trained. Raises OptionError
    and DataError for parts that cannot be trained, before any is."""

    config: MaskFaceConfig

    def __init__(
        self, config: MaskFaceConfig, data: Path, out: Path, cache: Path | None, made: Mapping[str, Any],
        progress: ProgressBar, detector: Callable[[Path], Training], start: Path | None,
    ) -> None:
        if not config.parts or len(set(config.parts)) < len(config.parts):
            raise OptionError("parts must be detector, keypoints, or both")
        if DETECTOR not in config.parts and start is None:
            raise OptionError("parts=[keypoints] needs --start-from, a MaskFace whose detector is trained")
        if KEYPOINTS in config.parts:
            _sets(open_data(data), config.keypoints.drawing)
        super().__init__(config, config.parts, data, out, cache, made, progress, detector, start)

    def _train_parts(self, path: Path, checkpoint: Checkpoint, show: Say) -> tuple[nn.Module, dict[str, Any]] | None:
        net, options = checkpoint.build(), checkpoint.options
        if not isinstance(net, MaskFace) or checkpoint.quantisation is not None:
            raise TrainingError(f"{path}: is no MaskFace in float: give --start-from one whose detector is trained")
        points = int(options.get("points", POINTS))

        def head(directory: RunDirectory) -> Trainer[KeypointBatch]:
            train, dev = self._samples(net, points, directory.path)
            return keypoint_trainer(net, points, train, dev, self.config.keypoints, directory)

        if KEYPOINTS in self.parts and not self._train_on(KEYPOINTS, show, head):
            return None
        return net, options

    def _samples(self, net: MaskFace, points: int, folder: Path) -> tuple[KeypointSamples, KeypointSamples | None]:
        """The regions to train on and to look at, cut once; no dev regions where no set has such a part."""
        drawing = self.config.keypoints.drawing
        places = folder / "train", folder / "dev"
        if not places[0].is_dir():
            data, cutter = open_data(self._data), Cutter(net, drawing)
            names = _sets(data, drawing)
            dev = self._dev_faces(data, names, points)
            if dev is not None:
                cutter.plain(dev, drawing.dev_faces, self._progress).write(places[1])
            sources = {
                name: read_faces(data, name, "train", points, self._cache, self._progress) for name in names
            }
            cutter.varied(sources, self._progress).write(places[0])
        return KeypointSamples.open(places[0]), KeypointSamples.open(places[1]) if places[1].is_dir() else None

    def _dev_faces(self, data: DataFolder, names: list[str], points: int) -> PointedFaces | None:
        for name in names:
            try:
                return read_faces(data, name, "dev", points, self._cache, self._progress)
            except DataError:
                continue
        return None


def _sets(data: DataFolder, drawing: Drawing) -> list[str]:
    """The sets that faces are drawn from; raises DataError where the folder has none of them."""
    names = [name for name in drawing.chosen(drawing.sets) if name in data.sets]
    if not names:
        raise DataError(f"{data.root}: has none of the sets {', '.join(drawing.sets)}: set keypoints.drawing.sets")
    return names
