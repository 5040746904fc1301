"""Faces drawn on a picture: boxes, scores, landmarks, the axes of the head, and what a face has in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.faces import Faces

Colour = tuple[int, int, int]

BOX: Colour = (80, 220, 60)
LANDMARK: Colour = (0, 230, 255)
AXES: tuple[Colour, Colour, Colour] = ((60, 60, 255), (60, 220, 60), (255, 130, 40))
INK: Colour = (16, 16, 16)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Height in pixels of a capital of that font at scale 1.
_FONT_PX = 21.0
# Sub-pixel positions: OpenCV's drawing takes integers of 2 ** -4 pixel.
_SHIFT = 4
# A picture's longest side for one pixel of line width, and the smallest capitals that can be read.
_PIXELS_A_LINE = 480
_SMALLEST_TEXT_PX = 7.0
# A line wider than this part of a face hides it.
_LINE_OF_FACE = 1 / 24
# Faces below this side get plain thin marks and no axes; a score wider than this part of its face is left out.
_OUTLINED_FACE_PX = 32
_SMALLEST_AXES_PX = 16
_WIDEST_SCORE = 1.25
# Lines of words may be this part of their face high: more would hide what is below it.
_HIGHEST_WORDS = 0.6


@dataclass(frozen=True)
class _Pen:
    """Line width and text height in pixels, from the picture's size."""

    line_px: int
    text_px: float

    @property
    def scale(self) -> float:
        """Of the font."""
        return self.text_px / _FONT_PX

    @property
    def stroke_px(self) -> int:
        """Width of a letter's lines."""
        return max(1, round(self.text_px / 9))

    @property
    def margin_px(self) -> int:
        """Round a text, on its plate."""
        return max(1, self.line_px)


