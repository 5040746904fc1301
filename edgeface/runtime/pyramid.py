"""A picture at many sizes on one canvas, so that one inference of a net with a small field finds faces of every size,
and what its windows say (``bundle.PyramidStage``; mtcnn.txt, section II.A).

A level shows faces of one size at the net's ``cell_px``: of the smallest size ``min_face_px``, and of each
1 / ``factor`` of the one before, as long as a whole window fits. It is w x h pixels, w = rint(W * cell_px / face), made
of the W x H picture by steps 2, 3 and 5 of ``preprocess.py`` with boxes of max(1, W // w) x max(1, H // h) pixels; of
NV12 and YUYV, chroma has boxes of max(1, its width // w) x max(1, its height // h). Levels lie close together, at
multiples of ``stride``, among 128s; windows that reach over a level's edge do not count, so that no gap is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import OptionError
from edgeface.frames import Frame, Picture, as_frame
from edgeface.runtime.anchors import Anchors, keep_anchors, keep_anchors_reference
from edgeface.runtime.engines.registry import RawMap
from edgeface.runtime.kernels import library, pictures
from edgeface.runtime.kernels.pictures import Normal, Output
from edgeface.runtime.nms import nms, nms_reference
from edgeface.runtime.preprocess import PADDING, as_output
from edgeface.runtime.resampling import Bytes, Resample, Target, bgr_of, resample, resample_reference

MAX_AREA_PX = 1 << 26       # of a canvas: 0.8 GB as float32 planes
MAX_LEVELS = 128
_BESIDE = 12                # levels whose widths are tried for the canvas's
_ONE_PADDING = np.full((1, 1, 3), PADDING, np.uint8)
_CROWD = 8                  # windows that are looked at for each that may go on

Floats = NDArray[np.float32]
_Keep = Callable[[list[RawMap], float, int], Anchors]
_Suppress = Callable[[Floats, Floats, float], NDArray[np.int64]]
OnCut = Callable[[int, int], None]


def _unsaid(_found: int, _limit: int) -> None:
    """Where nobody asks what is given up."""


@dataclass(frozen=True)
class Level:
    """One size of the picture: where its ``w`` x ``h`` pixels lie on the canvas, how many of them a pixel of the
    picture is on each axis, and the sides of the boxes that they were averaged from."""

    x: int
    y: int
    w: int
    h: int
    scale_x: float
    scale_y: float
    box_w: int
    box_h: int


@dataclass(frozen=True)
class Canvas:
    """All levels of a picture of ``picture_w`` x ``picture_h``, in ``width`` x ``height`` pixels, for a net that looks
    at ``cell_px`` every ``stride`` pixels. A picture that no window fits into has no levels, and a canvas of one cell.
    """

    width: int
    height: int
    levels: tuple[Level, ...]
    cell_px: int
    stride: int
    picture_w: int
    picture_h: int


@lru_cache(maxsize=64)
def plan(width: int, height: int, cell_px: int, stride: int, factor: float, min_face_px: float) -> Canvas:
    """The canvas for pictures of ``width`` x ``height``; arguments as in ``bundle.PyramidStage``.

    Raises OptionError when a number cannot work, and when the levels would have more than 2^26 pixels or be more than
    128.
    """
    if min(width, height, cell_px, stride) < 1 or not (0 < factor < 1 and 0 < min_face_px < float("inf")):
        raise OptionError(
            f"no image pyramid of {width} x {height} pixels, windows of {cell_px} every {stride}, factor {factor} and "
            f"faces from {min_face_px} px: give sizes above 0 and a factor between 0 and 1"
        )
    sizes = _sizes(width, height, cell_px, factor, min_face_px)
    canvas_w, canvas_h, corners = _packed(sizes, stride)
    levels = []
    for (w, h), (x, y) in zip(sizes, corners, strict=True):
        box_w, box_h = max(1, width // w), max(1, height // h)
        scales = w / (width // box_w * box_w), h / (height // box_h * box_h)
        levels.append(Level(x, y, w, h, *scales, box_w, box_h))
    return Canvas(
        max(canvas_w, cell_px), max(canvas_h, cell_px), tuple(levels), cell_px, stride, width, height
    )


def canvas_planes(
    picture: Picture, plan: Canvas, *, mean: float, scale: float, out: Floats | None = None
) -> NDArray[np.float32]:
    """The canvas of a picture, uint8 (H, W, 3) BGR or a Frame, as contiguous float32 (3, plan.height, plan.width):
    planes B, G, R of (value - mean) * scale, each step rounded to float32.

    ``out`` is an array that may be overwritten; it is used when it is contiguous float32 of the right shape. Raises
    InputError for another picture, and ValueError for one of another size than the plan's.
    """
    return _fitted(picture, plan, "planes", out, Normal(mean, scale))


def canvas_signed(picture: Picture, plan: Canvas, *, out: NDArray[np.int8] | None = None) -> NDArray[np.int8]:
    """The same as contiguous int8 (plan.height, plan.width, 3), value - 128 in B, G, R. The rest as ``canvas_planes``.
    """
    return _fitted(picture, plan, "signed", out, Normal())


def canvas_reference(picture: Picture, plan: Canvas) -> Bytes:
    """The canvas in plain integer NumPy, slow, as uint8 (plan.height, plan.width, 3) BGR: what ``canvas_planes`` and
    ``canvas_signed`` are held against, after ``normalise`` or ``signed``. Errors as theirs."""
    return _canvas(_planned(picture, plan), plan, resample_reference)


def windows(
    score_map: RawMap, box_map: RawMap, plan: Canvas, threshold_logit: float, limit: int, nms_iou: float,
    merge_iou: float, on_cut: OnCut = _unsaid,
) -> tuple[Floats, Floats]:
    """The faces that a net's windows name: boxes (n, 4), x1 y1 x2 y2 in pixels of the picture, and logits (n,), best
    first.

    The maps are the net's on the canvas, (1, h, w) logits and (4, h, w) offsets of the face's edges from the window's
    in windows, w = (plan.width - cell_px) // stride + 1. Of the windows that lie wholly in a level and reach the
    threshold, the 8 * ``limit`` best are looked at. They are suppressed at ``nms_iou`` within each level, of which at
    most ``limit`` go on, and at ``merge_iou`` among all; n is at most ``limit`` (1 up). Wherever more are there than go
    on, ``on_cut`` gets both numbers, of the former at least how many. Raises FloatingPointError when a score is not a
    number or a box is not finite, and ValueError when a map has not the canvas's shape.
    """
    return _windows(score_map, box_map, plan, threshold_logit, limit, nms_iou, merge_iou, keep_anchors, nms, on_cut)


def windows_reference(
    score_map: RawMap, box_map: RawMap, plan: Canvas, threshold_logit: float, limit: int, nms_iou: float,
    merge_iou: float,
) -> tuple[Floats, Floats]:
    """``windows`` in NumPy."""
    return _windows(
        score_map, box_map, plan, threshold_logit, limit, nms_iou, merge_iou, keep_anchors_reference, nms_reference
    )


def _sizes(width: int, height: int, cell_px: int, factor: float, min_face_px: float) -> list[tuple[int, int]]:
    """Of the levels, the largest first. Raises OptionError when they are too many or too large."""
    sizes: list[tuple[int, int]] = []
    scale, area = cell_px / min_face_px, 0.0
    while True:
        area += width * scale * height * scale
        if area > MAX_AREA_PX or len(sizes) > MAX_LEVELS:
            raise OptionError(
                f"faces from {min_face_px:g} px in {width} x {height} pixels, in steps of {factor:g}, need an image "
                f"pyramid of more than {MAX_AREA_PX} pixels or {MAX_LEVELS} levels: choose a larger smallest face"
            )
        w, h = round(width * scale), round(height * scale)
        if min(w, h) < cell_px:
            return sizes
        sizes.append((w, h))
        scale *= factor


def _packed(sizes: list[tuple[int, int]], stride: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Width and height of a small canvas, and corners of the levels on it.

    Tried are the widths of the largest level alone and beside one or two others, which bound what lies beside it.
    """
    if not sizes:
        return 0, 0, []
    cells = [(-(-w // stride), -(-h // stride)) for w, h in sizes]
    first = cells[0][0]
    others = [w for w, _ in cells[1:_BESIDE]]
    widths = {first, *(first + w for w in others), *(first + a + b for a, b in combinations(others, 2))}
    found = []
    for limit in sorted(widths):
        placed = [(x * stride, y * stride) for x, y in _shelved(cells, limit)]
        width = max(x + w for (x, _), (w, _) in zip(placed, sizes, strict=True))
        height = max(y + h for (_, y), (_, h) in zip(placed, sizes, strict=True))
        found.append((width, height, placed))
    return min(found, key=lambda canvas: canvas[0] * canvas[1])


def _shelved(cells: list[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Corners of rectangles on a canvas ``limit`` wide: each where its lower edge comes highest, the leftmost of those.
    """
    steps = [(0, 0)]        # columns and what is taken from the top on, from each of them to the next
    corners = []
    for w, h in cells:
        places = [(max(y for start, y in steps[i:] if start < x + w), x) for i, (x, _) in enumerate(steps)]
        y, x = min((y, x) for y, x in places if x + w <= limit)
        corners.append((x, y))
        end = x + w
        after = [(end, max(step for step in steps if step[0] <= end)[1])] if end < limit else []
        steps = [step for step in steps if step[0] < x] + [(x, y + h), *after] + [s for s in steps if s[0] > end]
    return corners


def _planned(picture: Picture, plan: Canvas) -> Frame:
    frame = as_frame(picture)
    if (frame.width, frame.height) != (plan.picture_w, plan.picture_h):
        raise ValueError(
            f"the canvas is for pictures of {plan.picture_w} x {plan.picture_h}, not {frame.width} x {frame.height}"
        )
    return frame


def _targets(frame: Frame, level: Level) -> tuple[Target, Target]:
    """How pixels, or luma, and chroma come to a level."""
    across = 2 if frame.format in ("nv12", "yuyv") else 1
    down = 2 if frame.format == "nv12" else 1
    box_w, box_h = max(1, frame.width // across // level.w), max(1, frame.height // down // level.h)
    return Target(level.box_w, level.box_h, level.w, level.h), Target(box_w, box_h, level.w, level.h)


def _fitted(
    picture: Picture, plan: Canvas, output: Output, out: NDArray[Any] | None, normal: Normal
) -> NDArray[Any]:
    """The canvas as ``output`` has it, in ``out`` where that fits: by the letterbox's kernel, or NumPy and OpenCV."""
    frame = _planned(picture, plan)
    kernels = library()
    if kernels is None:
        return as_output(_canvas(frame, plan, resample), output, normal)
    out = pictures.room(output, plan.height, plan.width, out)
    out.fill(as_output(_ONE_PADDING, output, normal).flat[0])
    for level in plan.levels:
        luma, chroma = _targets(frame, level)
        pictures.letterbox(
            kernels, frame, luma, chroma, output, out, (level.w, level.h), normal, (level.x, level.y)
        )
    return out


def _canvas(frame: Frame, plan: Canvas, by: Resample) -> Bytes:
    out = np.full((plan.height, plan.width, 3), PADDING, np.uint8)
    for level in plan.levels:
        out[level.y : level.y + level.h, level.x : level.x + level.w] = bgr_of(frame, *_targets(frame, level), by)
    return out


def _windows(
    score_map: RawMap, box_map: RawMap, plan: Canvas, threshold_logit: float, limit: int, nms_iou: float,
    merge_iou: float, keep: _Keep, suppress: _Suppress, on_cut: OnCut = _unsaid,
) -> tuple[Floats, Floats]:
    stride, cell = plan.stride, plan.cell_px
    shape = (plan.height - cell) // stride + 1, (plan.width - cell) // stride + 1
    if score_map.values.shape != (1, *shape) or box_map.values.shape != (4, *shape):
        raise ValueError(
            f"maps {score_map.values.shape} and {box_map.values.shape} are not those of the canvas: (1 and 4, *{shape})"
        )
    if not plan.levels:
        return np.empty((0, 4), np.float32), np.empty(0, np.float32)
    # One more than is looked at tells whether any are given up.
    kept = keep([_inside(score_map, level, plan) for level in plan.levels], threshold_logit, _CROWD * limit + 1)
    if len(kept) > _CROWD * limit:
        on_cut(len(kept), _CROWD * limit)
        kept = kept[np.sort(np.argsort(-kept.logits, kind="stable")[: _CROWD * limit])]
    boxes = _decoded(box_map, plan, kept)
    if not np.isfinite(boxes).all():
        raise FloatingPointError("a box is not finite")
    # Windows come level by level.
    ends = np.searchsorted(kept.level, np.arange(len(plan.levels) + 1)).tolist()
    chosen = [
        start + suppress(boxes[start:end], kept.logits[start:end], nms_iou)
        for start, end in pairwise(ends) if end > start
    ]  # fmt: skip
    if not chosen:
        return boxes, kept.logits
    best = np.concatenate([_best(level, limit, on_cut) for level in chosen])
    boxes, logits = boxes[best], kept.logits[best]
    best = _best(suppress(boxes, logits, merge_iou), limit, on_cut)
    return boxes[best], logits[best]


def _best(found: NDArray[np.int64], limit: int, on_cut: OnCut) -> NDArray[np.int64]:
    """As many as go on of what comes best first."""
    if len(found) > limit:
        on_cut(len(found), limit)
    return found[:limit]


def _inside(score_map: RawMap, level: Level, plan: Canvas) -> RawMap:
    """The scores of the windows that lie wholly in a level."""
    row, column = level.y // plan.stride, level.x // plan.stride
    rows, columns = ((side - plan.cell_px) // plan.stride + 1 for side in (level.h, level.w))
    return RawMap(score_map.values[:, row : row + rows, column : column + columns], score_map.scale)


def _decoded(box_map: RawMap, plan: Canvas, kept: Anchors) -> Floats:
    """Boxes (n, 4) in pixels of the picture, in float32, every operation rounded."""
    levels = plan.levels
    origins = np.array([(level.y, level.x) for level in levels])[kept.level] // plan.stride
    per_pixel = np.array([(level.scale_x, level.scale_y) * 2 for level in levels], np.float32)[kept.level]
    offsets = box_map.converted(box_map.values[:, origins[:, 0] + kept.row, origins[:, 1] + kept.column].T)
    corner = (np.stack((kept.column, kept.row), axis=1) * plan.stride).astype(np.float32)
    cell = np.float32(plan.cell_px)
    with np.errstate(over="ignore", invalid="ignore"):      # a box that is not finite is reported
        edges = np.concatenate((corner, corner + cell), axis=1) + offsets * cell
        boxes: Floats = edges / per_pixel
    return boxes
