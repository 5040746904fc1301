"""What nets of a cascade may give: shapes that are not theirs, values that are no numbers, int8, classes and points.

The nets are those of test_cascade.py, by hand.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from bright_nets import (
    DENSE,
    MHCNN,
    NO,
    ONET,
    PYRAMID,
    RNET,
    BrightCrops,
    BrightWindows,
    Run,
    TwoFaces,
    bundle,
    detector,
    on_crops,
    picture,
    sigmoid,
    tcnn,
)
from edgeface.bundle import Classes, Landmarks, PoseFromPoints, Score
from edgeface.errors import BundleError, EngineError
from edgeface.mean_face import MEAN_FACE_68
from edgeface.runtime.engines.registry import Takes
from edgeface.runtime.head_pose import five_of_68, rotation

Floats = NDArray[np.float32]

MTCNN = bundle(PYRAMID, RNET, ONET)


class Broken:
    """A net on crops whose outputs are those given, whatever it sees."""

    takes: Takes = "planes"

    def __init__(self, **maps: Floats) -> None:
        self.outputs = frozenset(maps)
        self._maps = maps

    def run(self, x: Floats) -> Run:
        return Run(self._maps)


def _zeros(**channels: int) -> dict[str, Floats]:
    wanted = {"score": 1, "box": 4, "landmarks": 10, "attributes": 2, "quality": 1, **channels}
    return {name: np.zeros((n, 1, 1), np.float32) for name, n in wanted.items() if n}


@pytest.mark.parametrize(("maps", "reason"), [
    (_zeros(score=2), "output score is 2 x 1 x 1 on 1 crops, not one value a crop"),
    (_zeros(box=8), "output box is 8 x 1 x 1 on 1 crops, not 4 values a crop"),
    (_zeros(landmarks=8), "output landmarks is 8 x 1 x 1 on 1 crops, not 10 values a crop"),
    (_zeros(attributes=1), "output attributes has 1 channels, an attribute needs channel 1"),
    (_zeros(quality=0), "have no output quality"),
    ({**_zeros(), "score": np.zeros((1, 5, 1), np.float32)}, "output score is 1 x 5 x 1 on 1 crops"),
])
def test_outputs_of_another_shape_are_named(maps: dict[str, Floats], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        detector(MHCNN, [TwoFaces(3.0, NO), Broken(**maps)], size_px=128)(picture([], 128, 128))


@pytest.mark.parametrize(("changed", "reason"), [
    ({"score": np.zeros((2, 123, 189), np.float32)}, "output score has 2 channels, a pyramid needs 1"),
    (
        {"score": np.zeros((1, 3, 3), np.float32)},
        "output score has 3 rows and 3 columns, of the strides in its bundle.json come 91 and 59",
    ),
    ({"box": np.zeros((5, 3, 3), np.float32)}, "output box has 5 channels, a pyramid needs 4"),
])
def test_maps_that_are_not_the_canvas_s_are_named(changed: dict[str, Floats], reason: str) -> None:
    good = BrightWindows()

    class Changed(BrightWindows):
        def run(self, x: Floats) -> Run:
            run = good.run(x)
            return Run({name: changed.get(name, run.output(name)) for name in self.outputs})

    with pytest.raises(BundleError, match=reason):
        detector(MTCNN, [Changed(), BrightCrops(24), BrightCrops(48)])(picture([]))


@pytest.mark.parametrize("name", ["score", "box"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_the_net_s_failure(name: str, value: float) -> None:
    maps = _zeros()
    maps[name][...] = value
    whole = detector(MHCNN, [TwoFaces(3.0, NO), Broken(**maps)], size_px=128)
    if (name, value) == ("score", np.inf):      # which is a probability of 1
        assert len(whole(picture([], 128, 128))) == 1
        return
    with pytest.raises(EngineError, match="use an fp32 bundle"):
        whole(picture([], 128, 128))


def test_int8_outputs_are_scaled() -> None:
    class Quantised(Broken):
        def run(self, x: Floats) -> Run:
            ones = {name: np.full(array.shape, 16, np.int8) for name, array in _zeros().items()}
            return Run(ones, 0.125)

    found = detector(MHCNN, [TwoFaces(3.0, NO), Quantised(**_zeros())], size_px=128)(picture([], 128, 128))
    np.testing.assert_allclose(found.scores, [(sigmoid(3) + sigmoid(2)) / 2], rtol=1e-6)
    np.testing.assert_allclose(found.attributes["mask"], [sigmoid(2)], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [[16 + 128, 16 + 128, 80 + 128, 80 + 128]])


def test_classes_and_68_points_of_a_net_on_crops() -> None:
    age = Classes("age", "age", ["child", "adult"], [8.0, 40.0])
    stage = on_crops(
        "tfn", 48, Score("score", 0.3, nms_iou=0.4), 20, Landmarks("points", 68), age,
        Classes("gender", "gender", ["f", "m"]),
    )
    answers = {"points": tuple(np.linspace(-0.5, 0.5, 136)), "age": (0.0, math.log(3)), "gender": (2.0, 0.0)}
    net = tcnn(**answers)
    found = detector(bundle(DENSE, stage), [TwoFaces(3.0, 3.0), net], size_px=128)(picture([], 128, 128))
    assert len(found) == 2
    assert found.landmarks68 is not None
    assert found.landmarks is not None
    np.testing.assert_allclose(found.landmarks, five_of_68(found.landmarks68), atol=1e-4)
    np.testing.assert_allclose(found.landmarks68[:, 0], found.boxes[:, :2] + [0, 64 / 135], atol=1e-4)
    np.testing.assert_allclose(found.landmarks68[:, -1], found.boxes[:, 2:] - [64 / 135, 0], atol=1e-4)
    np.testing.assert_allclose(found.classes["age"].probabilities, [[0.25, 0.75]] * 2, rtol=1e-6)
    expected = found.classes["age"].expectation()
    assert expected is not None
    np.testing.assert_allclose(expected, [32, 32], rtol=1e-6)
    assert found.classes["gender"].likeliest() == ["f", "f"]
    assert found.classes["gender"].expectation() is None


def test_pose_from_the_points_of_a_net_on_crops() -> None:
    turned = rotation(np.float64([[10, -20, 15]]))[0, :2] @ five_of_68(np.array(MEAN_FACE_68)).T     # (2, 5)
    points = tuple((turned * 0.2).T.ravel())
    stage = on_crops("tcnn", 48, Score("score", 0.3, nms_iou=0.4), 20, Landmarks("points"), PoseFromPoints("points"))
    nets = [TwoFaces(3.0, 3.0), tcnn(points=points)]
    found = detector(bundle(DENSE, stage), nets, size_px=128)(picture([], 128, 128))
    assert found.pose is not None
    np.testing.assert_allclose(found.pose, [[10, -20, 15]] * 2, atol=0.1)


@pytest.mark.parametrize(("value", "pose"), [(0.1, [[0.0] * 3]), (math.nan, None)], ids=["all one", "no number"])
def test_points_without_a_pose(value: float, pose: list[list[float]] | None) -> None:
    stage = on_crops("tcnn", 48, Score("score", 0.3, nms_iou=0.4), 20, PoseFromPoints("points"))
    nets = [TwoFaces(3.0, NO), tcnn(points=(value,) * 10)]
    if pose is None:
        with pytest.raises(EngineError, match="a landmark is not finite: use an fp32 bundle"):
            detector(bundle(DENSE, stage), nets, size_px=128)(picture([], 128, 128))
        return
    found = detector(bundle(DENSE, stage), nets, size_px=128)(picture([], 128, 128))
    assert found.pose is not None
    assert found.pose.tolist() == pose


def test_classes_of_another_number_are_refused() -> None:
    stage = on_crops("tfn", 48, Score("score", 0.3, nms_iou=0.4), 20, Classes("age", "age", ["a", "b", "c"]))
    with pytest.raises(BundleError, match=r"output age is 2 x 1 x 1 on 1 crops, not 3 values a crop"):
        detector(bundle(DENSE, stage), [TwoFaces(3.0, NO), tcnn(age=(0.0, 1.0))], size_px=128)(picture([], 128, 128))


def test_a_class_s_logit_that_is_no_number_is_the_net_s_failure() -> None:
    stage = on_crops("tfn", 48, Score("score", 0.3, nms_iou=0.4), 20, Classes("age", "age", ["a", "b"]))
    nets = [TwoFaces(3.0, NO), tcnn(age=(0.0, math.inf))]
    with pytest.raises(EngineError, match="a class's logit is not finite: use an fp32 bundle"):
        detector(bundle(DENSE, stage), nets, size_px=128)(picture([], 128, 128))
