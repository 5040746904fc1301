"""Augmentation of one training crop: where it is cut, how it is coloured and blurred, and faces pasted into it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.data.targets import Targets, joined

PAD_VALUE = 128
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Crop:
    """An augmented picture, uint8 (H, W, 3) BGR, and its faces in its pixels."""

    image: Image
    targets: Targets


def sides(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square root of each box's area, (N, 4) -> (N,), what anchors are compared with."""
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    side: NDArray[np.float32] = np.sqrt(extent[:, 0] * extent[:, 1]).astype(np.float32)
    return side


def choose_scale(
    rng: np.random.Generator,
    targets: Targets,
    canvas_px: int,
    native: float,
    smallest_px: float,
    largest: float,
    scale_range: tuple[float, float],
) -> tuple[float, int | None]:
    """Scale of a crop and the face that it must contain.

    With probability ``native`` the scale is near 1, as pictures come at run time; else a face is brought to a size
    drawn evenly over the octaves from ``smallest_px`` to ``largest`` of the canvas (data-anchor sampling). Scales stay
    within ``scale_range``.
    """
    real = np.flatnonzero(~targets.ignore)
    face = int(rng.choice(real)) if len(real) else None
    if face is None or rng.random() < native:
        scale = float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))
    else:
        goal_px = float(np.exp(rng.uniform(np.log(smallest_px), np.log(largest * canvas_px))))
        scale = goal_px / max(1.0, float(sides(targets.boxes[face : face + 1])[0]))
    return float(np.clip(scale, *scale_range)), face


def crop_window(
    rng: np.random.Generator, shape: tuple[int, ...], targets: Targets, face: int | None, window_px: float
) -> tuple[float, float]:
    """Top left corner of a square window of ``window_px`` source pixels that holds the chosen face's centre."""
    corner = []
    for axis, length in ((0, shape[1]), (1, shape[0])):
        low, high = 0.0, length - window_px
        if low > high:              # the window is larger than the picture: the picture lies anywhere in it
            low, high = high, low
        elif face is not None:
            centre = float(targets.boxes[face, axis] + targets.boxes[face, axis + 2]) / 2
            half = float(targets.boxes[face, axis + 2] - targets.boxes[face, axis]) / 2
            margin = min(half, 0.4 * window_px)
            low = max(low, min(centre + margin - window_px, high))
            high = max(low, min(high, centre - margin))
        corner.append(float(rng.uniform(low, high)))
    return corner[0], corner[1]


def cut(image: Image, targets: Targets, corner: tuple[float, float], scale: float, canvas_px: int) -> Crop:
    """Scale a window of the picture onto a square canvas; what lies outside the picture is PAD_VALUE.

    A face whose centre is outside the canvas becomes ``ignore`` as far as it shows, and is dropped where it does not.
    """
    window = canvas_px / scale
    x0, y0 = round(corner[0]), round(corner[1])
    x1, y1 = round(x0 + window), round(y0 + window)
    sx0, sy0, sx1, sy1 = max(x0, 0), max(y0, 0), min(x1, image.shape[1]), min(y1, image.shape[0])
    canvas = np.full((canvas_px, canvas_px, 3), PAD_VALUE, np.uint8)
    if sx1 > sx0 and sy1 > sy0:
        left, top = round((sx0 - x0) * scale), round((sy0 - y0) * scale)
        width = min(max(1, round((sx1 - sx0) * scale)), canvas_px - left)
        height = min(max(1, round((sy1 - sy0) * scale)), canvas_px - top)
        if width > 0 and height > 0:
            method = cv2.INTER_AREA if scale < 0.75 else cv2.INTER_LINEAR
            canvas[top : top + height, left : left + width] = cv2.resize(
                image[sy0:sy1, sx0:sx1], (width, height), interpolation=method
            )
    return Crop(canvas, _inside(targets.moved(scale, -x0 * scale, -y0 * scale), canvas_px))


def _inside(targets: Targets, canvas_px: int) -> Targets:
    boxes = targets.boxes
    clipped = boxes.clip(0, canvas_px)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    centred = ((centre > 0) & (centre < canvas_px)).all(1)
    shown = ((clipped[:, 2:] - clipped[:, :2]) > 1).all(1)
    ignore = targets.ignore | ~centred
    boxes = np.where(ignore[:, None], clipped, boxes)
    moved = Targets(boxes, targets.landmarks, targets.pose, ignore, targets.regress, targets.complete)
    return moved.select(shown)


def flip(crop: Crop) -> Crop:
    """The crop mirrored left to right, its faces with it."""
    return Crop(np.ascontiguousarray(crop.image[:, ::-1]), crop.targets.flipped(crop.image.shape[1]))


