"""The source ``v4l2``: a camera at /dev/videoN by OpenCV, its YUYV and NV12 pixels taken as they are."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeface.errors import DamagedFrameError, OptionError, SourceError
from edgeface.stream.sources import Grab, SourceSpec, check_options, live_frame, source
from edgeface.stream.sources.pictures import Damage, PictureDecoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeface.frames import Frame

LIBRARIES = ("cv2", "edgeface.image_headers")

# What --pixel-format takes, and V4L2's four letters for it.
PIXEL_FORMATS = {"yuyv": "YUYV", "nv12": "NV12", "mjpeg": "MJPG", "grey": "GREY", "bgr": "BGR3"}

# linux/videodev2.h: _IOR('V', 0, struct v4l2_capability), _IOWR('V', 8, struct v4l2_requestbuffers) and flags.
_QUERYCAP, _CAPABILITY_BYTES = 0x80685600, 104
_REQBUFS = 0xC0145608
_BUF_TYPES_CAPTURE, _MEMORY_MMAP = (1, 9), 1    # of one plane, of several
# What pictures come from: of one plane, or of several, as the CSI cameras of Rockchip and i.MX have it.
_CAPS_CAPTURE = 0x1 | 0x1000
# Codecs and scalers, which take pictures and give them back.
_CAPS_M2M = 0x4000 | 0x8000
_CAP_DEVICE_CAPS = 0x80000000
_DEVICE_CAPS_AT, _CAPS_AT = 88, 84

# A driver's stamp older than this is of another clock.
_OLDEST_STAMP_NS = 2_000_000_000

_log = logging.getLogger("edgeface.stream")


class Capture(Protocol):
    """The part of cv2.VideoCapture in use."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def get(self, propId: int) -> float: ...  # noqa: N803
    def set(self, propId: int, value: float) -> bool: ...  # noqa: N803
    def read(self) -> tuple[bool, Any]: ...
    def release(self) -> None: ...


class V4l2Camera:
    """An opened camera. MJPEG is decoded here; what this cannot take raw is left to OpenCV's conversion to BGR."""

    def __init__(self, device: str, capture: Capture) -> None:
        import cv2

        self._device = device
        self._capture = capture
        self._decoder = PictureDecoder(device)
        self.damage = Damage()
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps <= 1000 else None
        self._fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("ascii", "replace")
        names = {fourcc: name for name, fourcc in PIXEL_FORMATS.items()} | {"JPEG": "mjpeg"}
        self.pixel_format = names.get(self._fourcc, self._fourcc)
        if self._fourcc not in names:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)

    def read(self) -> Grab | None:
        while True:
            done, raw = self._capture.read()
            now_ns = time.monotonic_ns()
            if not done or raw is None:
                raise SourceError(f"{self._device}: the camera stopped: check its plug and its power")
            try:
                frame = as_frame(raw, self._fourcc, self._decoder)
            except DamagedFrameError as error:
                self.damage.count(error)
                continue
            self.damage.end()
            return Grab(frame, self._taken_ns(now_ns))

    def close(self) -> None:
        self._capture.release()

    def _taken_ns(self, now_ns: int) -> int:
        """The driver's stamp of the frame, CLOCK_MONOTONIC with all usual drivers."""
        import cv2

        stamp_ns = int(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        return stamp_ns if now_ns - _OLDEST_STAMP_NS < stamp_ns <= now_ns else now_ns


def as_frame(raw: NDArray[np.uint8], fourcc: str, decoder: PictureDecoder) -> Frame:
    """What OpenCV hands out unconverted as a Frame: YUYV uint8 (H, W, 2), NV12 (H * 3 / 2, W), GREY (H, W), BGR
    (H, W, 3), and JPEG's bytes in one row or column. Raises DamagedFrameError for what is no picture."""
    device = decoder.shown
    if fourcc in ("MJPG", "JPEG") and (raw.ndim < 3 or raw.shape[2] == 1) and (not raw.size or 1 in raw.shape[:2]):
        return live_frame(decoder.decode(raw.tobytes()), "bgr", device)
    if fourcc == "YUYV" and raw.ndim == 3 and raw.shape[2] == 2:
        return live_frame(raw, "yuyv", device)
    if raw.ndim == 3 and raw.shape[2] == 1:
        raw = raw[:, :, 0]
    if raw.ndim == 2:
        return live_frame(raw, "nv12" if fourcc == "NV12" else "grey", device)
    return live_frame(raw, "bgr", device)


@source("v4l2")
def open_v4l2(spec: SourceSpec) -> V4l2Camera:
    """Open a device; raises SourceError that says whether it is not there, in use, not allowed or no camera."""
    import cv2

    def capture(path: str, settings: Sequence[int]) -> Capture:
        return cv2.VideoCapture(path, cv2.CAP_V4L2, settings)

    check_options(spec, "width_px", "height_px", "fps", "pixel_format")
    check_device(spec.address)
    return open_camera(spec, capture)


def open_camera(spec: SourceSpec, capture: Callable[[str, Sequence[int]], Capture]) -> V4l2Camera:
    """A camera from what ``capture`` opens with OpenCV's settings (pairs of property and value)."""
    import cv2

    settings = [cv2.CAP_PROP_CONVERT_RGB, 0]
    if spec.pixel_format is not None:
        if spec.pixel_format not in PIXEL_FORMATS:
            raise OptionError(f"no pixel format {spec.pixel_format!r}: choose {', '.join(sorted(PIXEL_FORMATS))}")
        settings += [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*PIXEL_FORMATS[spec.pixel_format])]
    for name, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, spec.width_px),
        (cv2.CAP_PROP_FRAME_HEIGHT, spec.height_px),
        (cv2.CAP_PROP_FPS, None if spec.fps is None else round(spec.fps)),
    ):
        if value is not None:
            settings += [name, value]
    opened = capture(spec.address, settings)
    if not opened.isOpened():
        opened.release()
        raise SourceError(f"{spec.address}: {_why_not(spec.address)}")
    # One buffer more than the driver fills: an older frame waits for nobody.
    opened.set(cv2.CAP_PROP_BUFFERSIZE, 2)
    camera = V4l2Camera(spec.address, opened)
    others = _others(spec, opened, camera.pixel_format)
    if others:
        _log.warning("%s: the camera gives %s", spec.address, ", ".join(others))
    return camera


