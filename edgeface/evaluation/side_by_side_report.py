"""Two models side by side as one HTML file that needs nothing else: figures, and the pictures where they differ."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.drawing import Colour, draw_faces
from edgeface.evaluation.side_by_side import Compared, difference_lines
from edgeface.faces import Faces

_ALONE: Colour = (60, 60, 255)
_LONGEST_PX = 1000
_JPEG_QUALITY = 85
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1400px; padding: 0 1em; }
table { border-collapse: collapse; } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ccc; }
section { margin: 2.5em 0; } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }
figure { margin: 0; } img { max-width: 100%; } figcaption { color: #555; } h2 { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } figcaption { color: #aaa; } }
"""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Side:
    """One of the two models: its name, what it was run with in words, its faces, and its median time in ms."""

    name: str
    settings: str
    faces: int
    alone: int
    median_ms: float


def side_picture(image: Image, faces: Faces, alone: Sequence[int]) -> Image:
    """A model's faces on a picture, uint8 (H, W, 3) BGR; those that it ``alone`` has get a red frame round them."""
    drawn = draw_faces(image, faces)
    line_px = max(2, round(max(image.shape[:2]) / 250))
    for box in faces.boxes[list(alone)]:
        x1, y1, x2, y2 = np.clip(np.nan_to_num(box), -1e5, 1e5).round().astype(int).tolist()
        cv2.rectangle(
            drawn, (x1 - 2 * line_px, y1 - 2 * line_px), (x2 + 2 * line_px, y2 + 2 * line_px), _ALONE, line_px
        )
    return drawn


def report_section(each: Compared, image: Image, names: tuple[str, str]) -> str:
    """The HTML of one picture, uint8 (H, W, 3) BGR: both drawings and the list of what differs."""
    sides = [
        f'<figure><img alt="" src="{_data_address(side_picture(image, faces, each.alone(is_other)))}">'
        f"<figcaption>{escape(name)}: {len(faces)}</figcaption></figure>"
        for faces, name, is_other in ((each.one, names[0], False), (each.other, names[1], True))
    ]
    items = "".join(f"<li>{escape(line)}</li>" for line in difference_lines(each, names))
    return (
        f"<section><h2>{escape(_text(each.path))}</h2><div class=two>{''.join(sides)}</div>"
        f"{f'<ul>{items}</ul>' if items else '<p>No difference.</p>'}</section>"
    )


def report_page(sides: tuple[Side, Side], summary: Sequence[str], sections: Sequence[str]) -> bytes:
    """The whole page, UTF-8: a table of the two models, ``summary`` in paragraphs, and the pictures."""
    title = escape(f"{sides[0].name} and {sides[1].name}")
    rows = "".join(
        f"<tr><td>{escape(side.name)}</td><td>{escape(side.settings)}</td><td>{side.faces}</td><td>{side.alone}</td>"
        f"<td>{side.median_ms:.1f} ms</td></tr>"
        for side in sides
    )
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in summary)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
        f"style-src 'unsafe-inline'\"><title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        "<table><tr><th>model</th><th>run with</th><th>faces</th><th>that the other has not</th>"
        f"<th>median time on this machine</th></tr>{rows}</table>{paragraphs}"
        "<p>A red frame is round a face that the other model has not.</p>"
        f"{''.join(sections)}</body></html>\n"
    )
    return page.encode("utf-8", "replace")


def _data_address(image: Image) -> str:
    scale = min(1.0, _LONGEST_PX / max(image.shape[:2]))
    if scale < 1:
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _text(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
