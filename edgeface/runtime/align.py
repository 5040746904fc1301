"""Faces turned upright, at one size, for nets that compare or describe them.

Five landmarks of a face are brought to the places that ArcFace's training crops have them at (112 x 112 pixels; see
TEMPLATE) by the similarity transform with the least squared distance: a turn, a scale and a shift, with no reflection
(Umeyama 1991). Then, for each pixel of the crop:

1. Its place in the picture is (m_0 X + m_1 Y + m_2, m_3 X + m_4 Y + m_5) for column X and row Y, with the inverse
   transform's numbers rounded to 2^-16 once, in float64, here. Pixel centres are whole numbers in this.
2. That place is rounded to 256ths, (place + 2^7) >> 8; its whole part names the upper left of four neighbours and its
   fraction their weights, (256 - f_x)(256 - f_y) and so on. The value is (sum + 2^15) >> 16.
3. A neighbour outside the picture is black.

Of NV12 and YUYV luma and chroma are taken so, each from its own plane (its samples lie in the middle of the pixels they
are for; black is Y 16, U and V 128), and become B, G, R by the formulas of ``preprocess.py``.

The C kernel ``ef_align`` and the NumPy code here give the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import InputError, OptionError
from edgeface.frames import Frame, Picture, as_frame
from edgeface.landmarks import five_of_68
from edgeface.runtime.kernels import library, pictures
from edgeface.runtime.resampling import yuv_to_bgr

SIZE_PX = 112
MAX_SIZE_PX = 4096

# Eyes, nose and mouth corners as pixels' centres, as ArcFace's published crops have them (Deng et al. 2019).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

_TEMPLATE = [complex(x + 0.5, y + 0.5) for x, y in TEMPLATE.tolist()]
_TEMPLATE_MIDDLE = sum(_TEMPLATE) / len(_TEMPLATE)
_CENTRED_TEMPLATE = [point - _TEMPLATE_MIDDLE for point in _TEMPLATE]

_MANY = 68
_FARTHEST = 1e100       # of a landmark, in pixels: its square is a number
_ONE = 1 << 16
_LARGEST = 1 << 44      # of a transform's numbers in 2^-16: EF_MAP_MAX
_Y_BLACK, _UV_BLACK = 16, 128

Maps = NDArray[np.int64]


def align(picture: Picture, landmarks: NDArray[np.floating], *, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    """Upright crops uint8 (N, size_px, size_px, 3) BGR of N faces in a picture, uint8 (H, W, 3) BGR or a Frame.

    ``landmarks`` (N, 5, 2) are those of ``Faces``: left eye, right eye, nose, left and right mouth corner as seen, x y
    in pixels of the picture, whose first pixel reaches from 0 to 1; of 68 points (N, 68, 2) these five are taken
    (``edgeface.landmarks.five_of_68``). ``size_px`` scales the template. Raises InputError for another picture and for
    landmarks that are not finite, all in one place or of a face of no sensible size, and OptionError for a size that
    cannot work.
    """
    frame, maps = _prepared(picture, landmarks, size_px)
    kernels = library()
    if kernels is None:
        return _warped(frame, maps, size_px)
    return pictures.align(kernels, frame, maps, size_px)


def align_reference(picture: Picture, landmarks: NDArray[np.floating], *, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    """``align`` in plain NumPy: what the kernel is held against. Same arguments and errors."""
    frame, maps = _prepared(picture, landmarks, size_px)
    return _warped(frame, maps, size_px)


def similarity(landmarks: NDArray[np.floating], *, size_px: int = SIZE_PX) -> NDArray[np.float64]:
    """The transforms (N, 2, 3) from a picture's coordinates, as ``landmarks`` (N, 5 or 68, 2) have them, to the crops'.

    A crop's first pixel reaches from 0 to 1 too. Raises as ``align``.
    """
    if not isinstance(size_px, (int, np.integer)) or not 1 <= size_px <= MAX_SIZE_PX:
        raise OptionError(f"crops of {size_px!r} pixels cannot work: choose 1 to {MAX_SIZE_PX}")
    points = np.asarray(landmarks, np.float64)
    if points.ndim == 3 and points.shape[1:] == (_MANY, 2):
        points = five_of_68(points).astype(np.float64)
    if points.ndim != 3 or points.shape[1:] != TEMPLATE.shape:
        raise InputError(f"landmarks must be (N, 5, 2) or (N, {_MANY}, 2), not {points.shape}")
    wrong = ~np.isfinite(points).all(axis=(1, 2))
    if wrong.any():
        raise InputError(f"the landmarks of face {int(wrong.argmax())} are not finite")
    rows = []
    for i, each in enumerate(points.tolist()):
        factor, shift = _factor_and_shift([complex(x, y) for x, y in each], i, size_px / SIZE_PX)
        rows.append([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
    return np.array(rows, np.float64).reshape(-1, 2, 3)


def _factor_and_shift(points: list[complex], face: int, scale: float) -> tuple[complex, complex]:
    """The similarity as p -> factor p + shift: with complex numbers least squares is one division. In plain Python: of
    five points NumPy's calls take three times as long."""
    if not all(abs(p.real) < _FARTHEST and abs(p.imag) < _FARTHEST for p in points):
        raise InputError(f"the landmarks of face {face} lie too far off to cut it out")
    middle = sum(points) / len(points)
    spread, turned = 0.0, 0j
    for point, target in zip(points, _CENTRED_TEMPLATE, strict=True):
        centred = point - middle
        spread += centred.real * centred.real + centred.imag * centred.imag
        turned += centred.conjugate() * target
    if spread <= 0 or abs(turned) <= 1e-9 * spread:
        raise InputError(f"the landmarks of face {face} are all in one place, or no face's")
    factor = turned / spread * scale
    return factor, _TEMPLATE_MIDDLE * scale - factor * middle


