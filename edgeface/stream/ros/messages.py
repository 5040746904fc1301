"""ROS 2's messages of pictures and faces: sensor_msgs read, vision_msgs (4, from Humble on) made. Without ROS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import InputError
from edgeface.faces import FoundFace
from edgeface.frames import Format, Frame
from edgeface.images import decode_image
from edgeface.pictures import ChannelOrder, as_picture
from edgeface.runtime.head_pose import rotation
from edgeface.stream.results import UNTRACKED, TrackedFaces

Message = Any
# Of a type's name, "std_msgs/msg/Header", its class; it takes every field by name.
TypeOf = Callable[[str], Callable[..., Message]]

FACE = "face"
_PLAIN: dict[str, tuple[Format, int]] = {
    "bgr8": ("bgr", 3), "8UC3": ("bgr", 3), "rgb8": ("rgb", 3), "mono8": ("grey", 1), "8UC1": ("grey", 1),
    "yuv422_yuy2": ("yuyv", 2),
}
_WITH_ALPHA: dict[str, ChannelOrder] = {"bgra8": "bgr", "8UC4": "bgr", "rgba8": "rgb"}
ENCODINGS = (*_PLAIN, *_WITH_ALPHA)


def frame_of_image(image: Message) -> Frame:
    """The picture of a sensor_msgs/Image, whose rows may be longer than its pixels (``step``).

    Raises InputError for an encoding that is not among ENCODINGS, and for data of another length than promised.
    """
    encoding, height, width, step = str(image.encoding), int(image.height), int(image.width), int(image.step)
    if encoding not in ENCODINGS:
        raise InputError(f"an image with the encoding {encoding!r} cannot be read: publish {', '.join(ENCODINGS)}")
    channels = 4 if encoding in _WITH_ALPHA else _PLAIN[encoding][1]
    data = np.frombuffer(image.data, np.uint8)
    if not height or not width or step < width * channels or data.size < height * step:
        raise InputError(
            f"an image of {width} x {height} pixels in {encoding} with rows of {step} bytes cannot have {data.size}"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    pixels = rows if channels == 1 else rows.reshape(height, width, channels)
    if encoding in _WITH_ALPHA:
        shown = as_picture(pixels, _WITH_ALPHA[encoding])
        return shown if isinstance(shown, Frame) else Frame(shown)
    return Frame(pixels, _PLAIN[encoding][0])


def frame_of_compressed(image: Message) -> Frame:
    """The picture of a sensor_msgs/CompressedImage: JPEG, PNG and what else pictures are. Raises InputError."""
    return Frame(decode_image(bytes(image.data), f"a compressed image ({image.format})"))


def detections(type_of: TypeOf, faces: TrackedFaces, header: Message) -> Message:
    """``faces`` as a vision_msgs/Detection2DArray with the ``header`` of their picture.

    ``id`` is the track's number, empty without one. The first result is the face itself, with its score; then comes
    each attribute by its name with its probability. Each result has the head's orientation where the model tells it,
    else none (0 0 0 1); its position is not known, and 0.
    """
    tracks = [number if number != UNTRACKED else None for number in faces.tracks.tolist()]
    return type_of("vision_msgs/msg/Detection2DArray")(
        header=header,
        detections=[_detection(type_of, face, track, header) for face, track in zip(faces, tracks, strict=True)],
    )


def _detection(type_of: TypeOf, face: FoundFace, track: int | None, header: Message) -> Message:
    x1, y1, x2, y2 = face.box.tolist()
    pose = _pose(type_of, None if face.pose is None else face.pose)
    named = {FACE: face.score, **face.attributes}
    return type_of("vision_msgs/msg/Detection2D")(
        header=header,
        results=[
            type_of("vision_msgs/msg/ObjectHypothesisWithPose")(
                hypothesis=type_of("vision_msgs/msg/ObjectHypothesis")(class_id=name, score=float(score)), pose=pose
            )
            for name, score in named.items()
        ],
        bbox=type_of("vision_msgs/msg/BoundingBox2D")(
            center=type_of("vision_msgs/msg/Pose2D")(
                position=type_of("vision_msgs/msg/Point2D")(x=(x1 + x2) / 2, y=(y1 + y2) / 2), theta=0.0
            ),
            size_x=x2 - x1, size_y=y2 - y1,
        ),
        id="" if track is None else str(track),
    )


def _pose(type_of: TypeOf, pose: NDArray[np.float32] | None) -> Message:
    x, y, z, w = (0.0, 0.0, 0.0, 1.0) if pose is None or not np.isfinite(pose).all() else orientation(pose)
    return type_of("geometry_msgs/msg/PoseWithCovariance")(
        pose=type_of("geometry_msgs/msg/Pose")(
            position=type_of("geometry_msgs/msg/Point")(x=0.0, y=0.0, z=0.0),
            orientation=type_of("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w),
        ),
        covariance=np.zeros(36, np.float64),
    )


def orientation(pose: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """The quaternion x, y, z, w of a head, of ``pose`` (3,), pitch yaw roll in degrees, in a camera's optical frame: x
    to the picture's right, y down, z away from the camera (REP 103). A head that looks straight into the camera has 0 0
    0 1; its z leaves it at the back."""
    # The project's z points towards the camera, which makes its axes left-handed.
    flip = np.diag([1.0, 1.0, -1.0])
    vector, _ = cv2.Rodrigues(flip @ rotation(np.asarray(pose)[None])[0] @ flip)
    half = float(np.linalg.norm(vector)) / 2
    x, y, z = (vector.ravel() / 2 * np.sinc(half / np.pi)).tolist()
    return x, y, z, float(np.cos(half))


Transport = Literal["raw", "compressed"]
READERS: dict[Transport, tuple[str, Callable[[Message], Frame]]] = {
    "raw": ("sensor_msgs/msg/Image", frame_of_image),
    "compressed": ("sensor_msgs/msg/CompressedImage", frame_of_compressed),
}
