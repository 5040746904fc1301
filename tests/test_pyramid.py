"""Image pyramids: how levels are planned and filled, and windows by a brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camera_pictures import frames, random_frame, views
from edgeface.errors import InputError, OptionError
from edgeface.frames import FORMATS, Format, Frame
from edgeface.runtime import pyramid
from edgeface.runtime.engines import RawMap
from edgeface.runtime.kernels import library
from edgeface.runtime.nms import nms_reference
from edgeface.runtime.preprocess import letterbox_reference, normalise, signed
from edgeface.runtime.pyramid import Canvas, canvas_planes, canvas_reference, canvas_signed, plan, windows

Floats = NDArray[np.float32]

# The module's fixture below does not change between examples.
FUZZ = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
FACTOR = 0.7071


@pytest.fixture(params=["C", "NumPy"], autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on the C kernels and on what replaces them."""
    if request.param == "C" and library() is None:
        pytest.skip("the C kernels are not built here")
    if request.param == "NumPy":
        monkeypatch.setattr(pyramid, "library", lambda: None)
        monkeypatch.setattr(pyramid, "keep_anchors", pyramid.keep_anchors_reference)
        monkeypatch.setattr(pyramid, "nms", pyramid.nms_reference)


@FUZZ
@given(
    width=st.integers(1, 400), height=st.integers(1, 400), cell_px=st.integers(1, 30), stride=st.integers(1, 8),
    factor=st.floats(0.1, 0.8), face_px=st.floats(20, 200),
)  # fmt: skip
def test_levels_lie_on_the_canvas_apart_from_each_other(
    width: int, height: int, cell_px: int, stride: int, factor: float, face_px: float
) -> None:
    canvas = plan(width, height, cell_px, stride, factor, face_px)
    taken = np.zeros((canvas.height, canvas.width), np.uint8)
    scale = cell_px / face_px
    for level in canvas.levels:
        assert (level.w, level.h) == (round(width * scale), round(height * scale))
        assert min(level.w, level.h) >= cell_px
        assert (level.x % stride, level.y % stride) == (0, 0)
        part = taken[level.y : level.y + level.h, level.x : level.x + level.w]
        assert part.shape == (level.h, level.w)
        part += 1
        scale *= factor
    assert taken.max() <= 1
    assert min(round(width * scale), round(height * scale)) < cell_px       # no level was left out
    assert min(canvas.width, canvas.height) >= cell_px


@pytest.mark.parametrize(
    ("width", "height", "face_px"),
    [(640, 480, 20), (640, 480, 40), (480, 640, 20), (1280, 720, 20), (320, 240, 12), (1000, 100, 24)],
)
def test_levels_lie_close(width: int, height: int, face_px: float) -> None:
    canvas = plan(width, height, 12, 2, FACTOR, face_px)
    used = sum(level.w * level.h for level in canvas.levels)
    assert used >= 0.85 * canvas.width * canvas.height


def test_a_picture_that_no_window_fits_into_has_a_canvas_of_one_cell() -> None:
    canvas = plan(11, 300, 12, 2, FACTOR, 12)
    assert (canvas.levels, canvas.width, canvas.height) == ((), 12, 12)
    picture = np.zeros((300, 11, 3), np.uint8)
    assert (canvas_planes(picture, canvas, mean=128.0, scale=1 / 128) == 0).all()
    score, box = np.full((1, 1, 1), 9, np.float32), np.zeros((4, 1, 1), np.float32)
    boxes, logits = windows(RawMap(score), RawMap(box), canvas, 0.0, 10, 0.5, 0.7)
    assert (boxes.shape, logits.shape) == ((0, 4), (0,))


