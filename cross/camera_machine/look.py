"""Runs in the emulated machine: opens its camera as edgeface does, and writes a JSON line for each pixel format.

The camera draws colour bars: ``bars`` are their mean colours (B, G, R) in the lower quarter of the picture, which say
whether luma and chroma are read in the right order. ``age_ms`` is how old the frame was that waited in the driver
while this slept: near 0 if the moment of reading were taken for that of the picture.

    look.py WIDTH HEIGHT FORMAT...
"""

from __future__ import annotations

import sys
import time

import msgspec
import numpy as np

from edgeface.errors import EdgefaceError
from edgeface.stream.sources import Source, make_spec, source

_BARS = 8
_SLEEP_S = 0.4


def look(pixel_format: str, width_px: int, height_px: int) -> dict[str, object]:
    spec = make_spec("0", width_px=width_px, height_px=height_px, pixel_format=pixel_format)
    try:
        camera: Source = source.get(spec.kind)(spec)
        try:
            camera.read()
            time.sleep(_SLEEP_S)
            grab = camera.read()
            read_ns = time.monotonic_ns()
            assert grab is not None, "a camera has no end"
            image = grab.frame.to_bgr()
        finally:
            camera.close()
    except EdgefaceError as error:
        return {"asked": pixel_format, "error": str(error)}
    rows = image[image.shape[0] * 3 // 4:].astype(np.float64)
    bar_px = image.shape[1] / _BARS
    centres = [rows[:, round((n + 0.3) * bar_px): round((n + 0.7) * bar_px)] for n in range(_BARS)]
    return {
        "asked": pixel_format, "given": grab.frame.format, "shape": grab.frame.pixels.shape,
        "width": grab.frame.width, "height": grab.frame.height, "fps": camera.fps,
        "age_ms": (read_ns - grab.taken_monotonic_ns) / 1e6,
        "bars": [centre.mean((0, 1)).tolist() for centre in centres],
    }


for asked in sys.argv[3:]:
    line = msgspec.json.encode(look(asked, int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.write(line.decode() + "\n")
    sys.stdout.flush()
