"""The scene that the source ``demo`` plays: moving faces over a drawn room, and their true boxes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.stream.sources import SourceSpec

DEFAULT_SIZE_PX = (640, 480)
DEFAULT_FPS = 25.0
# Their photograph's scale in a frame 480 pixels high, and the least that they shrink to.
_SCALE = 0.85
_SMALLEST = 0.6

_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class _Head:
    """A head cut out: uint8 (h, w, 3) BGR, its opacity float32 (h, w, 1) 0..1, and the face's box x1 y1 x2 y2 in it."""

    image: NDArray[np.uint8]
    opacity: NDArray[np.float32]
    box: tuple[float, float, float, float]

    def mirrored(self) -> _Head:
        width_px = self.image.shape[1]
        x1, y1, x2, y2 = self.box
        return _Head(self.image[:, ::-1].copy(), self.opacity[:, ::-1].copy(), (width_px - x2, y1, width_px - x1, y2))


@dataclass(frozen=True)
class _Path:
    """Where a head is: a slow figure of Lissajous round (x, y), all in shares of the frame; angles in radians."""

    x: float
    y: float
    reach_x: float
    reach_y: float
    hertz: float
    phase: float

    def at(self, time_s: float) -> tuple[float, float, float, float]:
        """x and y in shares of the frame, scale in shares of the largest, and roll in degrees."""
        turn = 2 * math.pi * self.hertz * time_s + self.phase
        scale = _SMALLEST + (1 - _SMALLEST) * (0.5 + 0.5 * math.sin(0.7 * turn))
        x, y = self.x + self.reach_x * math.sin(turn), self.y + self.reach_y * math.sin(1.6 * turn)
        return x, y, scale, 10 * math.sin(1.3 * turn)


