"""The source ``demo``: faces that move over a drawn room, with their true boxes known; no camera and no download."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeface.stream.sources import Grab, SourceSpec, check_options, source
from edgeface.stream.sources.files import Pace

if TYPE_CHECKING:
    from edgeface.stream.sources.scene import DemoScene

LIBRARIES = ("cv2", "skimage.data", "edgeface.stream.sources.scene")


class _Demo:
    """The scene, played for ever."""

    def __init__(self, scene: DemoScene, *, paced: bool) -> None:
        self.fps: float | None = scene.fps if paced else None
        self._scene = scene
        self._pace = Pace() if paced else None
        self._index = 0

    def read(self) -> Grab | None:
        from edgeface.frames import Frame

        image = self._scene.image(self._index)
        if self._pace is not None:
            self._pace.wait(self._index / self._scene.fps)
        self._index += 1
        return Grab(Frame(image, "bgr"), time.monotonic_ns())

    def close(self) -> None:
        """Nothing is held."""


@source("demo")
def open_demo(spec: SourceSpec) -> _Demo:
    """Two faces for ever: of scikit-image's photograph (Eileen Collins; NASA, public domain), or drawn without it."""
    check_options(spec, "width_px", "height_px", "fps", "loop", "every_frame")
    from edgeface.stream.sources.scene import demo_scene

    return _Demo(demo_scene(spec), paced=not spec.every_frame)
