"""Regions of several maps at once: what a net is given, boxes, points and classes of it, and what a bundle may say."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bright_nets import Run, bundle
from edgeface.bundle import (
    Box,
    Classes,
    DenseStage,
    FaceStage,
    Heatmaps,
    Joined,
    Landmarks,
    Level,
    Map,
    Score,
    inconsistency,
)
from edgeface.cli.model_lines import predicts
from edgeface.errors import BundleError
from edgeface.faces import face_records
from edgeface.runtime.decode.points import points_in_regions
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import RawMap
from edgeface.runtime.gather.joined import joined_regions
from edgeface.runtime.limits import Limits, limited
from edgeface.runtime.roi import roi_align
from edgeface.runtime.stages.kind import Sight
from edgeface.runtime.stages.kinds import kind_of

Floats = NDArray[np.float32]

LEVEL = Level(16, [64.0], "score16", "box16")
DENSE = DenseStage(
    ["dense"], "data", 128.0, 1 / 128, 32, [LEVEL], (0.1, 0.2), [Map("a", 8, 2), Map("b", 16, 3)],
)  # fmt: skip
GATHER = Joined(["a", "b"], [2.0, 0.5], 7, 2, 1.25)
AGES = Classes("age", "age", [str(year) for year in range(101)], [float(year) for year in range(101)])
GENDER = Classes("gender", "gender", ["female", "male"])
SCORE = Score("score", 0.3, 0.4)


def stage(*outputs: Any, gather: Joined = GATHER, limit: int | None = None) -> FaceStage:
    return FaceStage([["head"]], "regions", gather, list(outputs), limit)


class Dense:
    """Faces of 64 px at given cells of stride 16 with given logits; a's values are 1 and 2, those of b 3, 4 and 5."""

    takes = "planes"
    outputs = frozenset({"score16", "box16", "a", "b"})

    def __init__(self, *faces: tuple[int, int, float]) -> None:
        self._faces = faces

    def run(self, x: NDArray[Any]) -> Run:
        _, height, width = x.shape
        score = np.full((1, height // 16, width // 16), -9.0, np.float32)
        for row, column, logit in self._faces:
            score[0, row, column] = logit
        ones = [np.ones((1, height // stride, width // stride), np.float32) for stride in (8, 16)]
        return Run({
            "score16": score, "box16": np.zeros((4, *score.shape[1:]), np.float32),
            "a": np.concatenate([ones[0] * i for i in (1, 2)]), "b": np.concatenate([ones[1] * i for i in (3, 4, 5)]),
        })


class Head:
    """Answers (C,) by name, the same for every face."""

    takes = "planes"

    def __init__(self, **answers: Any) -> None:
        self._answers = {name: np.float32(values)[:, None, None] for name, values in answers.items()}
        self.outputs = frozenset(answers)
        self.seen: list[Floats] = []

    def run(self, x: NDArray[Any]) -> Run:
        self.seen.append(x)
        return Run(self._answers)


def found_by(dense: Dense, *stages_and_nets: tuple[FaceStage, Head], score: float = 0.5) -> Any:
    stages, nets = zip(*stages_and_nets, strict=True)
    opened: Any = [[dense], *([net] for net in nets)]
    whole = bundle(DENSE, *stages)
    assert inconsistency(whole) is None
    return Detector(whole, opened, size_px=256, score=score, nms_iou=0.4)(np.zeros((256, 256, 3), np.uint8))


def test_a_net_is_given_every_map_times_its_scale() -> None:
    head = Head(gender=(0.0, 1.0))
    found_by(Dense((5, 6, 4.0)), (stage(GENDER), head))
    (region,) = head.seen
    assert region.shape == (5, 7, 7)
    np.testing.assert_allclose(region[:, 3, 3], [2, 4, 1.5, 2, 2.5])


def test_joined_regions_are_the_aligned_ones_of_each_map() -> None:
    rng = np.random.default_rng(0)
    maps = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("a", (2, 32, 32)), ("b", (3, 16, 16)))}
    boxes = np.array([[10, 20, 100, 90], [-30, -10, 20, 40]], np.float32)
    found = joined_regions(GATHER, {"a": 8, "b": 16}, lambda name: RawMap(maps[name]), boxes)
    assert found.shape == (2, 5, 7, 7)
    np.testing.assert_array_equal(found[:, :2], 2 * roi_align(RawMap(maps["a"]), boxes, 7, 1 / 8, 2))
    np.testing.assert_array_equal(found[:, 2:], 0.5 * roi_align(RawMap(maps["b"]), boxes, 7, 1 / 16, 2))


def test_a_box_and_a_score_are_refined_and_the_next_stage_looks_at_the_new_box() -> None:
    # The anchor at row 5, column 6 is 72..136 and 56..120; its region is 80 px wide.
    refinement = stage(SCORE, Box("box"), gather=GATHER)
    head = Head(score=(3.0,), box=(0.1, 0.0, -0.1, 0.05))
    points = Head(points=np.linspace(-0.5, 0.5, 136))
    found = found_by(Dense((5, 6, 1.0)), (refinement, head), (stage(Landmarks("points", 68)), points))
    np.testing.assert_allclose(found.boxes, [[64 + 8, 48, 144 - 8, 128 + 4]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-3))], rtol=1e-6)
    new = np.array([72, 48, 136, 132])
    middle, half = (new[:2] + new[2:]) / 2, 1.25 * (new[2:] - new[:2]) / 2
    np.testing.assert_allclose(found.landmarks68[0, 0], (middle - half) + [0, 2 * half[1] / 135], rtol=1e-5)
    np.testing.assert_allclose(found.landmarks68[0, -1], (middle + half) - [2 * half[0] / 135, 0], rtol=1e-5)


def test_a_face_that_the_refinement_refuses_costs_nothing_more() -> None:
    refinement = stage(SCORE, Box("box"))
    gender = Head(gender=(0.0, 1.0))
    found = found_by(
        Dense((5, 6, 4.0)), (refinement, Head(score=(-3.0,), box=np.zeros(4))), (stage(GENDER), gender)
    )
    assert (len(found), gender.seen) == (0, [])
    assert found.classes["gender"].probabilities.shape == (0, 2)


def test_age_is_an_expectation_with_a_spread_and_gender_probabilities() -> None:
    logits = np.full(101, -30.0)
    logits[[30, 40]] = 5.0
    net = Head(age=logits, gender=(math.log(3), 0.0))
    found = found_by(Dense((5, 6, 4.0), (12, 12, 3.0)), (stage(AGES, GENDER), net))
    assert len(net.seen) == 2       # one inference a face for all of its answers
    record = face_records(found)[1]
    assert record["expectations"] == {"age": 35.0}
    assert record["spreads"] == {"age": 5.0}
    assert record["classes"] == {"gender": {"female": 0.75, "male": 0.25}}
    assert next(iter(found)).words() == ["age 35", "female"]


def test_points_in_regions_that_are_no_squares() -> None:
    offsets = np.array([[-0.5, -0.5, 0.0, 0.0, 0.5, 0.25] + [0.0] * 4], np.float32)
    found = points_in_regions(offsets, np.array([[10, 20, 30, 60]], np.float32))
    np.testing.assert_allclose(found[0, :3], [[10, 20], [20, 40], [30, 50]])


def test_classes_can_be_left_out_and_the_nets_that_tell_nothing_else_with_them() -> None:
    whole = bundle(DENSE, stage(SCORE, Box("box")), stage(Landmarks("points", 68), GENDER), stage(AGES))
    kept = limited(whole, Limits(classes=False))
    assert [type(output) for each in kept.face_stages for output in each.outputs] == [Score, Box, Landmarks]
    assert (list(whole.classes), list(kept.classes)) == (["gender", "age"], [])
    assert limited(whole, Limits()) == whole


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ([DENSE, stage(GENDER, gather=Joined(["a", "c"], [1.0, 1.0], 7))], "regions need features c from the dense"),
        ([DENSE, stage(GENDER, gather=Joined(["b", "a"], [1.0, 1.0], 7))], r"strides \[16, 8\], which must rise"),
        ([DENSE, stage(GENDER, gather=Joined(["a", "b"], [1.0], 7))], "joined regions have 1 scales for 2 maps"),
        ([DENSE, stage(SCORE)], "a stage has a score without a box"),
        ([DENSE, stage(Box("box"))], "a box without a score"),
        ([DENSE, stage(GENDER), stage(GENDER)], "two attributes have the name gender"),
        ([DENSE, stage(Classes("one", "x", ["a", "a"]))], "at least two of different names"),
        ([DENSE, stage(SCORE, Box("box"), GENDER), stage(SCORE, Box("box"))], "a stage before the last one has"),
        ([stage(GENDER)], "the stages joined are no pipeline"),
    ],
)
def test_stages_that_contradict_themselves_are_refused(stages: list[Any], reason: str) -> None:
    assert re.search(reason, inconsistency(bundle(*stages)) or "")


