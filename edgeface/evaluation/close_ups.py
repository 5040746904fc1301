"""Faces that fill the frame: made from annotated faces, always the same ones, and whether each gets exactly one box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import ANNOTATIONS, Face, Picture
from edgeface.data.targets import face_box
from edgeface.errors import DataError
from edgeface.faces import Faces
from edgeface.images import read_image
from edgeface.runtime.nms import iou

SHARES = (0.5, 0.7, 0.9, 1.2)
PICTURES = 240
FRAME_PX = (640, 480)
SCORE = 0.5
IOU_FOUND = 0.5
# Where in a crop of one face its box is, when nobody annotated it: the median of MHCNN's boxes on 930 such crops.
SUBJECT = (0.10, -0.05, 0.90, 0.97)
# Of the frame's width and height: of a smaller picture more would be its own repeated border than the picture itself.
_LEAST_FILLED = (0.6, 0.8)
# The face is off the frame's middle by at most so much of its sides.
_OFF_CENTRE = (0.06, 0.03)

Image = NDArray[np.uint8]
Box = NDArray[np.float32]


@dataclass(frozen=True)
class CloseUp:
    """A face shown so that it takes ``share`` of a frame's height: its picture times ``scale``, and the pixel of that
    at the frame's upper left corner, ``left`` and ``top``, which may be outside. ``box`` is the face in the frame.
    """

    source: Path
    share: float
    scale: float
    left: int
    top: int
    box: Box

    @property
    def name(self) -> Path:
        """Where it would lie, were it a file: its source with the share."""
        return self.source.with_name(f"{self.source.stem} at {100 * self.share:.0f} %{self.source.suffix}")

    def draw(self) -> Image:
        """The frame, uint8 (480, 640, 3) BGR; beyond the picture its border is repeated. Raises InputError as
        ``read_image``."""
        image = read_image(self.source)
        size = [max(1, round(side * self.scale)) for side in image.shape[1::-1]]
        enlarged = cv2.resize(image, size, interpolation=cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC)
        columns = np.clip(np.arange(FRAME_PX[0]) + self.left, 0, size[0] - 1)
        rows = np.clip(np.arange(FRAME_PX[1]) + self.top, 0, size[1] - 1)
        return np.ascontiguousarray(enlarged[rows[:, None], columns], np.uint8)


@dataclass(frozen=True)
class CloseUpFigures:
    """Of ``pictures`` close-ups the shares (0..1) with exactly one detection, with several and with none, and
    ``recall``: those whose face is found at all, at an IoU of 0.5 inside the frame."""

    pictures: int
    one: float
    several: float
    none: float
    recall: float


@dataclass(frozen=True)
class CloseUpReport:
    """``overall`` and ``by_share``, in percent of the frame's height, are at ``score``; ``at_default`` is over all at
    the score from which the model counts a face by itself. The second face of some pictures is a detection as well.
    """

    score: float
    overall: CloseUpFigures
    by_share: Mapping[str, CloseUpFigures]
    default_score: float
    at_default: CloseUpFigures


def close_ups(sets: Sequence[tuple[Path, Sequence[Picture]]], count: int = PICTURES) -> list[CloseUp]:
    """``count`` close-ups of the pictures of one face in ``sets`` (folder, pictures), as many at each of SHARES.

    A picture serves at a share where it fills most of the frame; the sets take turns, and each gives pictures from all
    over it. The same sets give the same close-ups. Raises DataError where no picture serves at some share.
    """
    made: list[CloseUp] = []
    per_share = -(-count // len(SHARES))
    for number, share in enumerate(SHARES):
        queues = [[c for p in pictures if (c := _close_up(p, share)) is not None] for _, pictures in sets]
        queues = [_from_all_over(queue, per_share, number) for queue in queues if queue]
        if not queues:
            names = ", ".join(str(folder / ANNOTATIONS) for folder, _ in sets)
            raise DataError(
                f"{names}: no picture of one face can show it at {100 * share:.0f} % of a frame's height: give a set "
                "of crops of single faces"
            )
        turns = [queue[i] for i in range(per_share) for queue in queues if i < len(queue)]
        made += turns[:per_share]
    return made[:count]


def as_picture(close_up: CloseUp, split: str) -> Picture:
    """The close-up as an annotated picture, of which only the one face is known."""
    return Picture(close_up.name, *FRAME_PX, split, False, (Face(box=close_up.box),))


def evaluate_close_ups(
    shown: Sequence[CloseUp], detections: Sequence[Faces], default_score: float
) -> CloseUpReport:
    """The report of ``detections``, one ``Faces`` a close-up. Raises ValueError when there are none."""
    if not shown:
        raise ValueError("evaluate_close_ups needs at least one close-up")
    pairs = list(zip(shown, detections, strict=True))
    by_share = {}
    for share in SHARES:
        chosen = [pair for pair in pairs if pair[0].share == share]
        if chosen:
            by_share[f"{100 * share:.0f}"] = _figures(chosen, SCORE)
    return CloseUpReport(SCORE, _figures(pairs, SCORE), by_share, default_score, _figures(pairs, default_score))


def _figures(pairs: Sequence[tuple[CloseUp, Faces]], score: float) -> CloseUpFigures:
    counts, found = [], []
    for close_up, faces in pairs:
        boxes = faces.boxes[faces.scores >= np.float32(score)]
        counts.append(len(boxes))
        overlap = iou(_inside(boxes), _inside(close_up.box[None]))
        found.append(bool((overlap >= IOU_FOUND).any()))
    number = np.array(counts)
    return CloseUpFigures(
        len(pairs), float((number == 1).mean()), float((number > 1).mean()), float((number == 0).mean()),
        float(np.mean(found)),
    )


def _inside(boxes: Box) -> Box:
    """The parts of boxes (N, 4) inside the frame: how far a face goes on outside it, nobody can see."""
    return np.clip(boxes, 0, np.array([*FRAME_PX, *FRAME_PX], np.float32))


def _close_up(picture: Picture, share: float) -> CloseUp | None:
    """The picture's face at a share of the frame's height; None where it is not one face or fills too little."""
    if len(picture.faces) != 1 or picture.faces[0].ignore:
        return None
    box = face_box(picture.faces[0])
    if box is None:
        if picture.complete:
            return None
        box = np.array(SUBJECT, np.float32) * np.array([picture.width, picture.height] * 2, np.float32)
    frame, filled = np.array(FRAME_PX), np.array([picture.width, picture.height])
    scale = share * FRAME_PX[1] / float(box[3] - box[1])
    if (filled * scale < np.array(_LEAST_FILLED) * frame).any():
        return None
    # Seeded by the name, so that a set that grows leaves the others' close-ups as they are.
    rng = np.random.default_rng(list(picture.path.name.encode()))
    off = rng.uniform(-1, 1, 2) * _OFF_CENTRE * frame
    left, top = np.round((box[:2] + box[2:]) / 2 * scale - frame / 2 + off).astype(int).tolist()
    placed = (box * scale - np.array([left, top, left, top])).astype(np.float32)
    return CloseUp(picture.path, share, scale, left, top, placed)


def _from_all_over(queue: list[CloseUp], count: int, start: int) -> list[CloseUp]:
    """At most ``count`` of a queue at even distances; ``start`` moves them, so that each share has other faces."""
    if count >= len(queue):
        return queue
    step = len(queue) / count
    return [queue[int(i * step + start * step / len(SHARES)) % len(queue)] for i in range(count)]