@FUZZ
@given(
    frame=frames(150), cell_px=st.sampled_from([1, 12, 24]), stride=st.sampled_from([1, 2, 4]),
    factor=st.floats(0.3, 0.9), face_px=st.floats(5, 60), view=st.integers(0, 5),
)  # fmt: skip
def test_every_format_and_output_equals_the_reference(
    frame: Frame, cell_px: int, stride: int, factor: float, face_px: float, view: int
) -> None:
    canvas = plan(frame.width, frame.height, cell_px, stride, factor, face_px)
    expected = canvas_reference(frame, canvas)
    assert expected.shape == (canvas.height, canvas.width, 3)
    seen = Frame([frame.pixels, *views(frame).values()][view], frame.format)
    less = canvas_signed(seen, canvas)
    assert less.flags.c_contiguous
    np.testing.assert_array_equal(less, signed(expected), strict=True)
    for mean, scale in ((128.0, 1 / 128), (123.675, 1 / 58.395)):
        planes = canvas_planes(seen, canvas, mean=mean, scale=scale)
        assert planes.flags.c_contiguous
        np.testing.assert_array_equal(planes, normalise(expected, mean, scale), strict=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_level_is_the_pictures_letterbox(format: Format) -> None:
    """Where the letterbox of the level's size has its sides and its boxes, as here: all else is 128."""
    frame = random_frame(format, 320, 240, 1)
    canvas = plan(320, 240, 12, 2, 0.5, 24)
    pixels = canvas_reference(frame, canvas)
    for level in canvas.levels:
        boxed = letterbox_reference(frame, (level.w, level.h), 1)
        part = pixels[level.y : level.y + level.h, level.x : level.x + level.w]
        np.testing.assert_array_equal(part, boxed.pixels)
        assert (level.scale_x, level.scale_y) == (boxed.scale_x, boxed.scale_y)
        part[...] = 128
    assert [(level.w, level.h) for level in canvas.levels] == [(160, 120), (80, 60), (40, 30), (20, 15)]
    assert (pixels == 128).all()


def test_a_given_array_is_used_and_no_rest_of_an_earlier_picture_stays() -> None:
    if pyramid.library() is None:
        pytest.skip("NumPy makes new arrays")
    canvas = plan(200, 150, 12, 2, FACTOR, 20)
    picture = random_frame("bgr", 200, 150, 1).pixels
    expected = canvas_reference(picture, canvas)
    planes = np.full((3, canvas.height, canvas.width), 7, np.float32)
    assert canvas_planes(picture, canvas, mean=1.0, scale=0.5, out=planes) is planes
    np.testing.assert_array_equal(planes, normalise(expected, 1.0, 0.5))
    less = np.full((canvas.height, canvas.width, 3), 7, np.int8)
    assert canvas_signed(picture, canvas, out=less) is less
    np.testing.assert_array_equal(less, signed(expected))
    other = np.full((canvas.height, canvas.width + 1, 3), 7, np.int8)
    assert canvas_signed(picture, canvas, out=other) is not other
    assert (other == 7).all()


def test_pictures_of_another_size_or_kind_are_refused() -> None:
    canvas = plan(200, 150, 12, 2, FACTOR, 20)
    with pytest.raises(ValueError, match="the canvas is for pictures of 200 x 150, not 150 x 200"):
        canvas_planes(np.zeros((200, 150, 3), np.uint8), canvas, mean=0, scale=1)
    with pytest.raises(InputError, match="uint8"):
        canvas_signed(np.zeros((150, 200), np.uint8), canvas)


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 10, 12, 2, 0.7, 20), (10, 10, 0, 2, 0.7, 20), (10, 10, 12, 0, 0.7, 20), (10, 10, 12, 2, 1.0, 20),
        (10, 10, 12, 2, 0.0, 20), (10, 10, 12, 2, 0.7, 0), (10, 10, 12, 2, 0.7, -3), (10, 10, 12, 2, 0.7, float("nan")),
        (10, 10, 12, 2, float("nan"), 20), (10, 10, 12, 2, 0.7, float("inf")),
    ],
)  # fmt: skip
def test_numbers_that_cannot_work_are_refused(numbers: tuple[Any, ...]) -> None:
    with pytest.raises(OptionError, match="no image pyramid of"):
        plan(*numbers)


@pytest.mark.parametrize(("factor", "face_px"), [(0.5, 0.5), (0.5, 1e-300), (0.5, 5e-324), (0.9999, 20), (0.9, 1)])
def test_a_canvas_that_would_fill_the_memory_is_refused(factor: float, face_px: float) -> None:
    with pytest.raises(OptionError, match="choose a larger smallest face"):
        plan(640, 480, 12, 2, factor, face_px)


def maps(canvas: Canvas, seed: int, *, levels: int = 0) -> tuple[RawMap, RawMap]:
    """Random ones of the canvas, as int8 where ``levels`` says how many there are."""
    shape = tuple((side - canvas.cell_px) // canvas.stride + 1 for side in (canvas.height, canvas.width))
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 3, (1, *shape)).astype(np.float32)
    box = rng.normal(0, 0.2, (4, *shape)).astype(np.float32)
    if not levels:
        return RawMap(score), RawMap(box)
    both = ((score, 0.125), (box, 1 / 64))
    one, two = (RawMap(np.rint(m / s).clip(-levels, levels).astype(np.int8), s) for m, s in both)
    return one, two


def brute_force(
    score_map: RawMap, box_map: RawMap, canvas: Canvas, threshold: float, limit: int, nms_iou: float, merge_iou: float
) -> tuple[Floats, Floats]:
    """The definition, window by window, where no limit but the last is reached."""
    score, box = score_map.real(), box_map.real()
    all_boxes, all_logits = [], []
    for level in canvas.levels:
        boxes, logits = [], []
        for y in range(0, level.h - canvas.cell_px + 1, canvas.stride):
            for x in range(0, level.w - canvas.cell_px + 1, canvas.stride):
                row, column = (level.y + y) // canvas.stride, (level.x + x) // canvas.stride
                if score[0, row, column] < np.float32(threshold):
                    continue
                edges = np.array([x, y, x + canvas.cell_px, y + canvas.cell_px], np.float32)
                edges += box[:, row, column] * np.float32(canvas.cell_px)
                scales = np.array([level.scale_x, level.scale_y] * 2, np.float32)
                boxes.append(edges / scales)
                logits.append(score[0, row, column])
        if not boxes:
            continue
        stacked, scores = np.array(boxes, np.float32), np.array(logits, np.float32)
        best = nms_reference(stacked, scores, nms_iou)
        all_boxes.append(stacked[best])
        all_logits.append(scores[best])
    if not all_boxes:
        return np.empty((0, 4), np.float32), np.empty(0, np.float32)
    merged, scores = np.concatenate(all_boxes), np.concatenate(all_logits)
    best = nms_reference(merged, scores, merge_iou)[:limit]
    return merged[best], scores[best]


