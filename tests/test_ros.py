"""The ROS 2 node: its messages written and read by rosbags as ROS does, and the node on a stand-in for rclpy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.errors import InputError
from edgeface.faces import Faces
from edgeface.runtime.head_pose import rotation
from edgeface.stream.results import TrackedFaces
from edgeface.stream.ros.messages import READERS, detections, frame_of_compressed, frame_of_image, orientation

rosbags = pytest.importorskip("rosbags.typesys", reason="needs rosbags: pip install rosbags")

# vision_msgs 4, of ROS 2 Humble and newer, field by field: rosbags brings ROS's own messages and not these.
VISION = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
}
ARRAY = "vision_msgs/msg/Detection2DArray"


@pytest.fixture(scope="module", params=["ROS2_HUMBLE", "ROS2_JAZZY"])
def store(request: pytest.FixtureRequest) -> Any:
    """The types of a ROS 2, with vision_msgs."""
    found = rosbags.get_typestore(getattr(rosbags.Stores, request.param))
    for name, text in VISION.items():
        found.register(rosbags.get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return found


@pytest.fixture
def type_of(store: Any) -> Callable[[str], Any]:
    return store.types.__getitem__


def header_of(type_of: Callable[[str], Any]) -> Any:
    return type_of("std_msgs/msg/Header")(
        stamp=type_of("builtin_interfaces/msg/Time")(sec=17, nanosec=500), frame_id="camera"
    )


def image_of(type_of: Callable[[str], Any], data: NDArray[np.uint8], encoding: str, width: int, step: int) -> Any:
    return type_of("sensor_msgs/msg/Image")(
        header=header_of(type_of), height=len(data), width=width, encoding=encoding, is_bigendian=0, step=step,
        data=data.ravel(),
    )


def two_faces() -> TrackedFaces:
    faces = Faces(
        np.array([[10, 20, 50, 80], [-4, 0, 6, 10]], np.float32), np.array([0.9, 0.5], np.float32),
        pose=np.array([[0, 0, 0], [np.nan, 0, 0]], np.float32), attributes={"mask": np.array([0.25, 1], np.float32)},
    )
    return TrackedFaces.of(faces, np.array([7, -1], np.int64))


def test_faces_come_back_from_the_wire(store: Any, type_of: Callable[[str], Any]) -> None:
    message = detections(type_of, two_faces(), header_of(type_of))
    back = store.deserialize_cdr(store.serialize_cdr(message, ARRAY), ARRAY)
    assert (back.header.frame_id, back.header.stamp.sec, back.header.stamp.nanosec) == ("camera", 17, 500)
    first, second = back.detections
    assert (first.id, second.id) == ("7", "")
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (30, 50)
    assert (first.bbox.size_x, first.bbox.size_y, first.bbox.center.theta) == (40, 60, 0)
    assert [(each.hypothesis.class_id, each.hypothesis.score) for each in first.results] == [
        ("face", pytest.approx(0.9)), ("mask", 0.25),
    ]
    for each in (first, second):           # straight into the camera, and not told
        turned = each.results[0].pose.pose.orientation
        assert (turned.x, turned.y, turned.z, turned.w) == (0, 0, 0, 1)
    nothing = detections(type_of, TrackedFaces.of(Faces.empty()), header_of(type_of))
    assert store.deserialize_cdr(store.serialize_cdr(nothing, ARRAY), ARRAY).detections == []


def turned_by(quaternion: tuple[float, float, float, float], vector: list[float]) -> NDArray[np.float64]:
    x, y, z, w = quaternion
    axis = np.array([x, y, z])
    across = np.cross(axis, vector)
    turned: NDArray[np.float64] = np.array(vector) + 2 * (w * across + np.cross(axis, across))
    return turned


def test_a_head_is_turned_as_it_looks() -> None:
    """In the optical frame the nose of a straight head points to -z, its eyes lie along x."""
    nose, eyes = [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]
    up, left, clockwise = (orientation(np.array(pose, np.float32)) for pose in ((30, 0, 0), (0, 30, 0), (0, 0, 30)))
    assert turned_by(up, nose) == pytest.approx([0, -0.5, -(0.75**0.5)], abs=1e-6)
    assert turned_by(left, nose) == pytest.approx([-0.5, 0, -(0.75**0.5)], abs=1e-6)
    assert turned_by(clockwise, eyes) == pytest.approx([0.75**0.5, 0.5, 0], abs=1e-6)
    pose = np.array([-120.0, 40.0, 170.0])
    seen = rotation(pose[None])[0][:2]     # what the project says that a picture shows of the axes x, y, nose
    for column, axis in enumerate((eyes, [0.0, 1.0, 0.0], nose)):
        assert turned_by(orientation(pose), axis)[:2] == pytest.approx(seen[:, column], abs=1e-6)


def test_pictures_of_every_encoding(type_of: Callable[[str], Any]) -> None:
    rng = np.random.default_rng(0)
    bgr = rng.integers(0, 256, (4, 6, 3), np.uint8)
    padded = np.zeros((4, 20), np.uint8)
    padded[:, :18] = bgr.reshape(4, 18)
    assert np.array_equal(frame_of_image(image_of(type_of, padded, "bgr8", 6, 20)).to_bgr(), bgr)
    rgb = np.ascontiguousarray(bgr[:, :, ::-1]).reshape(4, 18)
    assert np.array_equal(frame_of_image(image_of(type_of, rgb, "rgb8", 6, 18)).to_bgr(), bgr)
    alpha = np.dstack([bgr, np.full((4, 6), 255, np.uint8)])
    assert np.array_equal(frame_of_image(image_of(type_of, alpha.reshape(4, 24), "bgra8", 6, 24)).to_bgr(), bgr)
    rgba = np.ascontiguousarray(alpha[:, :, [2, 1, 0, 3]]).reshape(4, 24)
    assert np.array_equal(frame_of_image(image_of(type_of, rgba, "rgba8", 6, 24)).to_bgr(), bgr)
    grey = bgr[:, :, 0].copy()
    assert np.array_equal(frame_of_image(image_of(type_of, grey, "mono8", 6, 6)).pixels, grey)
    yuyv = rng.integers(0, 256, (4, 12), np.uint8)
    frame = frame_of_image(image_of(type_of, yuyv, "yuv422_yuy2", 6, 12))
    assert (frame.format, frame.width, frame.height) == ("yuyv", 6, 4)


def test_pictures_that_cannot_be(type_of: Callable[[str], Any]) -> None:
    data = np.zeros((4, 18), np.uint8)
    with pytest.raises(InputError, match="encoding '16UC1' cannot be read: publish bgr8"):
        frame_of_image(image_of(type_of, data, "16UC1", 6, 18))
    for width, step in ((7, 18), (6, 19), (0, 18)):
        with pytest.raises(InputError, match="cannot have 72"):
            frame_of_image(image_of(type_of, data, "bgr8", width, step))
    broken = type_of("sensor_msgs/msg/CompressedImage")(
        header=header_of(type_of), format="jpeg", data=np.zeros(9, np.uint8)
    )
    with pytest.raises(InputError, match=r"a compressed image \(jpeg\)"):
        frame_of_compressed(broken)


class Rclpy(ModuleType):
    """What of rclpy the node uses: ``pictures`` are given to its subscription, what it publishes is kept."""

    def __init__(self, pictures: list[Any]) -> None:
        super().__init__("rclpy")
        self.pictures, self.published, self.logged, self.calls = pictures, {}, [], []

    def init(self, args: list[str]) -> None:
        self.calls.append(("init", args))

    def create_node(self, name: str) -> Any:
        def subscribe(kind: Any, topic: str, callback: Any, qos: Any) -> None:
            self.calls.append(("subscribe", kind.__msgtype__, topic, qos["depth"]))
            self.callback = callback

        def publisher(kind: Any, topic: str, depth: int) -> Any:
            return SimpleNamespace(publish=self.published.setdefault(topic, []).append)

        return SimpleNamespace(
            create_subscription=subscribe, create_publisher=publisher,
            get_logger=lambda: SimpleNamespace(warning=self.logged.append),
            destroy_node=lambda: self.calls.append(("destroy", name)),
        )

    def spin(self, node: Any) -> None:
        for each in self.pictures:
            self.callback(each)
        raise KeyboardInterrupt

    def try_shutdown(self) -> None:
        self.calls.append(("shutdown",))


def install(monkeypatch: pytest.MonkeyPatch, type_of: Callable[[str], Any], pictures: list[Any]) -> Rclpy:
    rclpy = Rclpy(pictures)
    policies = SimpleNamespace(KEEP_LAST=1, BEST_EFFORT=2)
    monkeypatch.setitem(sys.modules, "rclpy", rclpy)
    parts = {
        "rclpy.qos": {"QoSProfile": dict, "HistoryPolicy": policies, "ReliabilityPolicy": policies},
        "rclpy.executors": {"ExternalShutdownException": type("ExternalShutdownException", (Exception,), {})},
        "rosidl_runtime_py": {}, "rosidl_runtime_py.utilities": {"get_message": type_of},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return rclpy


def test_the_node(
    store: Any, type_of: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, astronaut: NDArray[np.uint8]
) -> None:
    small = cv2.resize(astronaut[0:256, 96:352], (160, 160), interpolation=cv2.INTER_AREA)
    packed = type_of("sensor_msgs/msg/CompressedImage")
    good = packed(header=header_of(type_of), format="png", data=cv2.imencode(".png", small)[1].ravel())
    bad = packed(header=header_of(type_of), format="jpeg", data=np.zeros(9, np.uint8))
    rclpy = install(monkeypatch, type_of, [good, bad, bad, good])
    asked = ["ros", "--image", "/door", "--compressed", "--model", "mos_s", "--size", "160", "--threads", "1"]
    done = CliRunner().invoke(main, [*asked, "--", "--ros-args", "-r", "__ns:=/a"])
    assert done.exit_code == 0, done.output
    assert rclpy.calls == [
        ("init", ["--ros-args", "-r", "__ns:=/a"]), ("subscribe", READERS["compressed"][0], "/door", 1),
        ("destroy", "edgeface"), ("shutdown",),
    ]
    assert len(rclpy.logged) == 1
    arrays = [store.deserialize_cdr(store.serialize_cdr(each, ARRAY), ARRAY) for each in rclpy.published["~/faces"]]
    assert [len(each.detections) for each in arrays] == [0, 1]      # a face counts at its second sighting
    assert arrays[1].detections[0].id == "1"
    told = json.loads(rclpy.published["~/json"][1].data)
    assert told["stamp"] == {"sec": 17, "nanosec": 500}
    assert told["frame_id"] == "camera"
    assert told["faces"][0]["track"] == 1
    assert len(told["faces"][0]["landmarks"]) == 5


def test_without_ros_a_line_says_what_to_install() -> None:
    done = CliRunner().invoke(main, ["ros"])
    assert done.exit_code == 11
    assert "sudo apt install ros-$ROS_DISTRO-rclpy" in done.output
    assert done.output.count("\n") == 1


def test_what_is_for_ros_begins_with_its_word() -> None:
    done = CliRunner().invoke(main, ["ros", "image:=/a"])
    assert done.exit_code == 2
    assert "begin with -- --ros-args" in done.output
