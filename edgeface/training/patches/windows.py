"""Square windows round and beside faces, what kind of sample each is, and its patch (mtcnn.txt, section III.A)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.data.targets import Targets
from edgeface.runtime.crops import crops
from edgeface.runtime.nms import iou
from edgeface.runtime.preprocess import PADDING
from edgeface.training.patches.samples import NEGATIVE, PART, POSITIVE, SampleList

Floats = NDArray[np.float32]
Squares = NDArray[np.int64]

NEGATIVE_IOU, PART_IOU, POSITIVE_IOU = 0.3, 0.4, 0.65
# A window of which more lies in an ignored face than this is neither.
_IGNORED_SHARE = 0.3
# A patch that is turned is first brought down to this many times its size, so that turning it skips no pixels.
_TURNING_DETAIL = 2


@dataclass(frozen=True)
class Known:
    """A picture's faces as the cascade trains on them: those to find, with landmarks (n, 5, 2), NaN where unknown, and
    whether their box is regressed, and boxes (m, 4) that are neither face nor background."""

    boxes: Floats
    landmarks: Floats
    regress: NDArray[np.bool_]
    ignored: Floats

    @classmethod
    def of(cls, targets: Targets, min_face_px: float) -> Known:
        """Those of a picture; faces whose shorter side is below ``min_face_px`` are ignored."""
        keep = findable(targets, min_face_px)
        return cls(targets.boxes[keep], targets.landmarks[keep], targets.regress[keep], targets.boxes[~keep])


def findable(targets: Targets, min_face_px: float) -> NDArray[np.bool_]:
    """Which faces (N,) are to be found: those not ignored whose shorter side is at least ``min_face_px``."""
    sides = np.minimum(targets.boxes[:, 2] - targets.boxes[:, 0], targets.boxes[:, 3] - targets.boxes[:, 1])
    found: NDArray[np.bool_] = ~targets.ignore & (sides >= min_face_px)
    return found


def as_boxes(squares: Squares) -> Floats:
    """Squares (P, 3) of x, y, side as boxes (P, 4)."""
    x, y, side = squares.T
    return np.stack((x, y, x + side, y + side), 1).astype(np.float32)


def random_squares(rng: np.random.Generator, width: int, height: int, count: int, min_side: int) -> Squares:
    """Windows anywhere in a picture, their sides spread evenly on a logarithmic scale."""
    largest = max(min_side + 1, min(width, height))
    side = np.exp(rng.uniform(math.log(min_side), math.log(largest), count)).astype(np.int64)
    x = (rng.random(count) * np.maximum(1, width - side)).astype(np.int64)
    y = (rng.random(count) * np.maximum(1, height - side)).astype(np.int64)
    return np.stack((x, y, side), 1)


def near_squares(rng: np.random.Generator, boxes: Floats, each: int, shift: float, scale: float) -> Squares:
    """``each`` windows about each box: centres moved by up to ``shift`` of its longer side along each axis, sides by a
    factor of up to exp(``scale``) either way."""
    boxes = np.repeat(boxes, each, 0)
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + rng.uniform(-shift, shift, (len(boxes), 2)) * sides[:, None]
    side = np.maximum(4, np.rint(sides * np.exp(rng.uniform(-scale, scale, len(boxes))))).astype(np.int64)
    corner = np.rint(centres - side[:, None] / 2).astype(np.int64)
    return np.concatenate((corner, side[:, None]), 1)


@dataclass(frozen=True)
class Judged:
    """Windows by kind: ``kind`` (P,), -1 for those that are no sample; ``face`` (P,) the index of the face that they
    overlap most, and ``overlap`` (P,) by how much."""

    kind: NDArray[np.int64]
    face: NDArray[np.int64]
    overlap: Floats


def judge(squares: Squares, known: Known, *, negative: float = NEGATIVE_IOU, positive: float = POSITIVE_IOU) -> Judged:
    """What kind of sample each window is, by its IoU with the faces: below ``negative``, part above PART_IOU, positive
    from ``positive`` on. With ``positive`` at or below PART_IOU there are no parts."""
    return judge_boxes(as_boxes(squares), known, negative=negative, positive=positive)


def judge_boxes(boxes: Floats, known: Known, *, negative: float, positive: float) -> Judged:
    """``judge`` of boxes (P, 4) that need not be square."""
    n = len(boxes)
    if len(known.boxes):
        overlaps = iou(boxes, known.boxes)
        face, overlap = overlaps.argmax(1), overlaps.max(1).astype(np.float32)
    else:
        face, overlap = np.zeros(n, np.int64), np.zeros(n, np.float32)
    kind = np.full(n, -1, np.int64)
    kind[overlap < negative] = NEGATIVE
    kind[overlap >= PART_IOU] = PART
    kind[overlap >= positive] = POSITIVE
    if len(known.ignored) and n:
        kind[(kind == NEGATIVE) & (_inside_share(boxes, known.ignored) > _IGNORED_SHARE)] = -1
    return Judged(kind, face, overlap)


def _inside_share(boxes: Floats, others: Floats) -> Floats:
    """The larger of: the share of each box (P,) that lies in one of ``others``, and the share of one of these in it."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), 2)
    own = np.prod(boxes[:, 2:] - boxes[:, :2], 1)[:, None]
    theirs = np.prod(others[:, 2:] - others[:, :2], 1)[None, :]
    share: Floats = np.maximum(shared / own, 0.5 * shared / np.maximum(theirs, 1)).max(1).astype(np.float32)
    return share