@pytest.mark.parametrize("levels", [0, 127])
@pytest.mark.parametrize("threshold", [-100.0, 0.0, 4.0, 100.0])
@pytest.mark.parametrize(("width", "height", "face_px"), [(60, 45, 12), (101, 60, 21), (45, 60, 13)])
def test_windows_are_the_brute_force(width: int, height: int, face_px: float, threshold: float, levels: int) -> None:
    canvas = plan(width, height, 12, 2, FACTOR, face_px)
    score, box = maps(canvas, width, levels=levels)
    for nms_iou, merge_iou in ((0.5, 0.7), (0.3, 0.3), (1.0, 0.0)):
        found = windows(score, box, canvas, threshold, 2000, nms_iou, merge_iou)
        expected = brute_force(score, box, canvas, threshold, 2000, nms_iou, merge_iou)
        for array, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, wanted, strict=True)


def test_windows_over_a_levels_edge_do_not_count() -> None:
    canvas = plan(200, 150, 12, 2, FACTOR, 20)
    score, box = maps(canvas, 1)
    score.values[...] = 20
    for level in canvas.levels:
        rows = slice(level.y // 2, (level.y + level.h - 12) // 2 + 1)
        columns = slice(level.x // 2, (level.x + level.w - 12) // 2 + 1)
        score.values[0, rows, columns] = -20
    assert (score.values == 20).sum() > 100
    assert len(windows(score, box, canvas, 0.0, 100, 0.5, 0.7)[0]) == 0


def test_a_face_is_found_where_it_is() -> None:
    """One window a level says exactly where the face is: one box stays, in pixels of the picture."""
    canvas = plan(320, 240, 12, 2, FACTOR, 20)
    score, box = maps(canvas, 1)
    score.values[...] = -20
    face = np.array([100, 60, 160, 124], np.float32)
    for level in canvas.levels:
        x, y = (int(face[0] * level.scale_x) // 2 * 2, int(face[1] * level.scale_y) // 2 * 2)
        if x + 12 > level.w or y + 12 > level.h:
            continue
        window = np.array([x, y, x + 12, y + 12], np.float32)
        row, column = (level.y + y) // 2, (level.x + x) // 2
        scales = np.array([level.scale_x, level.scale_y] * 2, np.float32)
        score.values[0, row, column] = 3 + level.scale_x
        box.values[:, row, column] = (face * scales - window) / 12
    boxes, logits = windows(score, box, canvas, 0.0, 100, 0.5, 0.7)
    assert logits.tolist() == [np.float32(3 + canvas.levels[0].scale_x)]
    np.testing.assert_allclose(boxes, face[None], atol=1e-3)


def test_limits_hold_and_the_best_come_first() -> None:
    canvas = plan(200, 150, 12, 2, FACTOR, 20)
    score, box = maps(canvas, 3)
    full, every = windows(score, box, canvas, -100.0, 100_000, 0.5, 0.7, on_cut=lambda *_: pytest.fail("all go on"))
    assert (np.diff(every) <= 0).all()
    for limit in (1, 7, 50):
        cut: list[tuple[int, int]] = []
        boxes, logits = windows(
            score, box, canvas, -100.0, limit, 0.5, 0.7, on_cut=lambda found, most, cut=cut: cut.append((found, most))
        )
        assert len(boxes) == limit
        assert cut[0] == (8 * limit + 1, 8 * limit)
        assert cut[-1][0] > cut[-1][1] == limit
        assert (np.diff(logits) <= 0).all()
        np.testing.assert_array_equal(boxes[0], full[0])


def test_numbers_that_are_none_are_named() -> None:
    canvas = plan(200, 150, 12, 2, FACTOR, 20)
    score, box = maps(canvas, 1)
    score.values[0, 3, 3] = np.nan
    with pytest.raises(FloatingPointError, match="a score is not a number"):
        windows(score, box, canvas, 0.0, 10, 0.5, 0.7)
    score.values[0, 3, 3] = 50
    for value in (np.nan, np.inf):
        box.values[2, 3, 3] = value
        with pytest.raises(FloatingPointError, match="a box is not finite"):
            windows(score, box, canvas, 0.0, 10, 0.5, 0.7)


def test_maps_of_another_canvas_are_refused() -> None:
    score, box = maps(plan(200, 150, 12, 2, FACTOR, 20), 1)
    with pytest.raises(ValueError, match="are not those of the canvas"):
        windows(score, box, plan(150, 200, 12, 2, FACTOR, 20), 0.0, 10, 0.5, 0.7)
