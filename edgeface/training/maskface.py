"""MaskFace's two trainings, one after the other: the detector on whole pictures, then, with that frozen, the keypoint
head on regions of its features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import torch
from torch import nn

from edgeface.bundle import sha256_of
from edgeface.data.pixels import ProgressBar, cache_directory
from edgeface.data.sets import open_data
from edgeface.errors import DataError, OptionError, TrainingError
from edgeface.models.checkpoint import Checkpoint, load, save
from edgeface.models.maskface import POINTS, MaskFace
from edgeface.training.config import Config
from edgeface.training.keypoint_samples import Cutter, KeypointSamples, read_faces
from edgeface.training.keypoints import Keypoints, KeypointTrainer
from edgeface.training.state import STATE, RunDirectory

DETECTOR: Literal["detector"] = "detector"
KEYPOINTS: Literal["keypoints"] = "keypoints"
Say = Callable[[str], None]


class MaskFaceConfig(Config, frozen=True, forbid_unknown_fields=True):
    """A detector's configuration, that of the ``keypoints``, and which of the ``parts`` are trained: a run of the
    keypoints alone begins with --start-from a MaskFace whose detector is trained."""

    keypoints: Keypoints
    parts: tuple[Literal["detector", "keypoints"], ...] = (DETECTOR, KEYPOINTS)


class MaskFaceTraining:
    """A run in ``out``: its folder "detector" is that of ``detector``'s run, "keypoints" that of the head's.

    ``detector`` makes the detector's trainer when it is needed; ``start`` is the checkpoint that the head is trained
    for where the detector is not. Raises OptionError for parts that cannot be trained.
    """

    def __init__(
        self, config: MaskFaceConfig, data: Path, out: Path, cache: Path | None, made: Mapping[str, Any],
        progress: ProgressBar, detector: Callable[[Path], Any], start: Path | None,
    ) -> None:
        if not config.parts or len(set(config.parts)) < len(config.parts):
            raise OptionError("parts must be detector, keypoints, or both")
        if DETECTOR not in config.parts and start is None:
            raise OptionError("parts=[keypoints] needs --start-from, a MaskFace whose detector is trained")
        self.config, self.out, self._data = config, out, data
        self._cache, self._made, self._progress = cache or cache_directory(), dict(made), progress
        self._start = start
        self._detector = detector(out / DETECTOR) if DETECTOR in config.parts else None
        self._keypoints: KeypointTrainer | None = None
        self.leads = True if self._detector is None else self._detector.leads
        self.stop_requested = False
        self.figures: dict[str, Any] = {}

    def going_on(self) -> str | None:
        """As ``Training``."""
        if (self.out / KEYPOINTS / STATE).exists():
            return KEYPOINTS
        return None if self._detector is None else self._detector.going_on()

    def stop(self) -> None:
        """As ``Training``."""
        self.stop_requested = True
        if self._detector is not None:
            self._detector.stop()
        if self._keypoints is not None:
            self._keypoints.stop_requested = True

    @property
    def weights(self) -> Path:
        """As ``Training``."""
        return self.out / f"{self.config.model}.best.pt"

    def run(self, show: Say = lambda _line: None) -> None:
        """As ``Training``; raises CheckpointError too, for a detector that cannot be read."""
        started = self._start
        if self._detector is not None:
            self._detector.run(show)
            if self.stop_requested or not self.leads:
                return
            started = self._detector.weights
        assert started is not None
        checkpoint = load(started)
        net = checkpoint.build()
        if not isinstance(net, MaskFace) or checkpoint.quantisation is not None:
            raise TrainingError(f"{started}: is no MaskFace in float: give --start-from one whose detector is trained")
        if KEYPOINTS in self.config.parts and not self._head(net, checkpoint.options, show):
            return
        made = {**checkpoint.made, **self._made, "config": msgspec.to_builtins(self.config)}
        if self._detector is None:
            made["started_from"] = {"sha256": sha256_of(started), "made": checkpoint.made}
        self.figures = {**checkpoint.metrics, **self.figures}
        state = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
        save(self.weights, Checkpoint(
            self.config.model, checkpoint.options, state, self.figures, made, checkpoint.licence
        ))

    def _head(self, net: MaskFace, options: Mapping[str, Any], show: Say) -> bool:
        """Train the keypoint head of ``net``; False when ``stop`` ended that before."""
        if self.config.run.threads:
            torch.set_num_threads(self.config.run.threads)
        config, folder, points = self.config.keypoints, self.out / KEYPOINTS, int(options.get("points", POINTS))
        directory = RunDirectory(folder)
        directory.claim()
        try:
            for parameter in cast(nn.Module, net).parameters():
                parameter.requires_grad_(False)
            train, dev = self._samples(net, points, folder)
            for part in (net.keypoints, net.detail):
                if part is not None:
                    part.requires_grad_(True)
            self._keypoints = KeypointTrainer(net, points, train, dev, config, folder)
            if self.stop_requested or not self._keypoints.run(lambda line: show(f"{KEYPOINTS} {line}")):
                return False
        finally:
            directory.release()
        self.figures = dict(self._keypoints.figures)
        return True

    def _samples(self, net: MaskFace, points: int, folder: Path) -> tuple[KeypointSamples, KeypointSamples | None]:
        """The regions to train on and to look at, cut once; no dev regions where no set has such a part."""
        drawing = self.config.keypoints.drawing
        places = folder / "train", folder / "dev"
        if not places[0].is_dir():
            data, cutter = open_data(self._data), Cutter(net, drawing)
            names = [name for name, weight in drawing.sets.items() if weight > 0 and name in data.sets]
            if not names:
                raise DataError(
                    f"{self._data}: has none of the sets {', '.join(drawing.sets)}: set keypoints.drawing.sets"
                )
            dev = self._dev_faces(data, names, points)
            if dev is not None:
                cutter.plain(dev, drawing.dev_faces, self._progress).write(places[1])
            sources = {
                name: read_faces(data, name, "train", points, self._cache, self._progress) for name in names
            }
            cutter.varied(sources, self._progress).write(places[0])
        return KeypointSamples.open(places[0]), KeypointSamples.open(places[1]) if places[1].is_dir() else None

    def _dev_faces(self, data: Any, names: list[str], points: int) -> Any:
        for name in names:
            try:
                return read_faces(data, name, "dev", points, self._cache, self._progress)
            except DataError:
                continue
        return None

    def result(self) -> Iterator[str]:
        """As ``Training``."""
        if self.stop_requested:
            yield "stopped: the same command goes on"
            return
        figures = ", ".join(f"{key} {value:g}" for key, value in self.figures.items() if key != "choose")
        yield figures or "no dev part to measure on"
        yield f"weights: {self.weights}"