def draw_faces(image: NDArray[np.uint8], faces: Faces) -> NDArray[np.uint8]:
    """A copy of ``image``, uint8 (H, W, 3) BGR, with every face of ``faces`` (pixels of that picture) on it.

    Lines grow with the picture and shrink with the face, so that neither a photograph of 20 megapixels nor a face of
    10 pixels is lost. Of a small face the axes are left out, and a score and words that would hide its neighbours. The
    best faces are drawn last, on top. Attributes are words below the face, those that it has, and so are classes; an
    expectation and quality are numbers.
    """
    canvas: NDArray[np.uint8] = image.copy()
    longest_px = max(image.shape[:2])
    line_px = max(1, round(longest_px / _PIXELS_A_LINE))
    pen = _Pen(line_px, max(_SMALLEST_TEXT_PX, longest_px / 55))
    # Far outside the picture only a line's direction matters, and OpenCV overflows on large coordinates.
    reach_px = 4.0 * longest_px

    def within(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(np.nan_to_num(points), -reach_px, reach_px).astype(np.float32)

    for face in reversed(list(faces)):
        box = within(face.box)
        landmarks = None if face.landmarks is None else within(face.landmarks)
        if (box[2:] < 0).any() or (box[:2] >= image.shape[1::-1]).any():
            continue
        side_px = float(min(box[2] - box[0], box[3] - box[1]))
        width_px = max(1, min(pen.line_px, round(side_px * _LINE_OF_FACE)))
        outline = side_px >= _OUTLINED_FACE_PX
        _box(canvas, box, width_px, outline)
        if face.pose is not None and side_px >= _SMALLEST_AXES_PX:
            nose = (box[:2] + box[2:]) / np.float32(2) if landmarks is None else landmarks[2]
            _axes(canvas, box, nose, np.nan_to_num(face.pose), width_px, outline)
        if face.landmarks68 is not None:
            _landmarks(canvas, within(face.landmarks68), max(1, width_px // 2), False)
        if landmarks is not None:
            _landmarks(canvas, landmarks, width_px, outline)
        _score(canvas, box, face.score, pen)
        _words(canvas, box, face.words(), pen)
    return canvas


def head_axes(pose: NDArray[np.floating]) -> NDArray[np.float64]:
    """The head's axes as seen in the picture: (3, 2), the ends of unit vectors, x right and y down.

    ``pose`` (3,) is pitch, yaw, roll in degrees with AFLW2000's signs: pitch is positive looking up, yaw towards the
    image's left, roll clockwise. Rows: to the image's right along the eyes, down the face, out of the nose. The
    rotation is Rx(pitch) Ry(-yaw) Rz(roll), of which the first two rows are seen.
    """
    pitch, yaw, roll = np.radians(np.asarray(pose, np.float64)) * (1.0, -1.0, 1.0)
    (sp, sy, sr), (cp, cy, cr) = np.sin((pitch, yaw, roll)), np.cos((pitch, yaw, roll))
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    rotation: NDArray[np.float64] = about_x @ about_y @ about_z
    ends: NDArray[np.float64] = rotation[:2].T
    return ends


def _fixed(point: NDArray[np.floating]) -> tuple[int, int]:
    return round(float(point[0]) * (1 << _SHIFT)), round(float(point[1]) * (1 << _SHIFT))


def _line(
    canvas: NDArray[np.uint8], start: NDArray[np.floating], end: NDArray[np.floating], colour: Colour, width_px: int
) -> None:
    cv2.line(canvas, _fixed(start), _fixed(end), colour, width_px, cv2.LINE_AA, _SHIFT)


def _box(canvas: NDArray[np.uint8], box: NDArray[np.float32], width_px: int, outline: bool) -> None:
    corners = _fixed(box[:2]), _fixed(box[2:])
    if outline:
        cv2.rectangle(canvas, *corners, INK, width_px + 2, cv2.LINE_AA, _SHIFT)
    cv2.rectangle(canvas, *corners, BOX, width_px, cv2.LINE_AA, _SHIFT)


def _landmarks(canvas: NDArray[np.uint8], points: NDArray[np.float32], width_px: int, outline: bool) -> None:
    radius = round((0.2 + 1.1 * width_px if outline else 0.7) * (1 << _SHIFT))
    for point in points:
        if outline:
            cv2.circle(canvas, _fixed(point), radius + (1 << _SHIFT), INK, cv2.FILLED, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, _fixed(point), radius, LANDMARK, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _axes(
    canvas: NDArray[np.uint8],
    box: NDArray[np.float32],
    nose: NDArray[np.float32],
    pose: NDArray[np.float32],
    width_px: int,
    outline: bool,
) -> None:
    """From the nose tip: red to the image's right, green down, blue where the head looks."""
    ends = nose + head_axes(pose) * 0.5 * float(box[2] - box[0])
    if outline:
        for end in ends:
            _line(canvas, nose, end, INK, width_px + 2)
    for end, colour in zip(ends, AXES, strict=True):
        _line(canvas, nose, end, colour, width_px)


def _score(canvas: NDArray[np.uint8], box: NDArray[np.float32], score: float, pen: _Pen) -> None:
    """The score on a plate above the box, or inside it where the picture ends."""
    text = f"{score:.2f}"
    plate = _Plate.of(text, pen)
    if plate.text_px > _WIDEST_SCORE * float(box[2] - box[0]):
        return
    bottom = round(float(box[1]))
    if bottom < plate.height_px:
        bottom = max(0, bottom) + plate.height_px
    plate.draw(canvas, text, round(float(box[0])), bottom)


def _words(canvas: NDArray[np.uint8], box: NDArray[np.float32], words: Sequence[str], pen: _Pen) -> None:
    """Words on plates below the box, or inside it where the picture ends: as many beside each other as are no wider
    than the score may be. A word that is wider alone is left out, and so are lines that would be too many for the face.
    """
    widest_px = _WIDEST_SCORE * float(box[2] - box[0])
    lines: list[str] = []
    for word in words:
        if lines and _Plate.of(f"{lines[-1]} {word}", pen).text_px <= widest_px:
            lines[-1] += f" {word}"
        elif _Plate.of(word, pen).text_px <= widest_px:
            lines.append(word)
    plate_px = _Plate.of("Mg", pen).height_px
    lines = lines[: int(_HIGHEST_WORDS * float(box[3] - box[1]) / plate_px)]
    bottom = min(round(float(box[3])), canvas.shape[0] - len(lines) * plate_px)
    for line in lines:
        bottom += plate_px
        _Plate.of(line, pen).draw(canvas, line, round(float(box[0])), bottom)


@dataclass(frozen=True)
class _Plate:
    """How large a line of text and the plate under it are, in pixels: ``below_px`` is what hangs below the line."""

    text_px: int
    height_px: int
    below_px: int
    pen: _Pen

    @classmethod
    def of(cls, text: str, pen: _Pen) -> _Plate:
        (width_px, height_px), below_px = cv2.getTextSize(text, _FONT, pen.scale, pen.stroke_px)
        return cls(width_px, height_px + below_px // 2 + 2 * pen.margin_px, below_px // 2, pen)

    def draw(self, canvas: NDArray[np.uint8], text: str, left: int, bottom: int) -> None:
        """Draw it with its lower left corner there, or farther left where the picture ends."""
        pen, width_px = self.pen, self.text_px + 2 * self.pen.margin_px
        left = max(0, min(left, canvas.shape[1] - width_px))
        cv2.rectangle(canvas, (left, bottom - self.height_px), (left + width_px, bottom), INK, cv2.FILLED)
        at = (left + pen.margin_px, bottom - pen.margin_px - self.below_px)
        cv2.putText(canvas, text, at, _FONT, pen.scale, BOX, pen.stroke_px, cv2.LINE_AA)
