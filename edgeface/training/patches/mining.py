"""The samples of MTCNN's three nets: windows drawn at random for P-Net, those that the earlier nets let through for the
later ones, and turned faces with landmarks for all (mtcnn.txt, section III.A)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.data.detection import SourceSet
from edgeface.data.pixels import ProgressBar
from edgeface.models.patch_export import MERGE_NMS_IOU
from edgeface.models.patch_nets import PatchNet
from edgeface.runtime.crops import crops, square_crops
from edgeface.training.patches.passing import patches_of, pnet_boxes, pnet_input, refined_boxes
from edgeface.training.patches.samples import LANDMARK, NEGATIVE, PART, SampleList
from edgeface.training.patches.windows import (
    Judged,
    Known,
    add_judged,
    judge,
    landmark_offsets,
    near_squares,
    random_squares,
    turned_landmarks,
    turned_patches,
)

Floats = NDArray[np.float32]

_FACES_A_PICTURE = 12       # that windows are drawn about: a crowd would be most of the samples
_SHIFT, _SCALE = 0.14, 0.22
_TURNED_ABOVE_PX = 24       # smaller faces are cut upright: turning them would only blur them


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many windows are drawn from a picture, and which faces count; ``mining`` is about what earlier nets find."""

    scenes: list[str]                   # sets whose pictures are annotated completely
    faces: list[str]                    # sets of single faces with landmarks
    min_face_px: float = 10.0           # smaller faces are neither faces nor background
    random_negatives: int = 40
    near_negatives: int = 4             # tries a face
    near_faces: int = 10                # tries a face, for positives and parts
    landmark_tries: int = 5             # windows a face in `faces`; a third of that in scenes
    min_landmarks_px: float = 16.0
    turn_deg: float = 15.0              # standard deviation of the angle that landmark faces are turned by
    mining_face_px: float = 14.0        # smallest face that the earlier nets look for
    mining_thresholds: tuple[float, float] = (0.3, 0.2)
    mined_windows: int = 200            # that P-Net lets through of a picture at most
    mined_negatives: int = 40           # of those a picture, half of them the best ones


def usable(source: SourceSet, sampling: Sampling) -> list[Known]:
    """The faces of each picture of a source, as they are trained on."""
    return [Known.of(targets, sampling.min_face_px) for targets in source.targets]


def random_samples(
    sources: Mapping[str, SourceSet], sampling: Sampling, size_px: int, rng: np.random.Generator, progress: ProgressBar
) -> SampleList:
    """P-Net's negatives, parts and positives."""
    out = SampleList(size_px)
    for i, source, known in _scenes(sources, sampling, progress, "drawing windows"):
        picture = source.pixels[i]
        height, width = picture.shape[:2]
        drawn = random_squares(rng, width, height, sampling.random_negatives, size_px)
        judged = judge(drawn, known)
        add_judged(out, picture, drawn, _only(judged, judged.kind == NEGATIVE), known, size_px)
        _add_near(out, picture, known, sampling, size_px, rng, negatives=True)
    return out


def _scenes(
    sources: Mapping[str, SourceSet], sampling: Sampling, progress: ProgressBar, label: str
) -> Iterator[tuple[int, SourceSet, Known]]:
    """Every picture of the scenes: its index, its source and its faces."""
    for name in sampling.scenes:
        if name in sources:
            source = sources[name]
            known = usable(source, sampling)
            for i in progress(range(len(source.pictures)), f"{label}, {name}", len(source.pictures)):
                yield i, source, known[i]


def _only(judged: Judged, keep: NDArray[np.bool_]) -> Judged:
    return Judged(np.where(keep, judged.kind, -1), judged.face, judged.overlap)


def _add_near(
    out: SampleList, picture: NDArray[np.uint8], known: Known, sampling: Sampling, size_px: int,
    rng: np.random.Generator, *, negatives: bool,
) -> None:
    """Windows about the faces: parts and positives from small moves, negatives from large ones."""
    chosen = rng.permutation(len(known.boxes))[:_FACES_A_PICTURE]
    if not len(chosen):
        return
    boxes = known.boxes[chosen]
    drawn = near_squares(rng, boxes, sampling.near_faces, _SHIFT, _SCALE)
    judged = judge(drawn, known)
    add_judged(out, picture, drawn, _only(judged, judged.kind >= PART), known, size_px)
    if negatives:
        drawn = near_squares(rng, boxes, sampling.near_negatives, 1.0, 0.7)
        judged = judge(drawn, known)
        add_judged(out, picture, drawn, _only(judged, judged.kind == NEGATIVE), known, size_px)


