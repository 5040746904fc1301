"""Decoding by hand: anchors, boxes, points and angles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.bundle import Bins, DenseStage, Level
from edgeface.runtime.anchors import (
    Anchors,
    Pyramid,
    best_boxes,
    decode_boxes_reference,
    decode_landmarks,
    keep_anchors,
)
from edgeface.runtime.decode.bins import pose_degrees
from edgeface.runtime.engines import RawMap
from edgeface.runtime.exponential import exp
from edgeface.runtime.logistic import logit, sigmoid

LEVEL = Level(8, [16.0, 32.0], "score", "box", "landmarks")
PYRAMID = Pyramid.of(DenseStage([], "data", 0.0, 1.0, 32, [LEVEL], (0.1, 0.2)))
POSE = Bins("logits", 66, 3.0, -97.5)


def anchors(*places: tuple[int, int, int]) -> Anchors:
    """Anchors of level 0 by (anchor, row, column), with logits 0."""
    return Anchors(np.array([(0, *place) for place in places], np.int64), np.zeros(len(places), np.float32))


def boxes_of(values: NDArray[np.float32], kept: Anchors) -> NDArray[np.float32]:
    """The boxes of anchors of level 0, before suppression."""
    return best_boxes([RawMap(values)], kept, PYRAMID, 1.0)[1]


def test_anchors_come_by_level_row_column_anchor() -> None:
    fine = np.full((2, 2, 3), -9, np.float32)
    fine[1, 0, 2], fine[0, 1, 0], fine[0, 0, 2], fine[1, 1, 0] = 1, 2, 3, 4
    coarse = np.full((1, 1, 1), 5, np.float32)
    kept = keep_anchors([RawMap(fine), RawMap(coarse)], 0.0, limit=100)
    places = np.stack([kept.level, kept.row, kept.column, kept.anchor], axis=1).tolist()
    assert places == [[0, 0, 2, 0], [0, 0, 2, 1], [0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]
    assert kept.logits.tolist() == [3, 1, 2, 4, 5]


def test_the_index_is_row_times_width_plus_column_times_anchors_plus_anchor() -> None:
    score = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    kept = keep_anchors([RawMap(score)], -math.inf, limit=100)
    index = (kept.row * 5 + kept.column) * 2 + kept.anchor
    assert index.tolist() == list(range(40))
    np.testing.assert_array_equal(kept.logits, score.transpose(1, 2, 0).ravel())


def test_a_logit_at_the_threshold_is_kept() -> None:
    score = np.array([[[-0.5, 0.0, 0.5]]], np.float32)
    assert keep_anchors([RawMap(score)], 0.0, 9).logits.tolist() == [0.0, 0.5]
    assert len(keep_anchors([RawMap(score)], 0.6, 9)) == 0
    assert len(keep_anchors([RawMap(score)], logit(0.0), 9)) == 3
    assert len(keep_anchors([RawMap(score)], logit(1.0), 9)) == 0


def test_the_limit_keeps_the_strongest_in_their_order() -> None:
    levels = [RawMap(np.array([[values]], np.float32)) for values in ([1, 5, 3, 3], [4, 3])]
    kept = keep_anchors(levels, 0.0, limit=4)
    # Three anchors have 3: the two of the first level stay.
    assert kept.logits.tolist() == [5, 3, 3, 4]
    assert kept.level.tolist() == [0, 0, 0, 1]


def test_logit_and_sigmoid_are_inverse_and_never_overflow() -> None:
    for p in (1e-6, 0.02, 0.5, 0.9, 1 - 1e-6):
        np.testing.assert_allclose(sigmoid(np.array([logit(p)], np.float32)), [p], rtol=1e-5)
    with np.errstate(all="raise", under="ignore"):
        ends = sigmoid(np.array([-1000, -80, 0, 80, 1000], np.float32))
    assert ends.dtype == np.float32
    assert ends[[0, 2, 3, 4]].tolist() == [0, 0.5, 1, 1]
    assert 0 < ends[1] < 1e-30
    assert (logit(0.0), logit(1.0)) == (-math.inf, math.inf)


def test_exp_and_sigmoid_are_within_a_few_units_in_the_last_place() -> None:
    x = np.linspace(-87, 88.7, 400_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    for found, true, units in ((exp(x), exact, 1.0), (sigmoid(x), exact / (1 + exact), 2.5)):
        assert found.dtype == np.float32
        assert (np.abs(found - true) <= units * np.spacing(true.astype(np.float32))).all()


def test_exp_at_its_ends() -> None:
    x = np.array([-np.inf, -200, -104, -103, 0, 88.73, 89, 1e30, np.inf, np.nan], np.float32)
    with np.errstate(all="raise"):
        found = exp(x)
    np.testing.assert_array_equal(found, [0, 0, 0, 2.0**-149, 1, np.inf, np.inf, np.inf, np.inf, np.nan])
    assert exp(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_raw_maps_are_float32_or_int8_with_a_scale() -> None:
    shape = (1, 2, 2)
    for values, scale in (
        (np.zeros(shape, np.int8), None), (np.zeros(shape, np.float32), 0.5), (np.zeros((2, 2), np.float32), None),
        (np.zeros(shape, np.float64), None),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="not a raw map"):
            RawMap(values, scale)  # type: ignore[arg-type]  # wrong on purpose


def test_a_box_without_offsets_is_its_anchor() -> None:
    boxes = boxes_of(np.zeros((8, 5, 6), np.float32), anchors((0, 0, 0), (1, 2, 5)))
    # Centres ((x + 1/2) * 8, (y + 1/2) * 8) with sides 16 and 32.
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[-4, -4, 12, 12], [28, 4, 60, 36]]


def test_a_box_by_hand() -> None:
    values = np.zeros((8, 3, 3), np.float32)
    values[4:, 2, 1] = [1.0, -2.0, math.log(2) / 0.2, math.log(0.5) / 0.2]
    boxes = boxes_of(values, anchors((1, 2, 1), (0, 2, 1)))
    # Centre (12, 20) + (1, -2) * 0.1 * 32 = (15.2, 13.6); sides 32 * 2 and 32 / 2.
    np.testing.assert_allclose(boxes[0], [15.2 - 32, 13.6 - 8, 15.2 + 32, 13.6 + 8], rtol=1e-5)
    assert boxes[1].tolist() == [4, 12, 20, 28]     # the other anchor there has channels of its own


def test_landmarks_by_hand() -> None:
    values = np.zeros((20, 2, 2), np.float32)
    values[:10, 1, 0] = np.arange(10)
    points = decode_landmarks([RawMap(values)], anchors((0, 1, 0), (1, 1, 0)), PYRAMID)
    assert points.shape == (2, 5, 2)
    expected = np.array([4, 12]) + np.arange(10).reshape(5, 2) * 0.1 * 16
    np.testing.assert_allclose(points[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(points[1], np.tile([4.0, 12.0], (5, 1)))


def test_a_box_too_large_for_float32_is_reported_without_a_warning() -> None:
    huge = np.full((8, 1, 1), 1e4, np.float32)
    with np.errstate(all="raise"):
        boxes = decode_boxes_reference([RawMap(huge)], anchors((0, 0, 0)), PYRAMID)
    assert np.isinf(boxes).all()
    for values in (huge, np.full_like(huge, np.nan)):
        with pytest.raises(FloatingPointError, match="a box is not finite"):
            boxes_of(values, anchors((0, 0, 0)))


def test_a_score_that_is_none_is_reported_wherever_it_is() -> None:
    for at in range(40):
        score = np.full(40, -9, np.float32)
        score[at] = np.nan
        with pytest.raises(FloatingPointError, match="a score is not a number"):
            keep_anchors([RawMap(score.reshape(2, 1, 20))], 0.0, 9)


def one_hot(*bins: int) -> NDArray[np.float32]:
    logits = np.full((3, 66, 1), -1e4, np.float32)
    logits[np.arange(3), bins] = 0
    return logits.reshape(198, 1, 1)


def test_an_angle_is_its_bin_s_centre() -> None:
    np.testing.assert_allclose(pose_degrees(one_hot(0, 33, 65), POSE), [[-97.5, 1.5, 97.5]])


def test_an_angle_is_the_expectation_over_the_bins() -> None:
    logits = np.full((3, 66, 2), -1e4, np.float32)
    logits[:, 30, 0], logits[:, 34, 0] = 0, math.log(3)     # weights 1/4 and 3/4 on -7.5 and 4.5 degrees
    logits[:, :, 1] = 2000                                  # all alike, and far beyond exp's range
    degrees = pose_degrees(logits.reshape(198, 1, 2), POSE)
    assert degrees.dtype == np.float32
    np.testing.assert_allclose(degrees, [[1.5] * 3, [0.0] * 3], atol=1e-4)
