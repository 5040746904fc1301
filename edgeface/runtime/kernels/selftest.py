"""Every kernel on seeded inputs, in C and by its reference, for comparing them to the last bit on any machine.

A case gives arrays by name; ``run(name)`` and ``run(name, use_c=False)`` must give the same. The inputs are made of
integers, so that they are the same everywhere, and with them the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bins, Heatmaps
from edgeface.errors import InstallError, UnknownNameError
from edgeface.frames import FORMATS, Frame
from edgeface.registry import Registry
from edgeface.runtime import align, anchors, crops, exponential, logistic, nms, pose_fit, preprocess, pyramid, roi
from edgeface.runtime.anchors import Anchors, Pyramid
from edgeface.runtime.decode import bins, heatmaps
from edgeface.runtime.engines import RawMap
from edgeface.runtime.kernels.library import library, status

Arrays = dict[str, NDArray[Any]]
Case = Callable[[bool], Arrays]

case: Registry[Case] = Registry("kernel case", UnknownNameError)
"""Functions of ``use_c`` by name."""

_PYRAMID = Pyramid(
    np.array([8, 16, 32], np.float32),
    np.array([[16, 32], [64, 128], [256, 512]], np.float32),
    np.array([0.1, 0.2], np.float32),
)
_SHAPES = ((17, 35), (8, 16), (3, 5))


def cases() -> list[str]:
    """The names of all cases."""
    return case.names()


def run(name: str, use_c: bool = True) -> Arrays:
    """The outputs of a case, from the C kernels or from the reference.

    Raises UnknownNameError, and InstallError when ``use_c`` is asked for where there are no C kernels.
    """
    compute = case.get(name)
    if use_c and library() is None:
        raise InstallError(f"the C kernels are needed here: {status().text}")
    return compute(use_c)


def _reals(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float32]:
    """Float32 in ``low`` to ``high``, from integers."""
    steps = rng.integers(0, 1 << 20, shape).astype(np.float32) * np.float32(2**-20)
    values: NDArray[np.float32] = steps * np.float32(high - low) + np.float32(low)
    return values


def _layouts(seed: int, channels: int, low: float, high: float) -> Iterator[tuple[str, list[RawMap]]]:
    """One map a level in every layout and type that engines give."""
    rng = np.random.default_rng(seed)
    planes = [_reals(rng, (channels, *shape), low, high) for shape in _SHAPES]
    yield "planes", [RawMap(p) for p in planes]
    yield "channels-last", [RawMap(np.ascontiguousarray(p.transpose(1, 2, 0)).transpose(2, 0, 1)) for p in planes]
    padded = [np.zeros((channels, h, w + 3), np.float32) for h, w in _SHAPES]
    for wide, p in zip(padded, planes, strict=True):
        wide[:, :, :-3] = p
    yield "padded", [RawMap(p[:, :, :-3]) for p in padded]
    yield "turned", [RawMap(np.ascontiguousarray(p.transpose(0, 2, 1)).transpose(0, 2, 1)) for p in planes]
    scale = max(abs(low), abs(high)) / 127
    levels = [np.rint(p / np.float32(scale)).astype(np.int8) for p in planes]
    yield "int8 planes", [RawMap(p, scale) for p in levels]
    last = [np.ascontiguousarray(p.transpose(1, 2, 0)).transpose(2, 0, 1) for p in levels]
    yield "int8 channels-last", [RawMap(p, scale) for p in last]


def _anchors(seed: int, n: int, equal: bool = False) -> Anchors:
    """Anchors anywhere in the maps of ``_layouts``, in any order, with logits that are often equal."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, len(_SHAPES), n)
    sides = np.array(_SHAPES)[level]
    row, column = rng.integers(0, sides[:, 0]), rng.integers(0, sides[:, 1])
    places = np.stack((level, rng.integers(0, 2, n), row, column), axis=1)
    return Anchors(places, np.zeros(n, np.float32) if equal else rng.integers(-8, 8, n).astype(np.float32))


