"""The detector: by hand on made-up maps, and on real engines against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

import edgeface
from edgeface.bundle import Bins, Bundle, Defaults, DenseStage, FaceStage, Level, Map, Points
from edgeface.errors import BundleError, EngineError, InputError, OptionError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.runtime import align, anchors, logistic, nms, preprocess, roi
from edgeface.runtime.decode import bins as pose_bins
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.engines.registry import Takes
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.nms import iou
from edgeface.runtime.stages.dense import map_names

Floats = NDArray[np.float32]

DENSE = DenseStage(
    ["dense"], "data", 128.0, 1 / 128, 32,
    [
        Level(8, [16.0, 32.0], "score8", "box8", "landmarks8"),
        Level(32, [256.0, 512.0], "score32", "box32", "landmarks32"),
    ],
    (0.1, 0.2), [Map("features8", 8), Map("features32", 32)],
)  # fmt: skip
POSE = FaceStage(
    [["pose8"], ["pose32"]], "patches", Points(["features8", "features32"], 3), [Bins("logits", 66, 3.0, -97.5)]
)
BUNDLE = Bundle(2, "hand", "hand", "fp32", "fake", [DENSE, POSE], Defaults(64, 0.5, 0.4), [], "", {}, {}, True)
SIZE_PX = 64


class FakeRun:
    """Remembers which outputs were asked for."""

    def __init__(self, maps: Mapping[str, Floats], asked: list[str]) -> None:
        self._maps = maps
        self._asked = asked

    def output(self, name: str) -> Floats:
        return self.raw(name).real()

    def raw(self, name: str) -> RawMap:
        self._asked.append(name)
        return RawMap(self._maps[name])


class FakeNet:
    """A dense net that gives fixed maps, whatever it sees, and keeps what it saw."""

    takes: Takes = "planes"

    def __init__(self, maps: Mapping[str, Floats]) -> None:
        self.outputs = frozenset(maps)
        self.maps = maps
        self.asked: list[str] = []
        self.seen: list[Floats] = []

    def run(self, x: Floats) -> FakeRun:
        self.seen.append(x)
        return FakeRun(self.maps, self.asked)


class FakePose:
    """Puts pitch, yaw and roll into bins that the patch's middle names: channels 0, 1, 2 of the features."""

    outputs = frozenset({"logits"})
    takes: Takes = "planes"

    def __init__(self) -> None:
        self.faces: list[int] = []

    def run(self, x: Floats) -> FakeRun:
        middles = x[:, 1, 1::3]
        self.faces.append(middles.shape[1])
        logits = np.full((3, 66, middles.shape[1]), -1e4, np.float32)
        for angle in range(3):
            logits[angle, middles[angle].astype(int), np.arange(middles.shape[1])] = 0
        return FakeRun({"logits": logits.reshape(198, 1, -1)}, [])


def maps(size_px: int = SIZE_PX) -> dict[str, Floats]:
    """Maps without a face for a square input."""
    out = {}
    for level in DENSE.levels:
        side = size_px // level.stride
        out[level.score] = np.full((2, side, side), -9, np.float32)
        for name, channels in ((level.box, 8), (level.landmarks, 20), (f"features{level.stride}", 4)):
            assert name is not None
            out[name] = np.zeros((channels, side, side), np.float32)
    return out


def detector(dense: FakeNet, *, bundle: Bundle = BUNDLE, score: float = 0.5, nms_iou: float = 0.4) -> Detector:
    sessions: list[list[Session]] = [[dense], [FakePose(), FakePose()]]
    return Detector(bundle, sessions[: len(bundle.stages)], size_px=SIZE_PX, score=score, nms_iou=nms_iou)


def picture(height: int = SIZE_PX, width: int = SIZE_PX) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


def test_a_face_by_hand() -> None:
    m = maps()
    m["score8"][1, 3, 5] = 2.0                              # anchor of 32 px at (44, 28)
    m["box8"][4:, 3, 5] = [1, 0, 0, math.log(2) / 0.2]      # 3.2 px to the right, twice as high
    m["landmarks8"][10:, 3, 5] = np.arange(10) / 3.2
    m["features8"][:3, 3, 5] = [32, 33, 65]
    faces = detector(FakeNet(m))(picture())
    assert len(faces) == 1
    np.testing.assert_allclose(faces.boxes, [[31.2, -4, 63.2, 60]], rtol=1e-5)
    np.testing.assert_allclose(faces.scores, [1 / (1 + math.exp(-2))], rtol=1e-6)
    assert faces.landmarks is not None
    np.testing.assert_allclose(faces.landmarks, [np.array([44, 28]) + np.arange(10).reshape(5, 2)], rtol=1e-6)
    assert faces.pose is not None
    np.testing.assert_allclose(faces.pose, [[-1.5, 1.5, 97.5]], atol=1e-4)
    assert {a.dtype for a in (faces.boxes, faces.scores, faces.landmarks, faces.pose)} == {np.dtype(np.float32)}


