"""What the tests of ``edgeface detect`` run it with: a process, pictures and clips, and what it left."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from click.testing import Result
from numpy.typing import NDArray

Detect = Callable[..., Result]


def process(*arguments: str | Path, model: Path, **options: Any) -> subprocess.Popen[bytes]:
    """``edgeface detect`` in a process of its own."""
    command = [sys.executable, "-m", "edgeface", "detect", "--model", model, "--threads", "1", *arguments]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, **options)


def photo(path: Path, image: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def clip(path: Path, image: NDArray[Any], frames: int, fourcc: str = "mp4v") -> Path:
    """A video of ``image`` growing brighter."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), 10.0, (image.shape[1], image.shape[0]))
    for i in range(frames):
        writer.write(cv2.convertScaleAbs(image, alpha=0.7 + 0.6 * i / frames))
    writer.release()
    return path


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden or not."""
    return sorted(entry.name for entry in folder.iterdir())


def everything(folder: Path) -> list[str]:
    """Every file below, hidden ones too, so that nothing half-written escapes."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def error_lines(result: Result) -> list[str]:
    lines = result.stderr.splitlines()
    assert all(line.startswith("edgeface: ") for line in lines)
    return lines


def huge_png(side_px: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compressobj(1)
    body = b"".join(rows.compress(bytes(1 + side_px)) for _ in range(side_px)) + rows.flush()
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