def _others(spec: SourceSpec, capture: Capture, pixel_format: str) -> list[str]:
    """What the camera gives in place of what it was asked for, in words."""
    import cv2

    others = []
    for name, asked, given in (
        ("width", spec.width_px, round(capture.get(cv2.CAP_PROP_FRAME_WIDTH))),
        ("height", spec.height_px, round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))),
        ("fps", None if spec.fps is None else round(spec.fps), round(capture.get(cv2.CAP_PROP_FPS))),
        ("pixel format", spec.pixel_format, pixel_format),
    ):
        # 0 is a driver that does not say.
        if asked is not None and given and asked != given:
            others.append(f"{name} {given} for {asked}")
    return others


def check_device(device: str) -> None:
    """Raise SourceError when ``device`` is not there, may not be opened, or is no camera."""
    path = Path(device)
    is_none = SourceError(f"{device}: is no V4L2 device: choose another, 'ls /dev/video*' shows them")
    # To open some other things is to use them: a reader of a pipe is one that its writer waits for.
    if path.exists() and not path.is_char_device():
        raise is_none
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise SourceError(
            f"{device}: permission denied: join the group that owns it, usually video: "
            "'sudo usermod -aG video $USER', then log in again"
        ) from None
    except FileNotFoundError:
        there = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
        raise SourceError(f"{device}: no such device: plug the camera in, or choose another (there: {there})") from None
    except OSError as error:
        raise SourceError(f"{device}: {error.strerror or error}: {_next_step(error)}") from None
    try:
        answer = fcntl.ioctl(descriptor, _QUERYCAP, bytes(_CAPABILITY_BYTES))
    except OSError:
        raise is_none from None
    finally:
        os.close(descriptor)
    (capabilities,) = struct.unpack_from("=I", answer, _CAPS_AT)
    if capabilities & _CAP_DEVICE_CAPS:
        (capabilities,) = struct.unpack_from("=I", answer, _DEVICE_CAPS_AT)
    if capabilities & _CAPS_M2M:
        raise SourceError(f"{device}: is a codec and no camera: try another, 'v4l2-ctl --list-devices' names them")
    if not capabilities & _CAPS_CAPTURE:
        raise SourceError(f"{device}: gives no pictures; cameras have a second device, for data: try the one before")


def _why_not(device: str) -> str:
    """Why a device that can be opened gives no frames: whoever streams from it holds its buffers."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"{error.strerror or error}: {_next_step(error)}"
    try:
        for kind in _BUF_TYPES_CAPTURE:
            try:
                fcntl.ioctl(descriptor, _REQBUFS, struct.pack("=III8x", 0, kind, _MEMORY_MMAP))
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return f"in use by another program: close it, 'fuser -v {device}' names it"
    finally:
        os.close(descriptor)
    return "OpenCV gets no pictures from it: try another --pixel-format, --width and --height"


def _next_step(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "in use by another program: close it"
    return "check its plug and its driver"
