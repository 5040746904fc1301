"""Cascades by hand, on nets that take a white square with as much black round it for a face."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from bright_nets import (
    ATTRIBUTES,
    DENSE,
    MHCNN,
    NO,
    ONET,
    PYRAMID,
    RNET,
    TCNN,
    BrightCrops,
    BrightWindows,
    Run,
    TwoFaces,
    bundle,
    detector,
    picture,
    sigmoid,
    tcnn,
    tcnn_stage,
)
from edgeface.bundle import (
    Binary,
    Bins,
    FaceStage,
    Points,
)
from edgeface.errors import OptionError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines.registry import Takes
from edgeface.runtime.gather.crops import STRIPS
from edgeface.runtime.nms import iou

Floats = NDArray[np.float32]

MTCNN = bundle(PYRAMID, RNET, ONET)
POSE = FaceStage([["pose"]], "patches", Points(["features"], 1), [Bins("logits", 66, 3.0, -97.5)])


def mtcnn(**options: Any) -> tuple[Detector, BrightWindows, BrightCrops, BrightCrops]:
    nets = BrightWindows(), BrightCrops(24), BrightCrops(48)
    return detector(MTCNN, nets, **options), *nets


class Pose:
    """Puts every angle into the bin that the feature names."""

    takes: Takes = "planes"
    outputs = frozenset({"logits"})

    def __init__(self) -> None:
        self.faces: list[int] = []

    def run(self, x: Floats) -> Run:
        self.faces.append(x.shape[2])
        logits = np.full((3, 66, x.shape[2]), -1e4, np.float32)
        logits[:, x[0, 0].astype(int), np.arange(x.shape[2])] = 0
        return Run({"logits": logits.reshape(198, 1, -1)})


def test_faces_of_three_sizes_are_found_by_three_nets() -> None:
    squares = [(24, 32, 48), (120, 100, 24), (144, 128, 96)]
    found = mtcnn()[0](picture(squares))
    assert len(found) == 3
    wanted = np.array([[x, y, x + side, y + side] for x, y, side in squares], np.float32)
    assert (iou(found.boxes, wanted).max(axis=0) > 0.9).all()
    assert found.landmarks is not None
    # Landmarks of 0 are the middle of each crop.
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    np.testing.assert_allclose(found.landmarks, np.repeat(middles[:, None], 5, axis=1), atol=1)
    assert found.pose is None
    assert found.attributes == {}
    assert list(found.scores) == sorted(found.scores, reverse=True)


def test_an_empty_picture_costs_the_first_stage_alone() -> None:
    whole, windows, rnet, onet = mtcnn()
    found = whole(picture([]))
    assert (len(found), len(windows.seen), rnet.sizes, onet.sizes) == (0, 1, [], [])
    assert found.landmarks is not None
    assert found.landmarks.shape == (0, 5, 2)


def test_a_picture_smaller_than_a_window_has_no_faces() -> None:
    assert len(mtcnn()[0](picture([], 5, 200))) == 0


def test_offsets_and_landmarks_are_in_sides_of_the_crop() -> None:
    onet = BrightCrops(48, {"box": (0.25, 0.5, -0.25, 0.5), "landmarks": (0.5, -0.5, *[0.0] * 8)})
    found = detector(MTCNN, [BrightWindows(), BrightCrops(24), onet], size_px=256, nms_iou=0.0)(
        picture([(100, 100, 24)])
    )
    # One window of 24 px at 12 / 24 lies exactly on the square.
    np.testing.assert_allclose(found.boxes[0], [106, 112, 118, 136])
    assert found.landmarks is not None
    np.testing.assert_allclose(found.landmarks[0, :2], [[124, 100], [112, 112]])


def test_size_decides_how_large_the_smallest_face_is() -> None:
    small = picture([(100, 100, 24)])
    assert len(mtcnn(size_px=256)[0](small)) == 1
    assert len(mtcnn(size_px=128)[0](small)) == 0       # there a face has 24 px from 48 px of the picture on
    assert len(mtcnn(size_px=(512, 256))[0](small)) == 1


@pytest.mark.parametrize("pixels", ["bgr", "rgb", "grey", "nv12", "yuyv"])
@pytest.mark.parametrize("takes", ["planes", "pixels"])
def test_frames_of_every_format_and_nets_of_both_kinds_agree(pixels: Any, takes: Takes) -> None:
    bgr = picture([(40, 64, 48), (144, 96, 96)])
    grey = bgr[:, :, 0]
    luma = np.where(grey > 0, 235, 16).astype(np.uint8)
    chroma = np.full((128, 256), 128, np.uint8)
    frames = {
        "bgr": bgr, "rgb": bgr[:, :, ::-1].copy(), "grey": grey.copy(), "nv12": np.concatenate((luma, chroma)),
        "yuyv": np.stack((luma, np.full_like(luma, 128)), axis=2),
    }
    nets = BrightWindows(takes), BrightCrops(24, takes=takes), BrightCrops(48, takes=takes)
    found = detector(MTCNN, nets)(Frame(frames[pixels], pixels))
    expected = mtcnn()[0](bgr)
    assert len(found) == len(expected) == 2
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.5)


@given(
    squares=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(24, 56)), max_size=6),
    limit=st.integers(1, 40), score=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_no_net_sees_more_than_the_limit_and_no_face_is_under_the_score(
    squares: list[tuple[int, int, int]], limit: int, score: float
) -> None:
    stages = [replace(stage, limit=limit) for stage in (PYRAMID, RNET, ONET)]
    nets = BrightWindows(), BrightCrops(24), BrightCrops(48)
    found = detector(bundle(*stages), nets, score=score, nms_iou=0.3)(picture(squares))
    assert sum(nets[1].sizes) <= limit
    assert sum(nets[2].sizes) <= sum(nets[1].sizes)
    assert len(found) <= sum(nets[2].sizes)
    assert (found.scores >= np.float32(score)).all()
    overlap = iou(found.boxes, found.boxes)
    np.fill_diagonal(overlap, 0)
    assert (overlap <= 0.3).all()


@given(count=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_crops_go_through_in_strips_of_few_sizes(count: int) -> None:
    rnet = BrightCrops(24)
    squares = [(28 * (i % 9), 28 * (i // 9), 24) for i in range(count)]
    stages = [replace(stage, limit=100) for stage in (PYRAMID, RNET, ONET)]
    found = detector(bundle(*stages), [BrightWindows(), rnet, BrightCrops(48)])(picture(squares))
    assert set(rnet.sizes) <= set(STRIPS)
    assert sum(rnet.sizes) >= count
    assert len(found) == count


def test_windows_that_a_pyramid_gives_up_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    squares = [(28 * (i % 9), 28 * (i // 9), 24) for i in range(20)]
    stages = [replace(stage, limit=limit) for stage, limit in ((PYRAMID, 3), (RNET, 100), (ONET, 100))]
    found = detector(bundle(*stages), [BrightWindows(), BrightCrops(24), BrightCrops(48)])
    assert [len(found(picture(squares))) for _ in range(2)] == [3, 3]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "or more windows that reach the score, the" in said
    assert said.endswith("more candidates where the model lets you")


def test_a_mean_of_two_scores_decides_and_the_pose_is_of_the_dense_anchor() -> None:
    # T-CNN's boxes are apart: the right quarter of each crop and the left one, so that NMS takes none away.
    pose, refiner = Pose(), tcnn(2.0, box=(0.0, 0.0, -0.75, 0.0))
    whole = Detector(
        bundle(DENSE, POSE, TCNN), [[TwoFaces(1.0, 3.0)], [pose], [refiner]], size_px=128, score=0.5, nms_iou=0.4
    )
    found = whole(picture([], 128, 128))
    np.testing.assert_allclose(found.scores, [(sigmoid(x) + sigmoid(2)) / 2 for x in (3, 1)], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [[48, 16, 64, 80], [16, 16, 32, 80]])
    assert found.landmarks is not None
    np.testing.assert_allclose(found.landmarks, [[[80, 48]] * 5, [[48, 48]] * 5])
    np.testing.assert_allclose(found.attributes["mask"], [sigmoid(1)] * 2, rtol=1e-6)
    np.testing.assert_allclose(found.attributes["quality"], [sigmoid(-2)] * 2, rtol=1e-6)
    assert found.thresholds == {"mask": 0.6, "quality": 0.5}
    assert found.has("mask").all()
    assert not found.has("quality").any()
    assert found.pose is not None
    # The features of row 1 are 4, 5, 6, 7: bins of 3 degrees from -97.5.
    np.testing.assert_allclose(found.pose[:, 0], [-97.5 + 3 * 6, -97.5 + 3 * 5], atol=1e-3)


def test_no_pose_is_computed_for_what_the_refinement_turns_down() -> None:
    pose = Pose()
    whole = Detector(
        bundle(DENSE, POSE, TCNN), [[TwoFaces(1.0, 3.0)], [pose], [tcnn(-8.0)]], size_px=128, score=0.6, nms_iou=0.4
    )
    found = whole(picture([], 128, 128))
    assert (len(found), pose.faces) == (0, [])
    assert found.pose is not None
    assert found.pose.shape == (0, 3)


@pytest.mark.parametrize(("logits", "score", "looked_at"), [
    ((3.0, -2.0), 0.5, 1),      # 0.12 is under T-CNN's own threshold
    ((3.0, 0.0), 0.5, 2),
    ((3.0, 0.0), 0.8, 1),       # a mean of 0.5 and at most 1 is no 0.8
    ((-3.0, -3.0), 0.0, 0),
])
def test_only_what_can_still_become_a_face_is_looked_at(
    logits: tuple[float, float], score: float, looked_at: int
) -> None:
    refiner = tcnn()
    detector(MHCNN, [TwoFaces(*logits), refiner], size_px=128, score=score, nms_iou=1.0)(picture([], 128, 128))
    assert sum(refiner.sizes) == looked_at


@given(first=st.floats(-6, 6), second=st.floats(-6, 6), refined=st.floats(-6, 6), score=st.floats(0, 1),
       share=st.sampled_from([0.2, 0.5, 0.7]))
@settings(max_examples=100, deadline=None)
def test_looking_at_fewer_loses_no_face(
    first: float, second: float, refined: float, score: float, share: float
) -> None:
    two = bundle(DENSE, tcnn_stage(*ATTRIBUTES, share_before=share))
    whole = detector(two, [TwoFaces(first, second), tcnn(refined)], size_px=128, score=score, nms_iou=1.0)
    found = whole(picture([], 128, 128))
    before = [sigmoid(dense) for dense in (first, second)]
    means = [share * dense + (1 - share) * sigmoid(refined) for dense in before if dense >= 0.3]
    sure = [mean for mean in means if mean >= max(score, 0.3) + 1e-5]
    maybe = [mean for mean in means if mean >= max(score, 0.3) - 1e-5]
    assert len(sure) <= len(found) <= len(maybe)


def test_one_picture_and_many_come_to_the_same() -> None:
    class Batching(TwoFaces):
        def run_batch(self, inputs: Any) -> Any:
            raise AssertionError("a cascade takes its pictures one by one")

    whole = detector(MHCNN, [Batching(3.0, 1.0), tcnn()], size_px=128)
    pictures = [picture([], 128, 128), picture([(10, 10, 40)], 128, 128)]
    for one, many in zip(map(whole, pictures), whole.batch(pictures), strict=True):
        assert isinstance(many, Faces)
        np.testing.assert_array_equal(one.boxes, many.boxes)
        np.testing.assert_array_equal(one.scores, many.scores)


def test_raw_has_every_net_on_inputs_that_no_other_net_decides() -> None:
    outputs = mtcnn()[0].raw(picture([]))
    assert list(outputs) == ["0.score", "0.box", "1.score", "1.box", "2.score", "2.box", "2.landmarks"]
    assert outputs["1.box"].shape == (4, 4, 1)
    outputs = detector(MHCNN, [TwoFaces(NO, NO), tcnn()], size_px=128).raw(picture([], 128, 128))
    assert list(outputs) == [
        "scores", "boxes", "features", "1.score", "1.box", "1.landmarks", "1.attributes", "1.quality",
    ]
    scores = mtcnn()[0].raw(picture([(128, 0, 128)]))["1.score"].ravel()
    assert scores[1] > 7
    assert (scores[[0, 2, 3]] == -8).all()


def test_the_parts_of_the_time_are_the_whole() -> None:
    _, timing = mtcnn()[0].timed(picture([(104, 104, 48)]))
    parts = timing.preprocess_ms, timing.network_ms, timing.decode_ms
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(timing.total_ms)


def test_a_refinement_alone_is_no_detector() -> None:
    with pytest.raises(OptionError, match=r"tcnn is no detector, .*'edgeface detect --model mos_s --refine tcnn'"):
        detector(bundle(TCNN, name="tcnn"), [tcnn()])


@pytest.mark.parametrize("size_px", [11, 8193, (256, 11)])
def test_a_size_that_no_window_fits_into_is_refused(size_px: int | tuple[int, int]) -> None:
    with pytest.raises(OptionError, match="choose 12 to 8192 pixels"):
        mtcnn(size_px=size_px)


def test_attributes_of_a_stage_before_the_last_are_not_computed() -> None:
    both = bundle(DENSE, TCNN, tcnn_stage(Binary("mask", "attributes", 0, 0.5)))
    second = tcnn()
    found = detector(both, [TwoFaces(3.0, NO), tcnn(), second], size_px=128)(picture([], 128, 128))
    assert list(found.attributes) == ["mask"]
    np.testing.assert_allclose(found.attributes["mask"], [sigmoid(-1)], rtol=1e-6)