@case("exp")
def _exp(use_c: bool) -> Arrays:
    # sigmoid is exp's only door in C: 1 / (1 + e) and e / (1 + e) show every bit of e that boxes could.
    bits = np.arange(0, 1 << 32, 65_521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate((bits[~np.isnan(bits)], _reals(np.random.default_rng(0), (20_000,), -104, 89)))
    with np.errstate(all="ignore"):
        return {"sigmoid": (logistic.sigmoid if use_c else exponential.sigmoid_reference)(x)}


@case("keep_anchors")
def _keep_anchors(use_c: bool) -> Arrays:
    keep = anchors.keep_anchors if use_c else anchors.keep_anchors_reference
    found: Arrays = {}
    for layout, maps in _layouts(1, 2, -8, 8):
        for threshold, limit in ((7.9, 5000), (0.0, 5000), (0.0, 100), (-9.0, 1), (-np.inf, 300), (np.inf, 10)):
            kept = keep(maps, threshold, limit)
            found[f"{layout}, {threshold}, {limit}: places"] = kept.places
            found[f"{layout}, {threshold}, {limit}: logits"] = kept.logits
    rng = np.random.default_rng(2)
    ties = [RawMap(rng.integers(-2, 3, (3, *shape)).astype(np.float32) * np.float32(-0.0)) for shape in _SHAPES]
    found["ties"] = keep(ties, -1.0, 400).places
    return found


@case("best_boxes")
def _best_boxes(use_c: bool) -> Arrays:
    best = anchors.best_boxes if use_c else anchors.best_boxes_reference
    found: Arrays = {}
    for layout, maps in _layouts(3, 8, -4, 4):
        for n, equal, iou in ((0, False, 0.4), (1, False, 0.4), (700, False, 0.4), (300, True, 0.0), (300, False, 1.0)):
            indices, boxes = best(maps, _anchors(n, n, equal), _PYRAMID, iou, (0.7, 1.3))
            found[f"{layout}, {n}, {iou}: indices"], found[f"{layout}, {n}, {iou}: boxes"] = indices, boxes
    return found


@case("decode_landmarks")
def _decode_landmarks(use_c: bool) -> Arrays:
    points = anchors.decode_landmarks if use_c else anchors.decode_landmarks_reference
    return {
        layout: points(maps, _anchors(5, 200), _PYRAMID, (0.7, 1.3)) for layout, maps in _layouts(4, 20, -4, 4)
    }


@case("nms")
def _nms(use_c: bool) -> Arrays:
    suppress = nms.nms if use_c else nms.nms_reference
    rng = np.random.default_rng(6)
    found: Arrays = {}
    for n in (0, 1, 2, 3, 64, 1000):
        corners = rng.integers(0, 40, (n, 2)).astype(np.float32)
        boxes = np.concatenate((corners, corners + rng.integers(-1, 12, (n, 2)).astype(np.float32)), axis=1)
        scores = rng.integers(-4, 4, n).astype(np.float32)
        for iou in (0.0, 1 / 3, 0.5, 1.0):
            found[f"{n}, {iou}"] = suppress(boxes, scores, iou)
    return found


@case("pose_degrees")
def _pose_degrees(use_c: bool) -> Arrays:
    degrees = bins.pose_degrees if use_c else bins.pose_degrees_reference
    output = Bins("logits", 66, 3.0, -97.5)
    rng = np.random.default_rng(7)
    return {f"{n}": degrees(_reals(rng, (198, 1, n), -20, 20), output) for n in (0, 1, 2, 17)}


@case("fit_pose")
def _fit_pose(use_c: bool) -> Arrays:
    turn = pose_fit.fit if use_c else pose_fit.fit_reference
    rng = np.random.default_rng(15)
    found: Arrays = {}
    for count in (3, 5, 33, 68):
        # Of whole numbers about their centre, and a matrix that is nobody's inverse, since LAPACK's differ.
        half = rng.integers(-64, 64, (count - 1, 3))
        corners = np.concatenate((half, -half.sum(axis=0, keepdims=True))) / 64
        model = pose_fit.Model(corners, np.ascontiguousarray(corners[:, ::-1]) / count + corners)
        for n in (0, 1, 40):
            found[f"{count} points of {n}"] = turn(_reals(rng, (n, count, 2), -300, 900), model)
        odd = _reals(rng, (5, count, 2), 0, 100)
        odd[0], odd[1, 0, 1], odd[2, :, 1] = 7, np.inf, 3       # all one, not finite, all on a line
        odd[3] = corners[:, :2] * 20
        found[f"{count} odd points"] = turn(odd, model)
    return found


@case("gather_patches")
def _gather_patches(use_c: bool) -> Arrays:
    gather = roi.gather_patches if use_c else roi.gather_patches_reference
    kept = _anchors(8, 60)
    here = kept[np.nonzero(kept.level == 0)[0]]
    return {
        f"{layout}, {patch}": gather(maps[0], here.row, here.column, patch)
        for layout, maps in _layouts(9, 5, -4, 4)
        for patch in (1, 2, 3, 5)
    }


@case("heatmap_points")
def _heatmap_points(use_c: bool) -> Arrays:
    points = heatmaps.heatmap_points if use_c else heatmaps.heatmap_points_reference
    outputs = Heatmaps("h", 5), Heatmaps("h", 5, 1, 2, 3), Heatmaps("h", 5, 2, 2, 4), Heatmaps("h", 5, 2, 3, 15)
    return {
        f"{layout}, {output}, {number}": points(raw, output)
        for output in outputs
        for layout, maps in _layouts(15, 5 * output.shuffle**2, -9, 9)
        for number, raw in enumerate(maps)
    }


@case("roi_align")
def _roi_align(use_c: bool) -> Arrays:
    align = roi.roi_align if use_c else roi.roi_align_reference
    rng = np.random.default_rng(10)
    corners = _reals(rng, (25, 2), -60, 300)
    boxes = np.concatenate((corners, corners + _reals(rng, (25, 2), -10, 250)), axis=1)
    return {
        f"{layout}, {out}, {sampling}": align(maps[0], boxes, out, 0.125, sampling)
        for layout, maps in _layouts(11, 5, -4, 4)
        for out, sampling in (((14, 14), 2), ((3, 5), 1), ((1, 1), 4))
    }


def _frames(seed: int, width: int, height: int) -> Iterator[Frame]:
    """Noise in every format."""
    rng = np.random.default_rng(seed)
    shapes = {"grey": (height, width), "nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}
    for name in FORMATS:
        yield Frame(rng.integers(0, 256, shapes.get(name, (height, width, 3)), dtype=np.uint8), name)


@case("letterbox")
def _letterbox(use_c: bool) -> Arrays:
    found: Arrays = {}
    # Copied, halved, averaged by threes and fours, enlarged, reduced by bilinear alone and after boxes.
    for width, height, size in (
        (96, 64, 96), (192, 130, 96), (192, 128, 64), (400, 300, (100, 128)), (50, 42, 161), (150, 98, 101),
        (500, 346, 70), (1200, 6, 2),
    ):  # fmt: skip
        for frame in _frames(8, width, height):
            name = f"{frame.format} {width} x {height} at {size}"
            if use_c:
                planes = preprocess.letterbox_planes(frame, size, 32, mean=123.675, scale=1 / 58.395).x
                less = preprocess.letterbox_signed(frame, size, 32).x
            else:
                pixels = preprocess.letterbox_reference(frame, size, 32).pixels
                planes, less = preprocess.normalise(pixels, 123.675, 1 / 58.395), preprocess.signed(pixels)
            found[f"{name}: planes"], found[f"{name}: pixels"] = planes, less
    return found


@case("align")
def _align(use_c: bool) -> Arrays:
    crops = align.align if use_c else align.align_reference
    # Inside, over a corner, larger than the picture, and beside it; upright, turned and upside down.
    places = np.array([[40, 30, 1, 0], [-30, 80, 1, 1], [-200, -100, 4, 0], [300, 0, 1, 0], [60, 20, -1, 1]])
    x, y, scale, turned = places.T[:, :, None]
    right, down = (align.TEMPLATE[:, i] * scale for i in (0, 1))
    landmarks = np.stack((x + right - down * turned / 2, y + down + right * turned / 2), axis=2)
    return {frame.format: crops(frame, landmarks) for frame in _frames(9, 200, 150)}


@case("crops")
def _crops(use_c: bool) -> Arrays:
    # Inside at its own size, halved, averaged, enlarged; over every edge and corner; larger than the picture, so that
    # boxes' sums need more than 16 bits; beside it, and far away.
    squares = np.array(
        [
            [20, 30, 24], [41, 33, 48], [3, 1, 52], [10, 5, 80], [7, 20, 130], [61, 50, 7], [90, 60, 1], [-9, 40, 31],
            [180, -20, 49], [-30, -40, 200], [150, 120, 75], [-500, -400, 1300], [-4000, -3500, 12_600], [400, 10, 40],
            [-(1 << 25), 1 << 25, 1 << 24], [-5_000_001, -6_000_003, 1 << 24],
        ]
    )  # fmt: skip
    found: Arrays = {}
    for frame in _frames(12, 200, 150):
        for size_px in (24, 48, 5):
            cut = frame, squares, size_px
            name = f"{frame.format} at {size_px}"
            if use_c:
                planes = crops.crop_planes(*cut, mean=123.675, scale=1 / 58.395)
                less, pixels = crops.crop_signed(*cut), crops.crops(*cut)
            else:
                planes = crops.crop_planes_reference(*cut, mean=123.675, scale=1 / 58.395)
                less, pixels = crops.crop_signed_reference(*cut), crops.crops_reference(*cut)
            found |= {f"{name}: planes": planes, f"{name}: int8": less, f"{name}: pixels": pixels}
    return found


@case("canvas")
def _canvas(use_c: bool) -> Arrays:
    found: Arrays = {}
    for width, height, face_px in ((200, 150, 10.0), (150, 202, 37.0), (600, 84, 24.0)):
        plan = pyramid.plan(width, height, 12, 2, 0.7071, face_px)
        for frame in _frames(13, width, height):
            name = f"{frame.format} {width} x {height}, {face_px}"
            if use_c:
                planes = pyramid.canvas_planes(frame, plan, mean=123.675, scale=1 / 58.395)
                less = pyramid.canvas_signed(frame, plan)
            else:
                pixels = pyramid.canvas_reference(frame, plan)
                planes, less = preprocess.normalise(pixels, 123.675, 1 / 58.395), preprocess.signed(pixels)
            found[f"{name}: planes"], found[f"{name}: int8"] = planes, less
    return found


@case("windows")
def _windows(use_c: bool) -> Arrays:
    name = pyramid.windows if use_c else pyramid.windows_reference
    plan = pyramid.plan(200, 150, 12, 2, 0.7071, 20)
    shape = ((plan.height - 12) // 2 + 1, (plan.width - 12) // 2 + 1)
    rng = np.random.default_rng(14)
    score, box = _reals(rng, (1, *shape), -8, 8), _reals(rng, (4, *shape), -0.5, 0.5)
    levels = [RawMap(np.rint(values * np.float32(8)).astype(np.int8), 0.125) for values in (score, box)]
    found: Arrays = {}
    for kind, (scores, offsets) in (("float32", [RawMap(score), RawMap(box)]), ("int8", levels)):
        for threshold, limit in ((7.5, 100), (0.0, 20), (-9.0, 400), (9.0, 5)):
            boxes, logits = name(scores, offsets, plan, threshold, limit, 0.5, 0.7)
            found[f"{kind}, {threshold}: boxes"], found[f"{kind}, {threshold}: logits"] = boxes, logits
    return found