def test_coordinates_are_those_of_the_original_picture() -> None:
    m = maps()
    m["score8"][0, 2, 2] = 1.0                              # 12 to 28 in both directions
    faces = detector(FakeNet(m))(picture(256, 200))         # letterboxed by 1/4: boxes of 4, 64 high and 50 wide
    np.testing.assert_allclose(faces.boxes, [[48, 48, 112, 112]])
    assert faces.landmarks is not None
    np.testing.assert_allclose(faces.landmarks, np.full((1, 5, 2), 80.0))


def test_what_the_net_sees_is_the_normalised_letterbox() -> None:
    net = FakeNet(maps())
    gradient = np.arange(48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    detector(net)(gradient)
    (x,) = net.seen
    assert x.shape == (3, 64, 64)
    np.testing.assert_array_equal(x[:, :48], (gradient.transpose(2, 0, 1).astype(np.float32) - 128) / 128)
    assert not x[:, 48:].any()


def test_an_empty_picture_costs_the_score_maps_alone() -> None:
    net = FakeNet(maps())
    faces = detector(net)(picture())
    assert net.asked == ["score8", "score32"]
    assert len(faces) == 0
    assert faces.boxes.shape == (0, 4)
    assert faces.landmarks is not None
    assert faces.landmarks.shape == (0, 5, 2)
    assert faces.pose is not None
    assert faces.pose.shape == (0, 3)


def test_a_level_without_faces_is_asked_for_nothing_more() -> None:
    m = maps()
    m["score32"][0, 1, 1] = 1.0
    net = FakeNet(m)
    detector(net)(picture())
    assert sorted(net.asked) == ["box32", "features32", "landmarks32", "score32", "score8"]


def test_faces_come_best_first_across_levels_with_their_own_landmarks_and_pose() -> None:
    m = maps()
    for name, (a, y, x), logit, bins in (
        ("8", (0, 6, 1), 1.0, 10), ("8", (0, 6, 6), 3.0, 20), ("32", (1, 0, 0), 2.0, 30), ("8", (0, 1, 6), 0.5, 40),
    ):  # fmt: skip
        m[f"score{name}"][a, y, x] = logit
        m[f"features{name}"][:3, y, x] = bins
    faces = detector(FakeNet(m))(picture())
    np.testing.assert_allclose(faces.scores, 1 / (1 + np.exp([-3.0, -2, -1, -0.5])), rtol=1e-6)
    centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    assert centres.tolist() == [[52, 52], [16, 16], [12, 52], [52, 12]]
    assert faces.landmarks is not None
    np.testing.assert_array_equal(faces.landmarks, np.repeat(centres[:, None], 5, axis=1))
    assert faces.pose is not None
    np.testing.assert_allclose(faces.pose[:, 0], [-37.5, -7.5, -67.5, 22.5], atol=1e-4)


def test_pose_runs_once_a_level_and_only_on_what_nms_kept() -> None:
    m = maps()
    m["score8"][:, 2:4, 2:6] = 1.0      # 16 anchors that overlap
    m["score8"][0, 7, 0] = 0.5
    pose = [FakePose(), FakePose()]
    faces = Detector(BUNDLE, [[FakeNet(m)], pose], size_px=SIZE_PX, score=0.5, nms_iou=0.1)(picture())
    assert pose[0].faces == [len(faces)]
    assert pose[1].faces == []
    overlap = iou(faces.boxes, faces.boxes)[~np.eye(len(faces), dtype=bool)]
    assert overlap.max() <= 0.1


def test_the_score_threshold_counts() -> None:
    m = maps()
    m["score8"][0, 0, 0], m["score8"][0, 7, 7] = math.log(0.3 / 0.7), math.log(0.6 / 0.4)
    assert [len(detector(FakeNet(m), score=s)(picture())) for s in (0.29, 0.31, 0.59, 0.61, 1.0)] == [2, 1, 1, 0, 0]


def test_a_model_of_boxes_alone_gives_none_for_the_rest() -> None:
    levels = [replace(level, landmarks=None) for level in DENSE.levels]
    bundle = replace(BUNDLE, stages=[replace(DENSE, levels=levels, features=[])])
    m = {name: values for name, values in maps().items() if name.startswith(("score", "box"))}
    m["score8"][0, 0, 0] = 1
    faces = detector(FakeNet(m), bundle=bundle)(picture())
    assert len(faces) == 1
    assert faces.landmarks is None
    assert faces.pose is None


def test_time_is_split_without_a_gap() -> None:
    m = maps()
    m["score8"][0, 2, 2] = 1.0
    faces, timing = detector(FakeNet(m)).timed(picture())
    assert len(faces) == 1
    parts = (timing.preprocess_ms, timing.network_ms, timing.decode_ms)
    assert min(parts) > 0
    assert math.isclose(sum(parts), timing.total_ms)


def test_numbers_that_are_none_are_reported() -> None:
    m = maps()
    m["score32"][0, 0, 0] = np.nan
    with pytest.raises(EngineError, match="hand: a score is not a number"):
        detector(FakeNet(m))(picture())
    m = maps()
    m["score8"][0, 0, 0] = 1
    m["box8"][2, 0, 0] = 1e6
    with pytest.raises(EngineError, match="hand: a box is not finite"):
        detector(FakeNet(m))(picture())


def test_nets_that_do_not_fit_the_bundle_are_refused() -> None:
    m = maps()
    del m["box32"], m["features8"]
    with pytest.raises(BundleError, match="hand: its nets have no output box32, features8"):
        detector(FakeNet(m))
    m = maps()
    m["score8"] = m["score8"][:1]
    with pytest.raises(BundleError, match="output score8 has 1 channels, its level's anchors need 2"):
        detector(FakeNet(m))(picture())


@pytest.mark.parametrize("name", ["score8", "box8", "landmarks32"])
@pytest.mark.parametrize("shape", [(1, 1), (8, 7), (9, 8), (0, 8)])
def test_maps_of_another_size_than_the_strides_give_are_named(name: str, shape: tuple[int, int]) -> None:
    changed = maps()
    for level in DENSE.levels:
        changed[level.score][0, 0, 0] = 9.0
    changed[name] = np.zeros((changed[name].shape[0], *shape), np.float32)
    sides = "8 and 8" if name.endswith("8") else "2 and 2"
    reason = f"output {name} has {shape[0]} rows and {shape[1]} columns, of the strides in its bundle.json come {sides}"
    with pytest.raises(BundleError, match=reason):
        detector(FakeNet(changed))(np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"size_px": 31}, "size 31"), ({"size_px": 9000}, "size 9000"), ({"size_px": (640, 0)}, r"size \(640, 0\)"),
        ({"score": -0.1}, "score threshold -0.1"), ({"score": 1.1}, "score threshold 1.1"),
        ({"score": math.nan}, "score threshold nan"), ({"nms_iou": 2}, "NMS threshold 2"),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_refused(options: dict[str, float], reason: str) -> None:
    arguments = {"size_px": SIZE_PX, "score": 0.5, "nms_iou": 0.4, **options}
    with pytest.raises(OptionError, match=reason):
        Detector(BUNDLE, [[FakeNet(maps())], [FakePose(), FakePose()]], **arguments)  # type: ignore[arg-type]  # fakes