def test_a_bundle_of_joined_regions_describes_itself() -> None:
    whole = bundle(DENSE, stage(SCORE, Box("box"), limit=200), stage(Heatmaps("maps", 68)), stage(GENDER))
    assert inconsistency(whole) is None
    assert list(predicts(whole)) == ["boxes", "five landmarks", "68 landmarks", "gender: female or male"]
    assert list(predicts(bundle(DENSE, stage(AGES)))) == ["boxes", "age from 0 to 100"]
    kind = kind_of(whole.stages[1])
    assert [text for _, text in kind.describe(whole.stages[1])] == [
        "7 x 7 features of each face, 1.25 boxes wide, from a and b together", "for score, box",
        "score 0.3, instead of the one before, at most 200",
    ]
    assert kind.input_shapes(whole.stages[1], 0, 256, {"a": 2, "b": 3}) == [(5, 7, 7)]
    changed = limited(whole, Limits(thresholds=(0.2,), candidates=3))
    (score,) = changed.refining_stages[0].all_of(Score)
    assert score.threshold == 0.2
    assert [each.limit for each in changed.face_stages] == [3, 3, 3]


def test_a_parity_report_tries_joined_regions() -> None:
    whole = bundle(DENSE, stage(GENDER))
    run = Dense().run(np.zeros((3, 256, 256)))
    sight = Sight(
        np.zeros((256, 256, 3), np.uint8), np.empty((0, 4), np.float32), 256, 5,
        {name: run.output(name) for name in ("a", "b")},
    )
    head: Any = Head(gender=(0.0, 1.0))
    trials = list(kind_of(whole.stages[1]).trials(whole, whole.stages[1], ([head], [head]), sight))
    assert [trial.x.shape for trial in trials] == [(5, 7, 7)] * 5
    assert trials[0].outputs == {"gender": "gender of regions"}


def test_a_net_with_another_number_of_answers_is_refused() -> None:
    with pytest.raises(BundleError, match="output gender is 3 x 1 x 1 on 1 regions, not 2 values a region"):
        found_by(Dense((5, 6, 4.0)), (stage(GENDER), Head(gender=(0.0, 1.0, 2.0))))
