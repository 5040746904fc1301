"""Looking at a detector while it trains: figures on dev parts, and the pictures of the set S (mos.txt, section 3.3)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.data.annotations import Picture
from edgeface.data.detection import SourceSet
from edgeface.data.pixels import read_pixels
from edgeface.data.sets import DataFolder
from edgeface.data.targets import Targets
from edgeface.evaluation.measure import measure
from edgeface.evaluation.report import Measures
from edgeface.faces import Faces
from edgeface.runtime.detector import Detector
from edgeface.runtime.nms import iou
from edgeface.torch_engine import network_detector
from edgeface.training.config import Config
from edgeface.training.probes import LookCost

AP_SCORE, NMS_IOU = 0.02, 0.4
# A face or a detection at the default threshold decides what counts as hard, not the tail of the score.
HARD_SCORE, HARD_IOU = 0.5, 0.5
# Smaller faces are missed by every light detector: they would put all pictures into S and so empty it of meaning.
HARD_FACE_PX = 10.0
# The face crops are about 290 px with a face of half that; twice their size would only cost time.
CROP_SIZE_PX = 256
_TRIED = 4

_LOG = logging.getLogger(__name__)


class DetectionProbe:
    """Evaluates on the dev parts of the sets that are for measuring, and tests training pictures for S."""

    def __init__(
        self, config: Config, folder: DataFolder, sources: Mapping[str, SourceSet], device: torch.device
    ) -> None:
        self.config = config
        self.sources = sources
        self.device = device
        parts = {name: _some(folder.dev_part(name), config.run.dev_pictures) for name in folder.sets}
        # Complete ones first, by whose detections the weights are chosen.
        ordered = sorted((name for name in parts if parts[name]), key=lambda name: not _are_scenes(parts[name]))
        self.parts = {name: parts[name] for name in ordered}
        self.rng = np.random.default_rng(config.run.seed)

    def foreseen(self, net: nn.Module, most_dev_s: float) -> LookCost:
        """As ``Probe``: from a few pictures of each part, the first of which is not counted."""
        a_picture_s: dict[str, float] = {}
        for name, pictures in self.parts.items():
            size_px, tried = self._size_px(pictures), _some(pictures, _TRIED)
            self._detect(net, tried[:1], size_px)
            began_s = time.monotonic()
            self._detect(net, tried[1:] or tried, size_px)
            a_picture_s[name] = (time.monotonic() - began_s) / max(1, len(tried) - 1)
        dev_s = sum(a_picture_s[name] * len(pictures) for name, pictures in self.parts.items())
        if dev_s > most_dev_s:
            share, counts = most_dev_s / dev_s, {name: len(pictures) for name, pictures in self.parts.items()}
            self.parts = {name: _some(parts, max(1, int(share * len(parts)))) for name, parts in self.parts.items()}
            told = ", ".join(f"{len(self.parts[name])} of {count} of {name}" for name, count in counts.items())
            _LOG.warning("run.budget_minutes is short: dev figures are of fewer pictures (%s)", told)
            dev_s = sum(a_picture_s[name] * len(pictures) for name, pictures in self.parts.items())
        scenes = sum(len(s.pictures) for s in self.sources.values() if s.complete)
        slowest_s = max(a_picture_s.values(), default=0.0)
        return LookCost(dev_s, slowest_s * min(self.config.feedback.pictures or scenes, scenes))

    def dev(self, net: nn.Module) -> dict[str, float]:
        """Figures of each set's dev part: ``ap_`` by subset or ``ap_all``, ``nme_percent``, ``pose_mae_deg``.

        Where two sets give the same figure, the later one's has the set's name before it. ``choose``, by which to pick
        weights: the mean AP of the sets that have one, else of the points' and the pose's distance from perfect.
        """
        figures: dict[str, float] = {}
        aps: list[float] = []
        for name, pictures in self.parts.items():
            own = _figures(measure(pictures, self._detect(net, pictures, self._size_px(pictures))))
            found = [value for figure, value in own.items() if figure.startswith("ap_")]
            aps += [float(np.mean(found))] if found else []
            figures |= {figure if figure not in figures else f"{name}_{figure}": v for figure, v in own.items()}
        return {"choose": round(float(np.mean(aps)), 4) if aps else _nearness(figures), **figures}

    def hard(self, net: nn.Module, hard: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        """The set S anew: 1 for the pictures of each set that have a false or a missed box, or were not tested.

        With ``feedback.pictures`` so many are drawn from the complete sets each time, else all of them are tested;
        what is not tested now keeps the mark that it has in ``hard``.
        """
        scenes = [(name, i) for name, s in self.sources.items() if s.complete for i in range(len(s.pictures))]
        wanted = self.config.feedback.pictures or len(scenes)
        drawn = self.rng.permutation(len(scenes))[:wanted]
        marks = {name: mark.copy() for name, mark in hard.items()}
        detector = self._detector(net, self.config.run.dev_size_px, HARD_SCORE)
        for k in drawn:
            name, i = scenes[int(k)]
            source = self.sources[name]
            marks[name][i] = is_hard(detector(np.ascontiguousarray(source.pixels[i])), source.targets[i])
        return marks

    def _size_px(self, pictures: Sequence[Picture]) -> int:
        return self.config.run.dev_size_px if _are_scenes(pictures) else CROP_SIZE_PX

    def _detector(self, net: nn.Module, size_px: int, score: float) -> Detector:
        return network_detector(net, size_px=size_px, score=score, nms_iou=NMS_IOU, device=str(self.device))

    def _detect(self, net: nn.Module, pictures: Sequence[Picture], size_px: int) -> list[Faces]:
        detector = self._detector(net, size_px, AP_SCORE)
        return [detector(read_pixels(p)) for p in pictures]


def is_hard(found: Faces, targets: Targets) -> bool:
    """Whether a picture has a detection that matches no face, or a face that no detection matches (IoU 0.5).

    Detections on ignored regions count neither way, nor do faces under HARD_FACE_PX; in an incomplete picture only
    the missed faces count.
    """
    real = ~targets.ignore
    extent = targets.boxes[:, 2:] - targets.boxes[:, :2]
    counted = real & (np.sqrt(extent[:, 0] * extent[:, 1]) >= HARD_FACE_PX)
    overlap = iou(found.boxes, targets.boxes)                       # (found, faces)
    missed = bool((overlap[:, counted].max(0, initial=0) < HARD_IOU).any()) if len(found) else bool(counted.any())
    false = bool((overlap.max(1, initial=0) < HARD_IOU).any()) if targets.complete else False
    return missed or false


def _are_scenes(pictures: Sequence[Picture]) -> bool:
    """Whether every face of them is annotated, so that a false alarm can be told."""
    return all(picture.complete for picture in pictures)


def _figures(measures: Measures) -> dict[str, float]:
    figures: dict[str, float] = {}
    if measures.detection is not None:
        figures |= {f"ap_{name}": round(row.ap, 4) for name, row in measures.detection.ap.items()}
    if measures.landmarks is not None and measures.landmarks.nme_percent is not None:
        figures["nme_percent"] = round(measures.landmarks.nme_percent, 3)
    if measures.pose is not None and measures.pose.mean_deg is not None:
        figures["pose_mae_deg"] = round(measures.pose.mean_deg, 3)
    return figures


def _nearness(figures: Mapping[str, float]) -> float:
    """1 for perfect points and poses, falling with their errors; 0 where nothing was measured."""
    errors = [figures[name] / whole for name, whole in (("nme_percent", 100), ("pose_mae_deg", 90)) if name in figures]
    return round(1 / (1 + sum(errors)), 4) if errors else 0.0


def _some(pictures: list[Picture], count: int) -> list[Picture]:
    """``count`` pictures evenly spaced over the list, which is sorted by event or source; 0 means all."""
    if not count or count >= len(pictures):
        return pictures
    return [pictures[i] for i in np.linspace(0, len(pictures) - 1, count).round().astype(int)]