def add_landmark_faces(
    out: SampleList, sources: Mapping[str, SourceSet], sampling: Sampling, size_px: int, rng: np.random.Generator,
    progress: ProgressBar,
) -> None:
    """Add faces with landmarks, moved, scaled and turned, as samples of the kind LANDMARK."""
    for name, source in sources.items():
        tries = sampling.landmark_tries if name in sampling.faces else max(1, sampling.landmark_tries // 3)
        for i in progress(range(len(source.pictures)), f"landmarks, {name}", len(source.pictures)):
            targets = source.targets[i]
            sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]).max(1, initial=0)
            use = ~np.isnan(targets.landmarks).any((1, 2)) & (sides >= sampling.min_landmarks_px)
            if not use.any():
                continue
            squares = near_squares(rng, targets.boxes[use], tries, 0.12, 0.18)
            points = np.repeat(targets.landmarks[use], tries, 0)
            angles = rng.normal(0, sampling.turn_deg, len(squares)).clip(-45, 45).astype(np.float32)
            turned = squares[:, 2] >= _TURNED_ABOVE_PX
            picture = source.pixels[i]
            if (~turned).any():
                out.add(
                    crops(picture, squares[~turned], size_px), LANDMARK,
                    landmarks=landmark_offsets(squares[~turned], points[~turned]),
                )
            if turned.any():
                out.add(
                    turned_patches(picture, squares[turned], angles[turned], size_px), LANDMARK,
                    landmarks=turned_landmarks(squares[turned], angles[turned], points[turned]),
                )


@dataclass(frozen=True)
class Proposals:
    """What P-Net lets through of every picture of the scenes: boxes (n, 4) best first, by set and picture."""

    boxes: dict[str, list[Floats]]

    def state(self) -> dict[str, Any]:
        """As plain tensors, for a state file."""
        return {
            name: {
                "counts": torch.tensor([len(b) for b in each]),
                "boxes": torch.from_numpy(np.concatenate([np.empty((0, 4), np.float32), *each])),
            }
            for name, each in self.boxes.items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Proposals:
        """What ``state`` gave."""
        return cls({
            name: [part.numpy() for part in entry["boxes"].split(entry["counts"].tolist())]
            for name, entry in state.items()
        })


def propose(
    pnet: PatchNet, sources: Mapping[str, SourceSet], sampling: Sampling, progress: ProgressBar
) -> Proposals:
    """Run P-Net over every picture of the scenes."""
    found: dict[str, list[Floats]] = {name: [] for name in sampling.scenes if name in sources}
    pnet.eval()
    for i, source, _ in _scenes(sources, sampling, progress, "P-Net on"):
        canvas, x = pnet_input(source.pixels[i], sampling.mining_face_px)
        boxes = pnet_boxes(pnet, canvas, x, sampling.mining_thresholds[0], sampling.mined_windows)
        found[source.name].append(boxes)
    return Proposals(found)


def add_mined(
    out: SampleList, proposals: Proposals, sources: Mapping[str, SourceSet], sampling: Sampling, size_px: int,
    rng: np.random.Generator, progress: ProgressBar, rnet: PatchNet | None = None,
) -> None:
    """Add negatives, parts and positives: what P-Net, and ``rnet`` where there is one, let through; beside them windows
    about the faces, since of positives that is too few."""
    if rnet is not None:
        rnet.eval()
    for i, source, known in _scenes(sources, sampling, progress, "what passes"):
        picture, boxes = source.pixels[i], proposals.boxes[source.name][i][: sampling.mined_windows]
        squares = square_crops(boxes, 1.0)
        if rnet is not None and len(squares):
            patches = patches_of(picture, squares, rnet.architecture.size_px)
            boxes = refined_boxes(rnet, patches, squares, sampling.mining_thresholds[1], MERGE_NMS_IOU)
            squares = square_crops(boxes, 1.0)
        judged = judge(squares, known)
        negatives = np.nonzero(judged.kind == NEGATIVE)[0]      # best first
        best, rest = np.split(negatives, [sampling.mined_negatives // 2])
        chosen = np.concatenate((best, rng.permutation(rest)[: sampling.mined_negatives - len(best)]))
        keep = judged.kind >= PART
        keep[chosen] = True
        add_judged(out, picture, squares, _only(judged, keep), known, size_px)
        _add_near(out, picture, known, sampling, size_px, rng, negatives=False)
