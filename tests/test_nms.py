"""Overlap by hand, and NMS against a brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeface.runtime.nms import iou, nms, nms_reference

Floats = NDArray[np.float32]


def boxes_of(rows: list[list[float]]) -> Floats:
    return np.array(rows, np.float32).reshape(-1, 4)


@st.composite
def scored_boxes(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Boxes on a coarse grid, so that equal boxes, touching ones and equal scores are common."""
    n = draw(st.integers(0, 25))
    corners = draw(arrays(np.float32, (n, 2), elements=st.integers(0, 12).map(float)))
    sides = draw(arrays(np.float32, (n, 2), elements=st.integers(-1, 8).map(float)))
    scores = draw(arrays(np.float32, n, elements=st.integers(-4, 4).map(float)))
    return np.concatenate((corners, corners + sides), axis=1), scores


def brute_force(boxes: Floats, scores: Floats, threshold: float) -> list[int]:
    """The definition: go through all boxes from the best down and keep one that overlaps no kept one too much."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(iou(boxes[[j]], boxes[[i]])[0, 0] <= threshold for j in kept):
            kept.append(i)
    return kept


@given(scored_boxes(), st.sampled_from([0.0, 0.1, 1 / 3, 0.4, 0.5, 1.0]))
def test_nms_is_the_brute_force(case: tuple[Floats, Floats], threshold: float) -> None:
    boxes, scores = case
    assert nms(boxes, scores, threshold).tolist() == brute_force(boxes, scores, threshold)


@given(
    seed=st.integers(0, 10**6), n=st.integers(0, 150), power=st.integers(-30, 30),
    offset=st.sampled_from([0.0, 1e3, 1e6]), tall=st.sampled_from([1.0, 0.01, 100.0]),
    threshold=st.sampled_from([-1.0, 0.0, 0.04, 0.05, 0.3, 0.5, 0.9, 1.0, 1.5]), odd=st.booleans(),
)
def test_a_crowd_of_any_size_and_place(
    seed: int, n: int, power: int, offset: float, tall: float, threshold: float, odd: bool
) -> None:
    """What the C kernel skips, because it lies elsewhere or is of another size, overlaps too little."""
    rng = np.random.default_rng(seed)
    centres, sides = rng.uniform(0, 60, (n, 2)) + offset, rng.uniform(0, 1, (n, 2)) ** 2 * 40 * (1.0, tall)
    boxes = (np.concatenate((centres - sides / 2, centres + sides / 2), axis=1) * 2.0**power).astype(np.float32)
    if odd and n > 3:
        boxes[:4] = [[0, np.nan, 1, 1], [0, 0, np.inf, 1], [-3e38, -3e38, 3e38, 3e38], [5, 5, 5, 5]]
    scores = rng.integers(0, 40, n).astype(np.float32)
    with np.errstate(all="ignore"):
        assert nms(boxes, scores, threshold).tolist() == nms_reference(boxes, scores, threshold).tolist()


@given(scored_boxes())
def test_iou_against_counting_cells(case: tuple[Floats, Floats]) -> None:
    boxes, _ = case
    cells = np.zeros((len(boxes), 22, 22), bool)
    for mask, (x1, y1, x2, y2) in zip(cells, boxes.astype(int), strict=True):
        mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    flat = cells.reshape(len(boxes), 22 * 22).astype(float)
    shared = flat @ flat.T
    union = flat.sum(1)[:, None] + flat.sum(1)[None] - shared
    expected = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    np.testing.assert_allclose(iou(boxes, boxes), expected, atol=1e-6)


def test_iou_by_hand() -> None:
    a = boxes_of([[0, 0, 2, 2], [0, 0, 4, 4]])
    b = boxes_of([[1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 2, 2]])
    np.testing.assert_allclose(iou(a, b), [[1 / 7, 0, 1], [4 / 16, 4 / 16, 4 / 16]], rtol=1e-6)


def test_boxes_without_area_overlap_nothing() -> None:
    a = boxes_of([[1, 1, 1, 1], [3, 3, 1, 1], [0, 0, 4, 4]])
    assert iou(a, a).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_iou_has_the_wider_dtype_and_a_shape_without_boxes() -> None:
    assert iou(boxes_of([[0, 0, 1, 1]]), boxes_of([])).shape == (1, 0)
    assert iou(np.zeros((2, 4)), boxes_of([[0, 0, 1, 1]])).dtype == np.float64
    assert iou(boxes_of([[0, 0, 1, 1]]), boxes_of([[0, 0, 1, 1]])).dtype == np.float32


def test_the_best_box_stays_and_what_overlaps_it_goes() -> None:
    boxes = boxes_of([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0.5, 0, 10.5, 10]])
    kept = nms(boxes, np.array([0.8, 0.9, 0.3, 0.7], np.float32), 0.5)
    assert kept.dtype == np.int64
    assert kept.tolist() == [1, 2]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = boxes_of([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert nms(chain, np.array([0.9, 0.8, 0.7], np.float32), 0.3).tolist() == [0, 2]


def test_an_overlap_at_the_threshold_is_allowed() -> None:
    boxes = boxes_of([[0, 0, 2, 1], [1, 0, 3, 1]])      # exactly 1/3
    third = float(iou(boxes, boxes)[0, 1])
    assert nms(boxes, np.array([2, 1], np.float32), third).tolist() == [0, 1]
    assert nms(boxes, np.array([2, 1], np.float32), third - 1e-6).tolist() == [0]


def test_of_equal_scores_the_first_box_counts_as_better() -> None:
    same = boxes_of([[0, 0, 5, 5]] * 4)
    assert nms(same, np.zeros(4, np.float32), 0.5).tolist() == [0]


def test_no_boxes() -> None:
    kept = nms(boxes_of([]), np.zeros(0, np.float32), 0.5)
    assert kept.dtype == np.int64
    assert kept.shape == (0,)
