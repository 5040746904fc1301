"""Stages on regions: which level a face takes, and heatmaps of 5 and 68 points, by nets whose answers are known."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bright_nets import Run, bundle
from edgeface.bundle import Bundle, DenseStage, FaceStage, Heatmaps, Level, Map, Regions, inconsistency
from edgeface.cli.model_lines import predicts
from edgeface.errors import BundleError, EngineError
from edgeface.faces import face_records
from edgeface.frames import as_frame
from edgeface.runtime.clock import Clock
from edgeface.runtime.decode.heatmaps import heatmap_points, heatmap_points_reference
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import RawMap
from edgeface.runtime.gather.regions import RegionGatherer, levels_of, widened
from edgeface.runtime.limits import Limits, limited
from edgeface.runtime.stages import dense
from edgeface.runtime.stages.kind import Sight
from edgeface.runtime.stages.kinds import kind_of
from edgeface.runtime.stages.stage import Found, Scene

Floats = NDArray[np.float32]

DENSE = DenseStage(
    ["dense"], "data", 128.0, 1 / 128, 32,
    [Level(16, [64.0], "score16", "box16"), Level(32, [256.0], "score32", "box32")],
    (0.1, 0.2), [Map("features4", 4, 2), Map("features8", 8, 2)],
)  # fmt: skip
GATHER = Regions(["features4", "features8"], 14, 2, 1.25, finest_px=128.0)
FIVE, MANY = Heatmaps("maps", 5, shuffle=1, upsample=4, reach=4), Heatmaps("maps", 68, shuffle=2, upsample=2, reach=4)


def stage(*outputs: Any, limit: int | None = None, gather: Regions = GATHER) -> FaceStage:
    return FaceStage([["head"]], "regions", gather, list(outputs), limit)


class Dense:
    """Faces at given cells of the levels, (level, row, column), best first; features are the picture, made smaller."""

    takes = "planes"
    outputs = frozenset({"score16", "box16", "score32", "box32", "features4", "features8"})

    def __init__(self, *faces: tuple[int, int, int], spoil: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._faces, self._spoil = faces, spoil or {}

    def run(self, x: NDArray[Any]) -> Run:
        _, height, width = x.shape
        maps: dict[str, NDArray[Any]] = {}
        for level, stride in enumerate((16, 32)):
            score = np.full((1, height // stride, width // stride), -9.0, np.float32)
            for rank, (number, row, column) in enumerate(self._faces):
                if number == level:
                    score[0, row, column] = 6 - 0.01 * rank
            maps[f"score{stride}"] = score
            maps[f"box{stride}"] = np.zeros((4, *score.shape[1:]), np.float32)
        for stride in (4, 8):
            grey = cv2.resize(x[0], (width // stride, height // stride), interpolation=cv2.INTER_AREA)
            maps[f"features{stride}"] = np.stack((grey, -grey))
        return Run({**maps, **self._spoil})


class Head:
    """Every point is where the first feature is highest."""

    takes = "planes"
    outputs = frozenset({"maps"})

    def __init__(self, output: Heatmaps, spoil: float = 0.0) -> None:
        self._output, self._spoil = output, spoil
        self.seen: list[Floats] = []

    def run(self, x: NDArray[Any]) -> Run:
        self.seen.append(x)
        u = self._output.shuffle
        channels = self._output.points * u * u
        return Run({"maps": np.repeat(x[:1] * 12 + np.float32(self._spoil), channels, axis=0)})


def detector(whole: Bundle, dense: Dense, head: Head, size_px: int = 512) -> Detector:
    nets: Any = [[dense], [head]]
    return Detector(whole, nets, size_px=size_px, score=0.5, nms_iou=0.4)


def dotted(x: float, y: float, size_px: int = 512, radius_px: float = 6) -> NDArray[np.uint8]:
    """A bright dot about (x, y) on black."""
    rows, columns = np.mgrid[:size_px, :size_px] + 0.5
    bright = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius_px**2))
    return np.repeat(bright.astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("output", [FIVE, MANY])
@pytest.mark.parametrize(("face", "centre", "side"), [((0, 9, 11), (184, 152), 64), ((1, 6, 7), (240, 208), 256)])
def test_points_are_where_they_are_in_the_picture(
    output: Heatmaps, face: tuple[int, int, int], centre: tuple[float, float], side: float
) -> None:
    spot = centre[0] + 0.2 * side, centre[1] - 0.3 * side
    head = Head(output)
    found = detector(bundle(DENSE, stage(output)), Dense(face), head)(dotted(*spot, radius_px=side / 12))
    assert head.seen[0].shape == (2, 14, 14)
    points = found.landmarks if output.points == 5 else found.landmarks68
    assert points is not None
    # A cell of the region is 1.25 / 14 of the box; the peak is far finer.
    np.testing.assert_allclose(points[0], np.broadcast_to(spot, points[0].shape), atol=0.02 * side)


def test_points_are_right_in_a_picture_that_was_made_smaller() -> None:
    spot = (2 * 190.0, 2 * 140.0)
    found = detector(bundle(DENSE, stage(FIVE)), Dense((0, 9, 11)), Head(FIVE))(dotted(*spot, 1024, 12))
    assert found.landmarks is not None
    np.testing.assert_allclose(found.boxes[0], [304, 240, 432, 368], atol=0.01)
    np.testing.assert_allclose(found.landmarks[0], np.broadcast_to(spot, (5, 2)), atol=2.5)


def test_the_level_is_that_of_the_paper() -> None:
    sides = np.array([1, 40, 111, 112, 223.9, 224, 300, 447, 448, 900, 4000])
    boxes = np.stack((0 * sides, 0 * sides, sides * 0.8, sides / 0.8), axis=1)
    for k0 in (2, 3, 4):
        expected = [min(6, max(2, math.floor(k0 + math.log2(side / 224)))) - 2 for side in sides]
        assert levels_of(boxes, 224 * 2.0 ** (3 - k0), 5).tolist() == expected


def test_a_face_takes_the_map_of_its_level_with_its_margin() -> None:
    taken: list[str] = []

    class Maps:
        scale = (0.5, 0.25)

        def raw(self, name: str) -> RawMap:
            taken.append(name)
            return RawMap(np.full((1, 64, 64), len(taken), np.float32))

    class Net:
        outputs, takes = frozenset({"maps"}), "planes"

        def run(self, x: Floats) -> Run:
            return Run({"maps": x})

    net: Any = Net()
    gather = RegionGatherer("hand", GATHER, {"features4": 4, "features8": 8}, [net])
    # In the net's input 100 and 200 px wide, as they are 400 and 800 px high in the picture.
    boxes = np.array([[0, 0, 400, 800], [0, 0, 200, 400], [8, 8, 8, 8]], np.float32)
    scene = Scene(as_frame(np.zeros((8, 8, 3), np.uint8)), Clock(), 64, 0.5, 0.4)
    gathered = gather(scene, Found(boxes, np.ones(3, np.float32), maps=Maps()))
    assert taken == ["features4", "features8"]
    maps = gathered.wholes("maps", 1)
    assert [float(each.values.max()) for each in maps] == [2.0, 1.0, 1.0]
    np.testing.assert_array_equal(gathered.boxes, widened(boxes, 1.25))
    np.testing.assert_array_equal(gathered.boxes[0], [-50, -100, 450, 900])
    np.testing.assert_array_equal(gathered.select(np.array([1])).boxes, gathered.boxes[1:2])
    with pytest.raises(BundleError, match="output maps is 1 x 14 x 14, not a map of 68 channels"):
        gathered.wholes("maps", 68)


@pytest.mark.parametrize(
    ("points", "shuffle", "upsample", "reach"), [(5, 1, 1, 0), (5, 1, 2, 3), (68, 2, 2, 4), (5, 3, 4, 15)]
)
def test_heatmaps_equal_opencv_s_resizing_and_a_softmax(
    points: int, shuffle: int, upsample: int, reach: int
) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 3, (points * shuffle**2, 9, 7)).astype(np.float32)
    output = Heatmaps("maps", points, shuffle, upsample, reach)  # type: ignore[arg-type]  # of few literals
    expected = []
    for k in range(points):
        own = values[k * shuffle**2 : (k + 1) * shuffle**2].reshape(shuffle, shuffle, 9, 7)
        coarse = np.zeros((9 * shuffle, 7 * shuffle))
        for i in range(shuffle):
            for j in range(shuffle):
                coarse[i::shuffle, j::shuffle] = own[i, j]
        fine = cv2.resize(coarse, None, fx=upsample, fy=upsample, interpolation=cv2.INTER_LINEAR)
        row, column = np.unravel_index(fine.argmax(), fine.shape)
        y, x = np.mgrid[: fine.shape[0], : fine.shape[1]]
        weight = np.exp(fine - fine.max()) * (abs(y - row) <= reach) * (abs(x - column) <= reach)
        weight /= weight.sum()
        expected.append([((x + 0.5) * weight).sum() / fine.shape[1], ((y + 0.5) * weight).sum() / fine.shape[0]])
    found = heatmap_points(RawMap(values), output)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found, heatmap_points_reference(RawMap(values), output))


def test_equal_peaks_are_the_first_and_tiny_maps_have_one() -> None:
    rng = np.random.default_rng(5)
    for number in range(60):
        shuffle, upsample, reach = (int(v) for v in rng.integers((1, 1, 0), (4, 5, 6)))
        output = Heatmaps("maps", 5, shuffle, upsample, reach)
        shape = (5 * shuffle**2, int(rng.integers(1, 9)), int(rng.integers(1, 9)))
        levels = rng.integers(-1, 2, shape) if number % 3 else np.zeros(shape)
        raw = RawMap(levels.astype(np.float32) * np.float32(10.0 ** rng.uniform(-3, 3)))
        np.testing.assert_array_equal(heatmap_points(raw, output), heatmap_points_reference(raw, output))


def test_heatmaps_of_int8_are_real_values() -> None:
    levels = np.random.default_rng(4).integers(-127, 128, (20, 6, 6)).astype(np.int8)
    output = Heatmaps("maps", 5, 2, 2, 3)
    real = RawMap(levels.astype(np.float32) * np.float32(0.1))
    np.testing.assert_array_equal(heatmap_points(RawMap(levels, 0.1), output), heatmap_points(real, output))


def test_five_landmarks_come_of_68() -> None:
    whole = bundle(DENSE, stage(MANY))
    assert whole.gives_landmarks
    assert list(predicts(whole)) == ["boxes", "five landmarks", "68 landmarks"]
    found = detector(whole, Dense((0, 9, 11)), Head(MANY))(dotted(190, 140))
    assert found.landmarks is not None
    assert found.landmarks68 is not None
    many = found.landmarks68[0]
    np.testing.assert_allclose(found.landmarks[0, 0], many[36:42].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(found.landmarks[0, 2:], many[[30, 48, 54]])
    (record,) = face_records(found)
    assert len(record["landmarks68"]) == 68
    assert len(record["landmarks"]) == 5
    x, y = np.rint(many[0]).astype(int)
    near = slice(y - 2, y + 3), slice(x - 2, x + 3)
    assert (found.draw()[near] != found.picture.to_bgr()[near]).any()


def test_an_empty_picture_costs_the_dense_net_alone() -> None:
    head = Head(MANY)
    found = detector(bundle(DENSE, stage(MANY)), Dense(), head)(dotted(190, 140))
    assert len(found) == 0
    assert head.seen == []
    assert found.landmarks68 is not None
    assert found.landmarks68.shape == (0, 68, 2)


def test_a_face_outside_the_picture_and_one_without_an_area_have_finite_points() -> None:
    far = np.zeros((4, 32, 32), np.float32)
    far[:, 9, 11] = 90.0, -90.0, 0.0, 0.0
    flat = np.zeros((4, 32, 32), np.float32)
    flat[2:, 9, 11] = -500.0
    for box in (far, flat):
        dense = Dense((0, 9, 11), spoil={"box16": box})
        found = detector(bundle(DENSE, stage(MANY)), dense, Head(MANY))(dotted(190, 140))
        assert len(found) == 1
        assert found.landmarks68 is not None
        assert np.isfinite(found.landmarks68).all()
        inside = widened(found.boxes, GATHER.margin)[0]
        assert (found.landmarks68 >= inside[:2] - 1e-3).all()
        assert (found.landmarks68 <= inside[2:] + 1e-3).all()


def test_more_faces_than_the_limit_are_given_up_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    faces = [(0, row, column) for row in range(0, 32, 4) for column in range(0, 32, 4)]
    head = Head(FIVE)
    found = detector(bundle(DENSE, stage(FIVE, limit=10)), Dense(*faces), head)
    with caplog.at_level(logging.WARNING):
        kept = [found(dotted(190, 140)), found(dotted(190, 140))]
    assert [len(each) for each in kept] == [10, 10]
    assert len(head.seen) == 20
    assert kept[0].scores.min() > 0.99
    assert [record.getMessage() for record in caplog.records] == [
        "hand: a picture has 64 faces, the 10 best are looked at and more are given up: choose a higher score, or more "
        "candidates where the model lets you"
    ]
    assert limited(found.bundle, Limits(candidates=3)).face_stages[0].limit == 3


def test_more_places_than_a_dense_stage_looks_at_are_said_once_and_the_best_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faces = [(0, row, column) for row in range(0, 32, 4) for column in range(0, 32, 4)]
    found = detector(bundle(DENSE, stage(FIVE)), Dense(*faces), Head(FIVE))
    everyone = found(dotted(190, 140))
    assert len(everyone) == 64
    assert not caplog.records
    monkeypatch.setattr(dense, "MAX_CANDIDATES", 5)
    some = [found(dotted(190, 140)), found(dotted(190, 140))]
    assert [len(each) for each in some] == [5, 5]
    np.testing.assert_array_equal(np.sort(some[0].scores), np.sort(everyone.scores)[-5:])
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "hand: a picture has 6 or more places that reach the score"
    ]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"features4": np.zeros((2, 1, 1), np.float32)}, "features4 has 1 rows and 1 columns, .* come 128 and 128"),
        ({"features4": np.zeros((3, 128, 128), np.float32)}, "features4 has 3 channels, its bundle.json says 2"),
    ],
)
def test_maps_that_do_not_fit_their_stride_are_refused(spoil: dict[str, NDArray[Any]], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        detector(bundle(DENSE, stage(FIVE)), Dense((0, 9, 11), spoil=spoil), Head(FIVE))(dotted(190, 140))


def test_heatmaps_that_are_no_numbers_are_the_net_s_failure() -> None:
    with pytest.raises(EngineError, match="a heatmap's logit is not finite"):
        detector(bundle(DENSE, stage(FIVE)), Dense((0, 9, 11)), Head(FIVE, np.nan))(dotted(190, 140))


def test_heatmaps_of_another_number_of_points_are_refused() -> None:
    with pytest.raises(BundleError, match="output maps is 5 x 14 x 14, not a map of 272 channels"):
        detector(bundle(DENSE, stage(MANY)), Dense((0, 9, 11)), Head(FIVE))(dotted(190, 140))


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ([DENSE, stage(FIVE, gather=Regions(["features16"], 14))], "regions need features features16 from the dense"),
        ([DENSE, stage(FIVE, gather=Regions(["features8", "features4"], 14))], r"strides \[8, 4\], which must rise"),
        ([DENSE, FaceStage([["a"], ["b"]], "regions", GATHER, [FIVE])], "2 nets on regions for one"),
        ([DENSE, stage(FIVE, FIVE)], "as many landmarks twice"),
        ([stage(FIVE)], "the stages regions are no pipeline"),
        ([DENSE, stage(FIVE), stage(MANY)], "the stages dense, regions, regions are no pipeline"),
    ],
)
def test_stages_that_contradict_themselves_are_refused(stages: list[Any], reason: str) -> None:
    assert re.search(reason, inconsistency(bundle(*stages)) or "")


def test_a_bundle_of_regions_is_consistent_and_describes_itself() -> None:
    whole = bundle(DENSE, stage(FIVE, MANY, limit=500))
    assert inconsistency(whole) is None
    lines = [text for _, text in kind_of(whole.stages[1]).describe(whole.stages[1])]
    assert lines == [
        "14 x 14 features of each face, 1.25 boxes wide, from features4, features8; the first up to 128 px",
        "at most 500 faces",
    ]


def test_a_parity_report_tries_regions_of_every_level() -> None:
    whole = bundle(DENSE, stage(MANY))
    dense: Any = Dense()
    run = dense.run(np.random.default_rng(0).normal(size=(3, 512, 512)).astype(np.float32))
    maps = {name: run.output(name) for name in ("features4", "features8")}
    sight = Sight(np.zeros((512, 512, 3), np.uint8), np.empty((0, 4), np.float32), 512, 17, maps)
    head: Any = Head(MANY)
    trials = list(kind_of(whole.stages[1]).trials(whole, whole.stages[1], ([head], [head]), sight))
    assert len(trials) == 17
    assert {trial.x.shape for trial in trials} == {(2, 14, 14)}
    assert trials[0].outputs == {"maps": "maps of regions"}
