"""The sink ``window``: what was found, drawn into a window of OpenCV's, where that build has one."""

from __future__ import annotations

import logging
import os
import sys

import cv2

from edgeface.drawing import draw_faces
from edgeface.errors import OutputError
from edgeface.stream.blur import blurred
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext, sink

_ADVICE = "use --show and a browser"
_log = logging.getLogger("edgeface.stream")


class Window:
    """One window, from the first result on; closing it does not end the run."""

    def __init__(self, context: SinkContext) -> None:
        """Raises OutputError where OpenCV was built without windows, or no display is there."""
        line = next((line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line), "GUI: NONE")
        if line.split(":", 1)[1].strip() in ("NONE", ""):
            raise OutputError(f"--window: this OpenCV was built without windows (opencv-python-headless): {_ADVICE}")
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise OutputError(f"--window: no display here (DISPLAY and WAYLAND_DISPLAY are not set): {_ADVICE}")
        self._title = f"edgeface: {context.source}"
        self._hide_faces = context.hide_faces

    def put(self, shot: Shot, result: Result) -> None:
        image = blurred(shot.image, result.boxes_to_hide) if self._hide_faces else shot.image
        try:
            cv2.imshow(self._title, draw_faces(image, result.faces))
            cv2.waitKey(1)
        except cv2.error as error:
            raise OutputError(f"--window: OpenCV cannot show it ({' '.join(str(error).split())}): {_ADVICE}") from None

    def status(self, status: Status) -> None:
        """The log says it."""

    def close(self) -> None:
        cv2.destroyAllWindows()


@sink("window")
def open_window(_target: str, context: SinkContext) -> Window:
    """A window. Raises OutputError where there cannot be one."""
    return Window(context)
