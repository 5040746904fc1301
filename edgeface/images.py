"""Reading pictures safely and writing them whole."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import write_bytes
from edgeface.errors import ImageTooLargeError, InputError, OutputError
from edgeface.image_headers import MAX_MEGAPIXELS, ImageHeader, read_header
from edgeface.regular_files import IrregularFileError, read_regular

TRANSPARENT_GREY = 128
_JPEG_QUALITY = 95
# What goes between stays in a processor's caches so, and in memory that was used before: a third of the time.
_STRIP_PIXELS = 1 << 15
_PNM_TEXTS, _SCALED_TEXTS = b"123", b"23"
_REMARK = re.compile(rb"#[^\n]*")
# 16 bits in three channels, nothing compressed, and room for colour profiles and previews.
_BYTES_A_PIXEL = 6
_BYTES_BESIDES = 64 << 20


def read_image(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """A picture as people see it: uint8 (H, W, 3), BGR, turned as its EXIF orientation says.

    Grey becomes three equal channels; of 16 bits the upper 8 are kept (so a 12-bit picture stored in 16 is dark, but
    for PNM, which says what white is); transparent pixels of PNG and WebP are laid on the grey 128, which the networks
    see as nothing; CMYK becomes BGR; of an animation the first picture is read. The size is checked against
    ``max_megapixels`` (millions of pixels) in the header, before anything is decoded, and so is the memory that
    decoding takes: 9 bytes for each pixel of the limit.

    Raises ImageTooLargeError, and InputError when the file is missing, unreadable, empty, cut short, damaged, not a
    picture, or a pipe or device.
    """
    return decode_image(_read_bytes(path, max_megapixels), path, max_megapixels=max_megapixels)


def decode_image(
    data: bytes, path: Path | str, *, max_megapixels: float = MAX_MEGAPIXELS
) -> NDArray[np.uint8]:
    """``read_image`` of a file's content; ``path`` is what errors call it. Raises as ``read_image``."""
    try:
        header = read_header(data, max_megapixels)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None
    as_it_is = header.has_alpha or _needs_scaling(header)
    flags = cv2.IMREAD_UNCHANGED if as_it_is else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    # OpenCV reads a character more than the last number of a text.
    content = data + b"\n" if header.format == "PNM" and data[1] in _PNM_TEXTS else data
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except MemoryError:
        decoded = None
    except cv2.error as error:
        if "IMAGE_PIXELS" in str(error) or "IMAGE_WIDTH" in str(error) or "IMAGE_HEIGHT" in str(error):
            raise ImageTooLargeError(
                f"{path}: {header.width_px} x {header.height_px} is more than OpenCV decodes: shrink it"
            ) from None
        decoded = None
    if decoded is None or not _is_as_promised(decoded, header):
        raise InputError(
            f"{path}: this {header.format} picture cannot be decoded: it is damaged, or of a kind that OpenCV "
            f"{cv2.__version__} does not read: open it and save it as PNG or JPEG"
        )
    if header.format == "PNM" and _largest(content, decoded, header) > header.max_value:
        raise InputError(
            f"{path}: this PNM picture has values over {header.max_value}, which it says is white: it is damaged: "
            "write it again"
        )
    # OpenCV scales a text of at most 8 bits itself, and no other PNM.
    is_scaled = decoded.dtype == np.uint8 and data[1] in _PNM_TEXTS
    whole = header.max_value if _needs_scaling(header) and not is_scaled else None
    del data, content
    return _upright(_three_channels(decoded, whole), header)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3) BGR in the format of ``path``'s suffix, whole or not at all; raises OutputError."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        done, encoded = cv2.imencode(path.suffix, image, options)
    except cv2.error:
        done = False
    if not done:
        height_px, width_px = image.shape[:2]
        raise OutputError(
            f"{path}: OpenCV {cv2.__version__} cannot write {width_px} x {height_px} pixels as {path.suffix!r}: "
            "choose .png or .jpg"
        )
    write_bytes(path, encoded.tobytes())


def _read_bytes(path: Path, max_megapixels: float) -> bytes:
    limit_bytes = int(max_megapixels * 1e6) * _BYTES_A_PIXEL + _BYTES_BESIDES
    try:
        return read_regular(path, limit_bytes)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: check the path") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ImageTooLargeError(
                f"{path}: {path.stat().st_size / 1e6:.4g} MB is more than any picture of {max_megapixels:.4g} "
                "megapixels needs: give a picture, or raise --max-megapixels"
            ) from None
        step = "give a picture" if isinstance(error, IrregularFileError) else "check the file"
        raise InputError(f"{path}: {error.strerror or error}: {step}") from None


def _is_as_promised(image: NDArray[Any], header: ImageHeader) -> bool:
    channels = 1 if image.ndim == 2 else image.shape[2]
    size_px = (header.height_px, header.width_px)
    return image.shape[:2] == size_px and channels in (1, 3, 4) and image.dtype in (np.uint8, np.uint16)


def _largest(content: bytes, decoded: NDArray[Any], header: ImageHeader) -> int:
    """The largest value that a PNM holds, which of a text OpenCV has cut at what is white."""
    if content[1] not in _SCALED_TEXTS:
        return int(decoded.max()) if _needs_scaling(header) else header.max_value
    count = header.width_px * header.height_px * (3 if content[1] in b"3" else 1)
    body = _REMARK.sub(b"", content[header.body_at :])
    return int(np.fromstring(body, np.float32, count, sep=" ").max())


def _needs_scaling(header: ImageHeader) -> bool:
    return header.format == "PNM" and header.max_value not in (255, 65535)


def _three_channels(image: NDArray[Any], whole: int | None) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), by strips, for what goes between would be several times the picture; ``whole`` becomes 255."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and whole is None:
        return image
    height_px, width_px = image.shape[:2]
    out = np.empty((height_px, width_px, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width_px)
    for top in range(0, height_px, rows):
        out[top : top + rows] = _strip(image[top : top + rows], whole)
    return out


def _strip(image: NDArray[Any], whole: int | None) -> NDArray[np.uint8]:
    if whole is not None:
        image = np.minimum((image.astype(np.uint32) * 255 + whole // 2) // whole, 255).astype(np.uint8)
    elif image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        return cast("NDArray[np.uint8]", cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    if image.shape[2] == 3:
        return image
    if image[:, :, 3].min() == 255:
        return cast("NDArray[np.uint8]", cv2.cvtColor(image, cv2.COLOR_BGRA2BGR))
    *colours, alpha = (plane.astype(np.uint16) for plane in cv2.split(image))
    grey = TRANSPARENT_GREY * (255 - alpha) + 127
    return cast("NDArray[np.uint8]", cv2.merge([((c * alpha + grey) // 255).astype(np.uint8) for c in colours]))


def _upright(image: NDArray[np.uint8], header: ImageHeader) -> NDArray[np.uint8]:
    """Apply EXIF orientation: 2 to 4 mirror and turn, 5 to 8 do so after a transposition."""
    if header.orientation >= 5:
        image = image.transpose(1, 0, 2)
    if header.orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if header.orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
