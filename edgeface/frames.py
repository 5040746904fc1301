"""Pictures as cameras give them: pixels and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import InputError

Format = Literal["bgr", "rgb", "grey", "nv12", "yuyv"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SHAPES: dict[Format, tuple[int, str]] = {     # what the last of three axes counts, 0 for two axes
    "bgr": (3, "(H, W, 3)"),
    "rgb": (3, "(H, W, 3)"),
    "grey": (0, "(H, W)"),
    "nv12": (0, "(H * 3 / 2, W), H and W even"),
    "yuyv": (2, "(H, W, 2), W even"),
}


@dataclass(frozen=True)
class Frame:
    """One picture: ``pixels`` uint8, laid out as ``format`` says.

    - ``bgr``, ``rgb``: (H, W, 3);
    - ``grey``: (H, W);
    - ``nv12``: (H * 3 / 2, W), H rows of luma, then H / 2 rows of U and V in turns, each for 2 x 2 pixels; H, W even;
    - ``yuyv``: (H, W, 2), luma and in turns U and V, each for 2 x 1 pixels; W even.

    The pixels are not copied, and must not change while the Frame is used. Raises InputError for another format, dtype
    or shape.
    """

    pixels: NDArray[np.uint8]
    format: Format = "bgr"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"no pixel format {self.format!r}: choose {', '.join(FORMATS)}")
        channels, layout = _SHAPES[self.format]
        wanted = f"a picture must be uint8 {layout} in {self.format.upper()}"
        if not isinstance(self.pixels, np.ndarray):
            raise InputError(f"{wanted}, not {type(self.pixels).__name__}")
        shape = self.pixels.shape
        fits = len(shape) == (3 if channels else 2) and 0 not in shape and (not channels or shape[2] == channels)
        if fits and self.format == "nv12":
            fits = shape[0] % 3 == 0 and shape[1] % 2 == 0      # so H is even: 2 / 3 of the rows
        elif fits and self.format == "yuyv":
            fits = shape[1] % 2 == 0
        if self.pixels.dtype != np.uint8 or not fits:
            raise InputError(f"{wanted}, not {self.pixels.dtype} {shape}: convert it first")

    @property
    def width(self) -> int:
        """In pixels of luma."""
        width: int = self.pixels.shape[1]
        return width

    @property
    def height(self) -> int:
        """In pixels of luma."""
        rows: int = self.pixels.shape[0]
        return rows * 2 // 3 if self.format == "nv12" else rows

    def to_bgr(self) -> NDArray[np.uint8]:
        """The picture as uint8 (H, W, 3) BGR, for people and files: BGR as it is, the rest converted by OpenCV.

        Nets do not see this: what they get is resampled before its colours are converted.
        """
        if self.format == "bgr":
            return self.pixels
        import cv2

        conversion = {
            "rgb": cv2.COLOR_RGB2BGR,
            "grey": cv2.COLOR_GRAY2BGR,
            "nv12": cv2.COLOR_YUV2BGR_NV12,
            "yuyv": cv2.COLOR_YUV2BGR_YUY2,
        }[self.format]
        return np.asarray(cv2.cvtColor(self.pixels, conversion), np.uint8)


Picture = NDArray[np.uint8] | Frame


def as_frame(picture: Picture) -> Frame:
    """A Frame as it is, an array as BGR; raises InputError when it is no uint8 (H, W, 3)."""
    if isinstance(picture, Frame):
        return picture
    if not isinstance(picture, np.ndarray):
        raise InputError(f"a picture must be uint8 (H, W, 3) in BGR or a Frame, not {type(picture).__name__}")
    return Frame(picture)