def turn(crop: Crop, angle_deg: float) -> Crop:
    """The crop turned clockwise about its centre, its faces with it; what comes in from outside is PAD_VALUE."""
    side = crop.image.shape[0]
    # Pixel centres lie at +0.5 in the faces' coordinates, and at whole numbers in OpenCV's.
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -angle_deg, 1.0)
    image = cv2.warpAffine(
        crop.image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
        borderValue=(PAD_VALUE,) * 3,
    ).astype(np.uint8, copy=False)
    return Crop(image, _inside(crop.targets.turned(angle_deg, (side / 2, side / 2)), side))


def colour(rng: np.random.Generator, image: Image, strength: float) -> Image:
    """Random contrast, brightness, saturation, channel gains (white balance) and, one in twenty, grey."""
    grey = rng.random() < 0.05
    contrast, gains = 1 + strength * rng.uniform(-1, 1), 1 + 0.25 * strength * rng.uniform(-1, 1, 3)
    shift, saturation = 128 * strength * rng.uniform(-1, 1), 0.0 if grey else 1 + strength * rng.uniform(-1, 1)
    # One 3x4 affine map of the colours: luma carries the saturation, the diagonal gains, contrast and shift the rest.
    luma = np.array([0.114, 0.587, 0.299])
    matrix = (saturation * np.eye(3) + (1 - saturation) * luma[None, :]) * gains[:, None] * contrast
    offset = np.full(3, 128 * (1 - contrast) + shift)
    changed: Image = cv2.transform(image, np.column_stack((matrix, offset))).astype(np.uint8, copy=False)
    return changed


def degrade(rng: np.random.Generator, image: Image) -> Image:
    """Blur, sensor noise or JPEG blocks, one of them at most."""
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6))), np.uint8)
    if kind == 1:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape).astype(np.float32)
        return np.asarray(np.clip(image + noise, 0, 255), np.uint8)
    _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


def paste(rng: np.random.Generator, crop: Crop, face_image: Image, face: Targets, goal_px: float) -> Crop:
    """Paste one face into a crop at a place that touches no other face; unchanged where none is found.

    The face, an ellipse a little larger than its box with a soft edge, is scaled to ``goal_px`` (side of its box) and
    its mean brightness drawn half way to that of the place.
    """
    canvas_px = crop.image.shape[0]
    scale = goal_px / max(1.0, float(sides(face.boxes)[0]))
    box = face.boxes[0]
    grow = 0.12 * (box[2:] - box[:2])
    x0, y0 = np.maximum(np.floor(box[:2] - grow), 0).astype(int)
    x1 = int(min(np.ceil(box[2] + grow[0]), face_image.shape[1]))
    y1 = int(min(np.ceil(box[3] + grow[1]), face_image.shape[0]))
    width, height = round((x1 - x0) * scale), round((y1 - y0) * scale)
    if min(width, height) < 4 or max(width, height) >= canvas_px:
        return crop
    place = _free_place(rng, crop.targets.boxes, width, height, canvas_px)
    if place is None:
        return crop
    left, top = place
    patch = cv2.resize(face_image[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    mask = np.zeros((height, width), np.float32)
    cv2.ellipse(mask, (width // 2, height // 2), (max(1, width // 2 - 1), max(1, height // 2 - 1)), 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), max(0.6, 0.05 * min(width, height)))[..., None]
    image = crop.image.copy()
    under = image[top : top + height, left : left + width].astype(np.float32)
    patch += 0.5 * (under.mean() - patch.mean())
    image[top : top + height, left : left + width] = np.clip(under + mask * (patch - under), 0, 255).astype(np.uint8)
    moved = face.moved(scale, left - x0 * scale, top - y0 * scale)
    added = Targets(moved.boxes, moved.landmarks, moved.pose, moved.ignore, moved.regress, crop.targets.complete)
    return Crop(image, joined([crop.targets, added]))


def _free_place(
    rng: np.random.Generator, boxes: NDArray[np.float32], width: int, height: int, canvas_px: int
) -> tuple[int, int] | None:
    for _ in range(8):
        left, top = int(rng.integers(0, canvas_px - width)), int(rng.integers(0, canvas_px - height))
        clear = (
            (boxes[:, 0] >= left + width) | (boxes[:, 2] <= left) | (boxes[:, 1] >= top + height) | (boxes[:, 3] <= top)
        )
        if clear.all():
            return left, top
    return None


def stitch(quarters: list[Crop]) -> Crop:
    """Four crops of half the size as one canvas (mos.txt, section 3.3, fig. 2b)."""
    half = quarters[0].image.shape[0]
    rows = [np.concatenate([quarters[i].image, quarters[i + 1].image], 1) for i in (0, 2)]
    moved = [q.targets.moved(1.0, half * (i % 2), half * (i // 2)) for i, q in enumerate(quarters)]
    # A quarter of incomplete annotation cannot give background, and completeness is said for the whole canvas.
    return Crop(np.concatenate(rows, 0), joined(moved))
