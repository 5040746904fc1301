"""The ROS 2 node: pictures of a topic in, faces out. rclpy comes with ROS, so it is imported when a node starts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from edgeface.errors import InputError, MissingExtraError
from edgeface.faces import Faces, face_records
from edgeface.runtime.detector import Detector
from edgeface.stream.loop import tracking_options
from edgeface.stream.results import UNTRACKED, TrackedFaces
from edgeface.stream.ros.messages import READERS, Message, Transport, detections
from edgeface.stream.tracking import Tracker

NAME = "edgeface"


@dataclass(frozen=True)
class NodeOptions:
    """``topic`` of the pictures and how they come (``transport``); ``track``: number the faces; ``arguments``: what ROS
    itself is told, as ["--ros-args", "-r", "image:=/camera/image_raw"]."""

    topic: str = "image"
    transport: Transport = "raw"
    track: bool = True
    arguments: Sequence[str] = ()


class Node:
    """Publishes the faces of each picture: ``~/faces``, vision_msgs/Detection2DArray, and ``~/json``, std_msgs/String,
    an object with the header's time and the faces as in ``edgeface detect --json``, with ``track``.

    Only the newest picture is looked at; what comes meanwhile is dropped by ROS. A picture that cannot be read is
    logged, once a reason, and left out (``failed``).
    """

    def __init__(self, ros: Ros, detector: Detector, options: NodeOptions) -> None:
        self._ros, self._detector = ros, detector
        tracking = tracking_options(detector.score) if options.track else None
        self._tracker = None if tracking is None else Tracker(tracking)
        if tracking is not None:
            detector.score = tracking.low_score
        self._said = ""
        self.failed = 0
        kind, self._read = READERS[options.transport]
        self.node = ros.rclpy.create_node(NAME)
        self._faces = self.node.create_publisher(ros.type_of("vision_msgs/msg/Detection2DArray"), "~/faces", 10)
        self._json = self.node.create_publisher(ros.type_of("std_msgs/msg/String"), "~/json", 10)
        self.node.create_subscription(ros.type_of(kind), options.topic, self.look, ros.newest)

    def look(self, image: Message) -> None:
        """Publish the faces of one picture."""
        try:
            found = self._detector(self._read(image))
        except InputError as error:
            self.failed += 1
            if str(error) != self._said:
                self._said = str(error)
                self.node.get_logger().warning(self._said)
            return
        faces = self._tracked(found)
        self._faces.publish(detections(self._ros.type_of, faces, image.header))
        self._json.publish(self._ros.type_of("std_msgs/msg/String")(data=json.dumps(record(faces, image.header))))

    def _tracked(self, found: Faces) -> TrackedFaces:
        if self._tracker is None:
            return TrackedFaces.of(found)
        # Not the header's time: that of a recording which is played again goes back.
        tracked = self._tracker.update(found, monotonic())
        return TrackedFaces.of(tracked.faces, tracked.ids, tracked.seen)


def record(faces: TrackedFaces, header: Message) -> dict[str, Any]:
    """The faces of a picture as an object for JSON, with what vision_msgs has no place for: landmarks, degrees."""
    numbers = [None if number == UNTRACKED else number for number in faces.tracks.tolist()]
    told = [{"track": number, **each} for number, each in zip(numbers, face_records(faces), strict=True)]
    return {
        "schema": 1, "stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec}, "frame_id": header.frame_id,
        "faces": told,
    }


@dataclass(frozen=True)
class Ros:
    """What is used of an installed ROS 2: ``rclpy``, the classes of messages by name, and the quality of service of
    pictures, of which the newest alone waits."""

    rclpy: Any
    type_of: Any
    newest: Any

    @classmethod
    def installed(cls) -> Ros:
        """Raises MissingExtraError, which says what to install, where it is not there."""
        try:
            rclpy = importlib.import_module("rclpy")
            qos = importlib.import_module("rclpy.qos")
            get_message = importlib.import_module("rosidl_runtime_py.utilities").get_message
            for needed in ("vision_msgs/msg/Detection2DArray", "sensor_msgs/msg/Image"):
                get_message(needed)
        except (ImportError, AttributeError) as error:
            raise MissingExtraError(
                f"a ROS 2 node needs rclpy and vision_msgs, which come with ROS and not by pip ({error}): sudo apt "
                "install ros-$ROS_DISTRO-rclpy ros-$ROS_DISTRO-vision-msgs, and source /opt/ros/$ROS_DISTRO/setup.bash"
            ) from None
        newest = qos.QoSProfile(
            depth=1, history=qos.HistoryPolicy.KEEP_LAST, reliability=qos.ReliabilityPolicy.BEST_EFFORT
        )
        return cls(rclpy, get_message, newest)


def run(ros: Ros, detector: Detector, options: NodeOptions) -> None:
    """Look at pictures until ROS shuts down or Ctrl-C. Raises what the detector raises but InputError."""
    shutdown = importlib.import_module("rclpy.executors").ExternalShutdownException
    ros.rclpy.init(args=list(options.arguments))
    try:
        node = Node(ros, detector, options).node
        try:
            ros.rclpy.spin(node)
        except (KeyboardInterrupt, shutdown):
            pass
        finally:
            node.destroy_node()
    finally:
        ros.rclpy.try_shutdown()
