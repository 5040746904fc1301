"""The source ``picamera2``: a Raspberry Pi's camera by libcamera, whose image processor makes the BGR picture."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from edgeface.errors import MissingExtraError, OptionError, SourceError
from edgeface.stream.sources import Grab, SourceSpec, check_options, live_frame, source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIBRARIES = ("picamera2",)
DEFAULT_SIZE_PX = (640, 480)
# What libcamera calls RGB888 lies in memory as B, G, R.
_BGR = "RGB888"


class PiCamera:
    """A started camera; its frames carry the sensor's own time. ``is_oriented``: they come turned as was asked."""

    def __init__(self, camera: Any, fps: float | None, *, is_oriented: bool) -> None:
        self.fps = fps
        self.is_oriented = is_oriented
        self._camera = camera

    def read(self) -> Grab | None:
        request = self._camera.capture_request()
        try:
            image: NDArray[np.uint8] = request.make_array("main")
            stamp_ns = request.get_metadata().get("SensorTimestamp")
        finally:
            request.release()
        frame = live_frame(image, "bgr", "picamera2")
        now_ns = time.monotonic_ns()
        if stamp_ns is None:
            return Grab(frame, now_ns)
        # The sensor's clock runs on while the machine sleeps; ours does not.
        return Grab(frame, min(now_ns, stamp_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + now_ns))

    def close(self) -> None:
        self._camera.stop()
        self._camera.close()


@source("picamera2")
def open_picamera2(spec: SourceSpec) -> PiCamera:
    """Start a camera: the one of the number in the address, 0 by default. Raises MissingExtraError, SourceError."""
    check_options(spec, "width_px", "height_px", "fps")
    if spec.address and not (spec.address.isascii() and spec.address.isdigit()):
        raise OptionError(f"picamera2:{spec.address}: a camera has a number: write picamera2:0")
    try:
        from picamera2 import Picamera2
    except ImportError as error:
        raise MissingExtraError(
            f"picamera2 needs the package picamera2 and libcamera's for Python ({error}): "
            "sudo apt install python3-picamera2, or pip install \"edgeface[picamera2]\""
        ) from None
    number = int(spec.address or 0)
    try:
        if number >= len(Picamera2.global_camera_info()):
            raise SourceError(f"picamera2:{number}: no such camera: check its cable, 'rpicam-hello --list-cameras'")
        camera = Picamera2(number)
    except (RuntimeError, IndexError, OSError) as error:
        raise SourceError(f"picamera2:{number}: {error}: check that no other program uses the camera") from None
    size_px = (spec.width_px or DEFAULT_SIZE_PX[0], spec.height_px or DEFAULT_SIZE_PX[1])
    settings: dict[str, Any] = {"main": {"size": size_px, "format": _BGR}}
    settings["controls"] = {} if spec.fps is None else {"FrameRate": spec.fps}
    # The sensor reads its rows and columns backwards; it cannot take the one for the other.
    upside_down = spec.rotate_deg == 180
    is_oriented = spec.rotate_deg in (0, 180)
    if is_oriented and (upside_down or spec.flip):
        from libcamera import Transform

        settings["transform"] = Transform(hflip=upside_down != spec.flip, vflip=upside_down)
    try:
        camera.configure(camera.create_video_configuration(**settings))
        camera.start()
    except (RuntimeError, OSError) as error:
        camera.close()
        raise SourceError(f"picamera2:{number}: {error}: try another --width and --height") from None
    return PiCamera(camera, spec.fps, is_oriented=is_oriented)
