"""What every network is given: x = (pixel - PIXEL_MEAN) * PIXEL_SCALE, in the order BGR."""

from __future__ import annotations

PIXEL_MEAN, PIXEL_SCALE = 128.0, 1 / 128
