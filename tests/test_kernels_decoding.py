"""The C kernels after the network against their NumPy references, bit for bit, on whatever hypothesis thinks of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeface.bundle import Bins
from edgeface.runtime import anchors, exponential, logistic, nms, roi
from edgeface.runtime.anchors import Anchors, Pyramid
from edgeface.runtime.decode import bins
from edgeface.runtime.engines import RawMap
from edgeface.runtime.kernels import library
from raw_maps import TAME, WILD, raw_map

Floats = NDArray[np.float32]

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels were not built here")


def outcome(call: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """The arrays that a call gives as (dtype, shape, bytes), or its error."""
    try:
        found = call(*arguments)
    except (FloatingPointError, IndexError, ValueError) as error:
        return type(error), str(error) if isinstance(error, FloatingPointError) else ""
    if isinstance(found, Anchors):
        found = found.places, found.logits
    return tuple((a.dtype, a.shape, a.tobytes()) for a in (found if isinstance(found, tuple) else (found,)))


def same(fast: Callable[..., Any], reference: Callable[..., Any], *arguments: Any) -> None:
    assert outcome(fast, *arguments) == outcome(reference, *arguments)


@st.composite
def score_maps(draw: st.DrawFn) -> list[RawMap]:
    anchors = draw(st.integers(1, 3))
    return draw(st.lists(raw_map(anchors, draw(st.sampled_from([TAME, WILD]))), min_size=1, max_size=3))


@given(
    score_maps(), st.sampled_from([-np.inf, -1.5, 0.0, 0.5, 0.8472978603872037, 2.75, 9.0, np.inf]),
    st.sampled_from([1, 2, 7, 40, 300, 5000]),
)  # fmt: skip
def test_kept_anchors_are_the_reference_s(maps: Sequence[RawMap], threshold: float, limit: int) -> None:
    same(anchors.keep_anchors, anchors.keep_anchors_reference, maps, threshold, limit)


@given(score_maps(), st.data())
def test_a_nan_anywhere_is_reported(maps: list[RawMap], data: st.DataObject) -> None:
    level = data.draw(st.integers(0, len(maps) - 1))
    values = maps[level].real()
    values.reshape(-1)[data.draw(st.integers(0, values.size - 1))] = np.nan
    maps[level] = RawMap(values)
    same(anchors.keep_anchors, anchors.keep_anchors_reference, maps, data.draw(TAME), 5000)


def test_more_anchors_than_there_is_room_for_at_first() -> None:
    values = np.random.default_rng(0).integers(-20, 20, (2, 40, 60)).astype(np.float32)
    for limit in (255, 256, 257, 3000, 4799, 4800, 5000, 1 << 40):
        same(anchors.keep_anchors, anchors.keep_anchors_reference, [RawMap(values)], -30.0, limit)


@st.composite
def decoding(draw: st.DrawFn, per_anchor: int) -> tuple[list[RawMap | None], Anchors, Pyramid]:
    """Maps of one to three levels, some of them None, and anchors on the others."""
    levels, most = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    elements = draw(st.sampled_from([TAME, TAME, WILD]))
    maps: list[RawMap | None] = [
        draw(st.none() | raw_map(per_anchor * most, elements, (5, 6))) for _ in range(levels)
    ]
    places = []
    for level, raw in enumerate(maps):
        if raw is not None:
            _, height, width = raw.values.shape
            place = st.tuples(
                st.just(level), st.integers(0, most - 1), st.integers(0, height - 1), st.integers(0, width - 1)
            )
            places += draw(st.lists(place, max_size=12))
    order = draw(st.permutations(range(len(places))))
    logits = draw(arrays(np.float32, len(places), elements=TAME))
    pyramid = Pyramid(
        np.array([8, 16, 32][:levels], np.float32),
        draw(arrays(np.float32, (levels, most), elements=st.sampled_from([8.0, 16.0, 23.7, 512.0]))),
        draw(st.sampled_from([np.array([0.1, 0.2], np.float32), np.array([1.0, 3.3], np.float32)])),
    )
    return maps, Anchors(np.array(places, np.int64).reshape(-1, 4)[order], logits), pyramid


SCALE = st.sampled_from([(1.0, 1.0), (0.5, 0.5), (0.3333, 1.7)])


@given(decoding(4), st.sampled_from([0.0, 0.3, 0.4, 1.0]), SCALE)
def test_boxes_are_the_reference_s(
    case: tuple[list[RawMap | None], Anchors, Pyramid], iou: float, scale: tuple[float, float]
) -> None:
    same(anchors.best_boxes, anchors.best_boxes_reference, *case, iou, scale)


@given(decoding(10), SCALE)
def test_landmarks_are_the_reference_s(
    case: tuple[list[RawMap | None], Anchors, Pyramid], scale: tuple[float, float]
) -> None:
    ours, theirs = (f(*case, scale) for f in (anchors.decode_landmarks, anchors.decode_landmarks_reference))
    np.testing.assert_array_equal(ours, theirs)     # an infinity may become a NaN, of any bits


@pytest.mark.parametrize(
    "place", [(-1, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (0, 2, 0, 0), (0, -1, 0, 0), (0, 0, 3, 0), (0, 0, 0, 4)]
)
def test_an_anchor_outside_its_map_is_refused(place: tuple[int, ...]) -> None:
    pyramid = Pyramid(np.array([8, 16], np.float32), np.ones((2, 2), np.float32), np.ones(2, np.float32))
    kept = Anchors(np.array([(0, 0, 0, 0), place], np.int64), np.zeros(2, np.float32))
    for decoder, channels in ((anchors.best_boxes, 8), (anchors.decode_landmarks, 20)):
        maps = [RawMap(np.zeros((channels, 3, 4), np.float32)), None]
        arguments = (0.4,) if decoder is anchors.best_boxes else ()
        with pytest.raises(IndexError):
            decoder(maps, kept, pyramid, *arguments)  # type: ignore[operator]  # two signatures


_PLACE = st.tuples(*[st.integers(-2, 6) | st.integers(-(1 << 63), (1 << 63) - 1)] * 4)


@given(decoding(4), st.lists(_PLACE, min_size=1, max_size=5))
def test_an_anchor_anywhere_at_all_is_decoded_or_refused(
    case: tuple[list[RawMap | None], Anchors, Pyramid], places: list[tuple[int, ...]]
) -> None:
    maps, _, pyramid = case
    kept = Anchors(np.array(places, np.int64), np.zeros(len(places), np.float32))

    def has(level: int, anchor: int, row: int, column: int) -> bool:
        raw = maps[level] if 0 <= level < len(maps) else None
        if raw is None:
            return False
        channels, height, width = raw.values.shape
        return 0 <= anchor < channels // 4 and 0 <= row < height and 0 <= column < width

    if not all(has(*place) for place in places):
        with pytest.raises(IndexError):
            anchors.best_boxes(maps, kept, pyramid, 0.4)
    else:
        same(anchors.best_boxes, anchors.best_boxes_reference, maps, kept, pyramid, 0.4)


@given(
    st.integers(0, 40).flatmap(
        lambda n: st.tuples(
            arrays(np.float32, (n, 4), elements=TAME | st.floats(width=32)),
            arrays(np.float32, n, elements=TAME | st.floats(width=32)),
        )
    ),
    st.sampled_from([0.0, 1 / 3, 0.4, 1.0, -1.0, np.nan]),
)
def test_suppression_is_the_reference_s_of_any_numbers(case: tuple[Floats, Floats], threshold: float) -> None:
    with np.errstate(all="ignore"):
        same(nms.nms, nms.nms_reference, *case, threshold)


@given(arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False)))
def test_sigmoid_is_the_reference_s(logits: Floats) -> None:
    with np.errstate(all="ignore"):
        same(logistic.sigmoid, exponential.sigmoid_reference, logits)


@given(
    st.tuples(st.integers(1, 9), st.integers(0, 5)).flatmap(
        lambda shape: arrays(np.float32, (3 * shape[0], 1, shape[1]), elements=TAME | st.floats(-500, 500, width=32))
    ),
    st.sampled_from([3.0, 0.7]),
)
def test_angles_are_the_reference_s(logits: Floats, bin_deg: float) -> None:
    stage = Bins("logits", len(logits) // 3, bin_deg, -97.5)
    if logits.size:
        same(bins.pose_degrees, bins.pose_degrees_reference, logits, stage)


@given(raw_map(2, WILD, (6, 6)), st.integers(1, 6), st.data())
def test_patches_are_the_reference_s(features: RawMap, patch: int, data: st.DataObject) -> None:
    _, height, width = features.values.shape
    place = st.tuples(st.integers(-1, height), st.integers(-1, width)) if data.draw(st.booleans()) else st.tuples(
        st.integers(0, height - 1), st.integers(0, width - 1)
    )
    places = np.array(data.draw(st.lists(place, max_size=6)), np.int64).reshape(-1, 2)
    same(roi.gather_patches, roi.gather_patches_reference, features, places[:, 0], places[:, 1], patch)


@given(
    raw_map(2, TAME, (6, 6)),
    arrays(np.float32, st.tuples(st.integers(0, 4), st.just(4)), elements=st.floats(-40, 60, width=32) | WILD),
    st.tuples(st.integers(1, 4), st.integers(1, 4)), st.sampled_from([1.0, 0.125, 0.3]), st.integers(1, 4),
)  # fmt: skip
def test_regions_are_the_reference_s(
    features: RawMap, boxes: Floats, out: tuple[int, int], scale: float, sampling: int
) -> None:
    with np.errstate(all="ignore"):
        same(roi.roi_align, roi.roi_align_reference, features, boxes, out, scale, sampling)
