"""Parts of the picture that events are about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edgeface.errors import OptionError

_SHAPE = (
    "NAME=X1,Y1,X2,Y2 for a rectangle or NAME=X1,Y1,X2,Y2,X3,Y3,... for a polygon, in shares of the picture, 0 to 1"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
WHOLE = "picture"


@dataclass(frozen=True)
class Zone:
    """A polygon by its corners x, y, in shares of the picture's width and height."""

    name: str
    corners: tuple[tuple[float, float], ...]

    @classmethod
    def parse(cls, text: str) -> Zone:
        """Of ``NAME=X1,Y1,X2,Y2`` (a rectangle) or of three and more corners. Raises OptionError."""
        name, _, rest = text.partition("=")
        if not _NAME.fullmatch(name):
            raise OptionError(f"--zone {text}: a name has letters, digits, - and _: write {_SHAPE}")
        try:
            numbers = [float(part) for part in rest.split(",")]
        except ValueError:
            raise OptionError(f"--zone {text}: write {_SHAPE}") from None
        if len(numbers) < 4 or len(numbers) % 2 or not all(0 <= number <= 1 for number in numbers):
            raise OptionError(f"--zone {text}: write {_SHAPE}")
        if len(numbers) == 4:
            x1, y1, x2, y2 = numbers
            corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        else:
            corners = list(zip(numbers[::2], numbers[1::2], strict=True))
        if cv2.contourArea(np.array(corners, np.float32)) <= 0:
            raise OptionError(f"--zone {text}: has no area")
        return cls(name, tuple(corners))

    def holds(self, x: float, y: float) -> bool:
        """Whether a place, in shares of the picture, lies in it or on its edge."""
        return cv2.pointPolygonTest(np.array(self.corners, np.float32), (x, y), False) >= 0


def parse_zones(texts: Sequence[str]) -> tuple[Zone, ...]:
    """The zones of the option --zone; the whole picture, called "picture", where there is none. A face that is partly
    outside the picture is in it too. Raises OptionError, for two of one name as well."""
    zones = tuple(Zone.parse(text) for text in texts)
    names = [zone.name for zone in zones]
    if len(set(names)) < len(names):
        raise OptionError(f"--zone: two are called {next(name for name in names if names.count(name) > 1)}")
    return zones or (Zone(WHOLE, ((-9.0, -9.0), (9.0, -9.0), (9.0, 9.0), (-9.0, 9.0))),)