@pytest.mark.parametrize(
    "image",
    [
        None, "photo.jpg", [[1, 2, 3]], np.zeros((8, 8, 5), np.uint8), np.zeros((8, 8, 2), np.uint8),
        np.zeros((8, 8, 3), np.uint16), np.zeros((0, 8, 3), np.uint8), np.zeros(8, np.uint8),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(image: object) -> None:
    with pytest.raises(InputError, match=r"a picture must|a picture cannot be made of|no such file"):
        detector(FakeNet(maps()))(image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (33, 64), (1000, 700)])
def test_any_picture_size_works(tiny_bundle: Path, height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert isinstance(edgeface.load(str(tiny_bundle), threads=1, size=64)(image), Faces)


def test_a_fixed_frame_gives_the_same_faces(tiny_bundle: Path, astronaut: NDArray[np.uint8]) -> None:
    loaded = edgeface.load(tiny_bundle, threads=1, size=160)
    sessions = open_sessions(tiny_bundle, loaded.bundle, 1)
    framed = Detector(loaded.bundle, sessions, size_px=(160, 160), score=loaded.score, nms_iou=loaded.nms_iou)
    np.testing.assert_array_equal(framed(astronaut).boxes, loaded(astronaut).boxes)


def test_a_frame_gives_the_faces_of_its_picture(tiny_bundle: Path, astronaut: NDArray[np.uint8]) -> None:
    loaded = edgeface.load(tiny_bundle, threads=1, size=160)
    expected = loaded(astronaut)
    assert len(expected)
    for frame in (Frame(astronaut), Frame(np.ascontiguousarray(astronaut[:, :, ::-1]), "rgb")):
        np.testing.assert_array_equal(loaded(frame).boxes, expected.boxes)
    planes = cv2.cvtColor(astronaut, cv2.COLOR_BGR2YUV_I420)
    u, v = planes[512:640].reshape(256, 256), planes[640:].reshape(256, 256)
    nv12 = np.concatenate((planes[:512], np.dstack((u, v)).reshape(256, 512)))
    for name in ("score8", "score32"):
        ours, theirs = loaded.raw(Frame(nv12, "nv12"))[name], loaded.raw(astronaut)[name]
        assert np.abs(ours - theirs).mean() < 0.05 * np.ptp(theirs)


def test_pictures_in_turn_and_threads_at_once_do_not_disturb_each_other(tiny_bundle: Path) -> None:
    loaded = edgeface.load(tiny_bundle, threads=1, size=96)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (height, 90, 3), dtype=np.uint8) for height in (40, 90, 120, 90) * 6]
    alone = [edgeface.load(tiny_bundle, threads=1, size=96)(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(loaded, pictures))
    for expected, *others in zip(alone, together, map(loaded, pictures), strict=True):
        for faces in others:
            np.testing.assert_array_equal(faces.boxes, expected.boxes)
            np.testing.assert_array_equal(faces.scores, expected.scores)


def test_ncnn_and_torch_find_the_same(tiny_bundle: Path, tiny_checkpoint: Path, astronaut: NDArray[np.uint8]) -> None:
    board = edgeface.load(tiny_bundle, threads=1, size=320, score=0.5)
    bench = edgeface.load(tiny_checkpoint, engine="torch", threads=1, size=320, score=0.5)
    ours, theirs = board.raw(astronaut), bench.raw(astronaut)
    assert list(ours) == list(theirs) == map_names(board.bundle.dense)
    for name, values in ours.items():
        assert np.abs(values - theirs[name]).max() <= 1e-3 * np.ptp(theirs[name]), name
    # Without suppression, so that near ties cannot keep another neighbour.
    faces, expected = (
        Detector(d.bundle, open_sessions(path, d.bundle, 1), size_px=320, score=0.5, nms_iou=1.0)(astronaut)
        for d, path in ((board, tiny_bundle), (bench, tiny_checkpoint.parent))
    )
    assert len(expected) > 20
    assert abs(len(faces) - len(expected)) <= 2
    overlap = iou(faces.boxes, expected.boxes)
    nearest, same = overlap.argmax(axis=1), overlap.max(axis=1) > 0.99
    assert same.mean() > 0.98
    assert faces.landmarks is not None
    assert expected.landmarks is not None
    assert faces.pose is not None
    assert expected.pose is not None
    np.testing.assert_allclose(faces.scores[same], expected.scores[nearest][same], atol=0.005)
    np.testing.assert_allclose(faces.landmarks[same], expected.landmarks[nearest][same], atol=0.1)
    np.testing.assert_allclose(faces.pose[same], expected.pose[nearest][same], atol=0.1)


def test_without_the_c_kernels_the_faces_are_the_same(
    tiny_bundle: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = edgeface.load(tiny_bundle, threads=1, size=320, score=0.5, nms=0.9)
    faces = loaded(astronaut)
    for module in (align, anchors, logistic, nms, pose_bins, preprocess, roi):
        monkeypatch.setattr(module, "library", lambda: None)
    again = loaded(astronaut)
    assert len(faces) > 20
    for name in ("boxes", "scores", "landmarks", "pose"):
        np.testing.assert_array_equal(getattr(faces, name), getattr(again, name), err_msg=name)


def test_detecting_twice_gives_the_same(tiny_bundle: Path, astronaut: NDArray[np.uint8]) -> None:
    loaded = edgeface.load(tiny_bundle, threads=2, size=160)
    first, second = loaded(astronaut), loaded(astronaut)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.pose, second.pose)