def _prepared(picture: Picture, landmarks: NDArray[np.floating], size_px: int) -> tuple[Frame, Maps]:
    """The frame, and for each face the numbers m of step 1 for its pixels (or luma) and for its chroma: (N, 2, 6)."""
    frame = as_frame(picture)
    forward = similarity(landmarks, size_px=size_px)
    rows: list[float] = []
    sizes = ((1.0, 1.0), _chroma_size(frame))
    for (a, _, x), (b, _, y) in forward.tolist():
        # The inverse of a turn and a scale: its conjugate by the square of the scale.
        square = a * a + b * b
        c, s = a / square, b / square
        # From pixel centres of the crop, which lie at + 1/2, to those of a plane whose pixels are `size` wide.
        start_x, start_y = c * (0.5 - x) + s * (0.5 - y), c * (0.5 - y) - s * (0.5 - x)
        for wide, high in sizes:
            rows += c / wide, s / wide, start_x / wide - 0.5, -s / high, c / high, start_y / high - 0.5
    fixed = np.rint(np.array(rows).reshape(-1, 2, 6) * _ONE)
    beyond = ~(np.abs(fixed) < _LARGEST).all(axis=(1, 2))
    if beyond.any():
        raise InputError(f"the landmarks of face {int(beyond.argmax())} lie too far off to cut it out")
    return frame, fixed.astype(np.int64)


def _chroma_size(frame: Frame) -> tuple[float, float]:
    return 1.0 if frame.format in ("bgr", "rgb", "grey") else 2.0, 2.0 if frame.format == "nv12" else 1.0


def _warped(frame: Frame, maps: Maps, size_px: int) -> NDArray[np.uint8]:
    out = np.empty((len(maps), size_px, size_px, 3), np.uint8)
    pixels, height = frame.pixels, frame.height
    for crop, (luma, chroma) in zip(out, maps, strict=True):
        if frame.format in ("bgr", "rgb"):
            crop[...] = _sampled(pixels if frame.format == "bgr" else pixels[:, :, ::-1], luma, size_px, 0)
        elif frame.format == "grey":
            crop[...] = _sampled(pixels, luma, size_px, 0)[:, :, None]
        else:
            if frame.format == "nv12":
                y, u, v = pixels[:height], pixels[height:, ::2], pixels[height:, 1::2]
            else:
                y, u, v = pixels[:, :, 0], pixels[:, ::2, 1], pixels[:, 1::2, 1]
            crop[...] = yuv_to_bgr(
                _sampled(y, luma, size_px, _Y_BLACK),
                _sampled(u, chroma, size_px, _UV_BLACK),
                _sampled(v, chroma, size_px, _UV_BLACK),
            )
    return out


def _sampled(plane: NDArray[np.uint8], m: NDArray[np.int64], size_px: int, black: int) -> NDArray[np.uint8]:
    """Steps 1 to 3 for uint8 (H, W, ...)."""
    x, y = np.arange(size_px, dtype=np.int64)[None, :], np.arange(size_px, dtype=np.int64)[:, None]
    column, row = ((m[i] * x + m[i + 1] * y + m[i + 2] + 128) >> 8 for i in (0, 3))
    more = (1,) * (plane.ndim - 2)
    wx, wy = (place.reshape(size_px, size_px, *more) & 255 for place in (column, row))

    def at(right: int, down: int) -> NDArray[np.int64]:
        i, j = (row >> 8) + down, (column >> 8) + right
        inside = (i >= 0) & (i < plane.shape[0]) & (j >= 0) & (j < plane.shape[1])
        at_border = i.clip(0, plane.shape[0] - 1), j.clip(0, plane.shape[1] - 1)
        values: NDArray[np.int64] = plane[at_border].astype(np.int64)
        values[~inside] = black
        return values

    top = at(0, 0) * (256 - wx) + at(1, 0) * wx
    bottom = at(0, 1) * (256 - wx) + at(1, 1) * wx
    sums: NDArray[np.int64] = top * (256 - wy) + bottom * wy
    return np.right_shift(sums + (1 << 15), 16).astype(np.uint8)