class DemoScene:
    """The scene as a function of the frame's index: any frame can be asked for, and is always the same."""

    def __init__(self, width_px: int, height_px: int, fps: float, seed: int = 0) -> None:
        self.fps = fps
        rng = np.random.default_rng(seed)
        self._background = _room(width_px, height_px, rng)
        head = _astronaut() or _drawn_head()
        self._heads = (head, head.mirrored())
        phases = rng.uniform(0, 2 * math.pi, 2)
        self._paths = (
            _Path(0.29, 0.47, 0.10, 0.10, 0.11, float(phases[0])),
            _Path(0.71, 0.47, 0.10, 0.12, 0.08, float(phases[1])),
        )
        self._scale = _SCALE * min(height_px / DEFAULT_SIZE_PX[1], width_px / DEFAULT_SIZE_PX[0])

    def image(self, index: int) -> NDArray[np.uint8]:
        """The frame of that index, uint8 (H, W, 3) BGR."""
        import cv2

        canvas: NDArray[np.uint8] = self._background.copy()
        size_px = canvas.shape[1::-1]
        for head, to_frame in self._placed(index):
            corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) * (*head.image.shape[1::-1], 1)
            seen = corners @ to_frame.T
            x1, y1 = np.maximum(np.floor(seen.min(axis=0)).astype(int), 0)
            x2, y2 = np.minimum(np.ceil(seen.max(axis=0)).astype(int), size_px)
            if x1 >= x2 or y1 >= y2:
                continue
            inside = to_frame - np.array([[0, 0, x1], [0, 0, y1]])
            window_px = (int(x2 - x1), int(y2 - y1))
            pixels = cv2.warpAffine(head.image, inside, window_px, flags=cv2.INTER_AREA).astype(np.float32)
            opacity = cv2.warpAffine(head.opacity, inside, window_px)[:, :, None]
            under = canvas[y1:y2, x1:x2]
            under[:] = np.rint(under + (pixels - under) * opacity).astype(np.uint8)
        return canvas

    def boxes(self, index: int) -> NDArray[np.float32]:
        """The true boxes of the faces in that frame, (N, 4) float32 x1 y1 x2 y2 in pixels, not clipped to it."""
        found = []
        for head, to_frame in self._placed(index):
            x1, y1, x2, y2 = head.box
            centre = to_frame @ (0.5 * (x1 + x2), 0.5 * (y1 + y2), 1)
            scale = float(np.hypot(*to_frame[:, 0]))
            half = 0.5 * scale * np.array([x2 - x1, y2 - y1])
            found.append([*(centre - half), *(centre + half)])
        return np.array(found, np.float32)

    def _placed(self, index: int) -> list[tuple[_Head, NDArray[np.float64]]]:
        """Each head with the affine map (2, 3) from its pixels to the frame's."""
        height_px, width_px = self._background.shape[:2]
        placed = []
        for head, path in zip(self._heads, self._paths, strict=True):
            x, y, scale, roll = path.at(index / self.fps)
            turn = math.radians(roll)
            linear = scale * self._scale * np.array(
                [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
            )
            middle = 0.5 * np.array(head.image.shape[1::-1])
            shift = np.array([x * width_px, y * height_px]) - linear @ middle
            placed.append((head, np.column_stack([linear, shift])))
        return placed


def demo_scene(spec: SourceSpec) -> DemoScene:
    """The scene that ``open_demo`` plays for this spec: frame n of the source is its ``image(n)``."""
    return DemoScene(
        spec.width_px or DEFAULT_SIZE_PX[0], spec.height_px or DEFAULT_SIZE_PX[1], spec.fps or DEFAULT_FPS, spec.seed
    )


def _room(width_px: int, height_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A wall, a floor, and some furniture, uint8 (H, W, 3) BGR."""
    import cv2

    rows = np.linspace(0, 1, height_px, dtype=np.float32)[:, None, None]
    top, bottom = np.array([168, 160, 150], np.float32), np.array([205, 200, 196], np.float32)
    canvas = np.broadcast_to(top + (bottom - top) * rows, (height_px, width_px, 3)).astype(np.uint8, "C")
    floor_px = round(0.82 * height_px)
    cv2.rectangle(canvas, (0, floor_px), (width_px, height_px), (74, 98, 122), cv2.FILLED)
    for _ in range(7):
        x, y = int(rng.integers(width_px)), int(rng.integers(floor_px))
        w, h = (int(v) for v in rng.integers(min(width_px, height_px) // 12 + 1, min(width_px, height_px) // 4 + 2, 2))
        colour = tuple(int(v) for v in rng.integers(50, 190, 3))
        cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, cv2.FILLED)
        cv2.rectangle(canvas, (x, y), (x + w, y + h), (52, 60, 70), 2)
    noise = rng.normal(0, 3, (height_px, width_px, 1))
    room: NDArray[np.uint8] = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    return room


def _astronaut() -> _Head | None:
    try:
        from skimage import data
    except ImportError:
        _log.warning('scikit-image is not installed, so the faces are drawn: pip install "edgeface[demo]"')
        return None
    photograph = data.astronaut()[:, :, ::-1]  # type: ignore[no-untyped-call]  # scikit-image is untyped
    left, top, right, bottom = 132, 0, 320, 216
    image = np.ascontiguousarray(photograph[top:bottom, left:right])
    opacity = _oval(image.shape[:2], centre=(226 - left, 104 - top), radii=(84, 98))
    return _Head(image, opacity, (177.0 - left, 51.0 - top, 271.0 - left, 175.0 - top))


def _oval(shape: tuple[int, int], centre: tuple[int, int], radii: tuple[int, int]) -> NDArray[np.float32]:
    """Opacity (h, w), float32: 1 inside, falling to 0 at the oval's edge."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])
    opacity: NDArray[np.float32] = np.clip((1 - distance) / 0.12, 0, 1).astype(np.float32)
    return opacity


def _drawn_head() -> _Head:
    import cv2

    image = np.full((216, 188, 3), (150, 178, 214), np.uint8)
    skin, hair, dark, lips = (150, 178, 214), (38, 52, 74), (30, 30, 36), (92, 92, 176)
    cv2.ellipse(image, (94, 92), (84, 96), 0, 0, 360, hair, cv2.FILLED, cv2.LINE_AA)
    cv2.ellipse(image, (94, 118), (56, 72), 0, 0, 360, skin, cv2.FILLED, cv2.LINE_AA)
    for x in (70, 118):
        cv2.ellipse(image, (x, 102), (12, 6), 0, 0, 360, (240, 240, 240), cv2.FILLED, cv2.LINE_AA)
        cv2.circle(image, (x, 102), 6, dark, cv2.FILLED, cv2.LINE_AA)
        cv2.ellipse(image, (x, 90), (15, 5), 0, 180, 360, hair, 4, cv2.LINE_AA)
    cv2.ellipse(image, (94, 128), (9, 6), 0, 0, 180, (112, 136, 176), 3, cv2.LINE_AA)
    cv2.line(image, (94, 104), (90, 126), (120, 146, 186), 2, cv2.LINE_AA)
    cv2.ellipse(image, (94, 150), (22, 9), 0, 0, 180, lips, cv2.FILLED, cv2.LINE_AA)
    image = np.clip(cv2.GaussianBlur(image, (0, 0), 1.6), 0, 255).astype(np.uint8)
    return _Head(image, _oval((216, 188), (94, 106), (88, 104)), (38.0, 58.0, 150.0, 190.0))