def box_offsets(squares: Squares, boxes: Floats) -> Floats:
    """The offsets (P, 4) of ``boxes`` from their windows, as ``PatchOutput.box``."""
    offsets: Floats = ((boxes - as_boxes(squares)) / squares[:, 2:]).astype(np.float32)
    return offsets


def landmark_offsets(squares: Squares, landmarks: Floats) -> Floats:
    """The places (P, 10) of ``landmarks`` (P, 5, 2) in their windows, as ``PatchOutput.landmarks``."""
    places = (landmarks - squares[:, None, :2]) / squares[:, None, 2:] - 0.5
    return places.reshape(-1, 10).astype(np.float32)


def add_judged(
    out: SampleList, picture: NDArray[np.uint8], squares: Squares, judged: Judged, known: Known, size_px: int,
    labels: Floats | None = None,
) -> None:
    """Cut the windows that are samples out of ``picture`` and add them, with boxes and landmarks where these are known,
    and with ``labels`` (n, L) of the known faces where there are some.
    """
    use = judged.kind >= 0
    squares, kind, face = squares[use], judged.kind[use], judged.face[use]
    if not len(squares):
        return
    box = np.full((len(squares), 4), np.nan, np.float32)
    landmarks = np.full((len(squares), 10), np.nan, np.float32)
    of_faces = None if labels is None else np.full((len(squares), labels.shape[1]), np.nan, np.float32)
    faces = np.nonzero(kind != NEGATIVE)[0]
    if len(faces):
        box[faces] = box_offsets(squares[faces], known.boxes[face[faces]])
        box[faces[~known.regress[face[faces]]]] = np.nan
        landmarks[faces] = landmark_offsets(squares[faces], known.landmarks[face[faces]])
        landmarks[faces[kind[faces] == PART]] = np.nan
        if of_faces is not None and labels is not None:
            of_faces[faces] = labels[face[faces]]
    out.add(crops(picture, squares, size_px), kind.astype(np.uint8), box, landmarks, of_faces)


def turned_patches(
    picture: NDArray[np.uint8], squares: Squares, angles_deg: Floats, size_px: int
) -> NDArray[np.uint8]:
    """Patches (P, size_px, size_px, 3) of windows that are turned clockwise about their centres by ``angles_deg`` (P,).

    A point at p from a window's centre, in the picture, lies at R(-angle) p in its patch.
    """
    out = np.empty((len(squares), size_px, size_px, 3), np.uint8)
    detail = size_px * _TURNING_DETAIL
    for patch, (x, y, side), angle in zip(out, squares.tolist(), angles_deg.tolist(), strict=True):
        reach = math.ceil(side * 0.71) + 2
        centre_x, centre_y = x + side / 2, y + side / 2
        left, top = max(0, int(centre_x) - reach), max(0, int(centre_y) - reach)
        right, bottom = min(picture.shape[1], int(centre_x) + reach), min(picture.shape[0], int(centre_y) + reach)
        if right <= left or bottom <= top:
            patch[...] = PADDING
            continue
        region = picture[top:bottom, left:right]
        shrink = max(1, side // detail)
        if shrink > 1:
            small = max(1, (right - left) // shrink), max(1, (bottom - top) // shrink)
            region = cv2.resize(region, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        scale_x, scale_y = region.shape[1] / (right - left), region.shape[0] / (bottom - top)
        # From the patch's pixels, whose centres lie at + 1/2, to the region's.
        cos, sin, step = math.cos(math.radians(angle)), math.sin(math.radians(angle)), side / size_px
        half = size_px / 2 - 0.5
        matrix = np.array([
            [cos * step * scale_x, -sin * step * scale_x, 0.0], [sin * step * scale_y, cos * step * scale_y, 0.0]
        ])
        middle = np.array([(centre_x - left) * scale_x - 0.5, (centre_y - top) * scale_y - 0.5])
        matrix[:, 2] = middle - matrix[:, :2] @ np.array([half, half])
        cv2.warpAffine(
            region, matrix, (size_px, size_px), patch, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_CONSTANT,
            (PADDING,) * 3,
        )
    return out


def turned_landmarks(squares: Squares, angles_deg: Floats, landmarks: Floats) -> Floats:
    """The places (P, 10) of ``landmarks`` (P, 5, 2) in the patches of ``turned_patches``."""
    angle = np.radians(angles_deg.astype(np.float64))[:, None]
    centre = squares[:, None, :2] + squares[:, None, 2:] / 2
    x, y = np.moveaxis((landmarks - centre) / squares[:, None, 2:], 2, 0)
    places = np.stack((np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y), 2)
    turned: Floats = places.reshape(-1, 10).astype(np.float32)
    return turned
