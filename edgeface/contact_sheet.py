"""Contact sheets: many cut-outs of pictures side by side, each with a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.drawing import BOX, INK, Colour

TILE_PX = 160
COLUMNS = 8
# The longer side of a box takes half of its tile, and a tile shows at least so many pixels of the picture.
_SURROUNDINGS = 2.0
_LEAST_SHOWN_PX = 48.0
_TEXT_PX = 18
_GROUND = 32

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Mark:
    """A box on a tile, (4,) x1 y1 x2 y2 in pixels of the picture, and its colour."""

    box: NDArray[np.floating]
    colour: Colour = BOX


def tile(image: Image, marks: Sequence[Mark], text: str) -> Image:
    """The surroundings of the first of ``marks`` in ``image``, uint8 (H, W, 3) BGR, with all of them drawn and ``text``
    below: uint8 (TILE_PX + 18, TILE_PX, 3). Raises ValueError where there is no mark."""
    if not marks:
        raise ValueError("a tile needs a mark, whose surroundings it shows")
    box = np.asarray(marks[0].box, np.float64)
    side = max(_LEAST_SHOWN_PX, _SURROUNDINGS * float(max(box[2] - box[0], box[3] - box[1])))
    scale = TILE_PX / side
    shift = TILE_PX / 2 - (box[:2] + box[2:]) / 2 * scale
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    shown = cv2.warpAffine(
        image if scale >= 0.5 else cv2.blur(image, (round(1 / scale),) * 2), matrix, (TILE_PX, TILE_PX),
        flags=cv2.INTER_LINEAR, borderValue=(_GROUND,) * 3,
    )
    for mark in reversed(marks):
        x1, y1, x2, y2 = np.clip(mark.box.reshape(2, 2) * scale + shift, -TILE_PX, 2 * TILE_PX).round().astype(int).flat
        cv2.rectangle(shown, (x1, y1), (x2, y2), INK, 4)
        cv2.rectangle(shown, (x1, y1), (x2, y2), mark.colour, 2)
    return np.vstack([shown, _line(text, TILE_PX)]).astype(np.uint8)


def contact_sheet(tiles: Sequence[Image], title: str) -> Image:
    """``tiles`` of one size, uint8 (h, w, 3), in rows of eight below a ``title``. Raises ValueError without tiles."""
    if not tiles:
        raise ValueError("a contact sheet needs tiles")
    height, width = tiles[0].shape[:2]
    columns = min(COLUMNS, len(tiles))
    empty = np.full((height, width, 3), _GROUND, np.uint8)
    padded = [*tiles, *[empty] * (-len(tiles) % columns)]
    rows = [np.hstack(padded[start:start + columns]) for start in range(0, len(padded), columns)]
    return np.vstack([_line(title, columns * width), *rows]).astype(np.uint8)


def _line(text: str, width_px: int) -> Image:
    line = np.full((_TEXT_PX, width_px, 3), _GROUND, np.uint8)
    cv2.putText(line, text, (3, _TEXT_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (235, 235, 235), 1, cv2.LINE_AA)
    return line
