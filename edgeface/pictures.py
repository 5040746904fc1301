"""What people have as a picture, as what a detector takes: paths, files, PIL images and arrays of all usual kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import InputError, OptionError
from edgeface.frames import Frame, Picture

ChannelOrder = Literal["bgr", "rgb"]
ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)
Given = Any     # str | Path | a binary file | PIL.Image.Image | Picture, which cannot be said without importing PIL


def as_picture(given: Given, channel_order: ChannelOrder = "bgr") -> Picture:
    """A picture as uint8 (H, W, 3) BGR or a Frame, of whatever ``given`` is:

    - a path, or an open binary file: read as ``images.read_image`` does, turned as its EXIF data say;
    - a PIL image: turned as its EXIF data say, transparency laid on grey;
    - an array uint8 (H, W, 3) or (H, W, 4), in ``channel_order`` and then alpha, which is laid on grey; (H, W) or (H,
      W, 1) is grey;
    - a Frame, as it is.

    Raises InputError for anything else, which says what it was, and OptionError for another order.
    """
    if channel_order not in ORDERS:
        raise OptionError(f"channel_order {channel_order!r} cannot be: choose {' or '.join(ORDERS)}")
    if isinstance(given, Frame):
        return given
    if isinstance(given, np.ndarray):
        return _of_array(given, channel_order)
    if isinstance(given, (str, Path)):
        from edgeface.images import read_image

        return read_image(Path(given))
    if hasattr(given, "getexif") and hasattr(given, "convert"):
        return _of_pil(given)
    if hasattr(given, "read"):
        from edgeface.images import decode_image

        data = given.read()
        if isinstance(data, (bytes, bytearray)):
            return decode_image(bytes(data), str(getattr(given, "name", "the file given")))
        raise InputError(f"the file given reads {type(data).__name__}, not bytes: open it in binary mode, 'rb'")
    raise InputError(
        f"a picture cannot be made of {type(given).__name__}: give a path, a binary file, a PIL image, "
        "uint8 (H, W, 3), (H, W) or (H, W, 4), or a Frame"
    )


def is_several(given: Given) -> bool:
    """Whether ``given`` are several pictures: a list or tuple of them."""
    return isinstance(given, Sequence) and not isinstance(given, (str, bytes))


def _of_array(array: NDArray[Any], order: ChannelOrder) -> Picture:
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or array.ndim == 3):
        hint = ": multiply by 255 and round first" if array.dtype.kind == "f" else ""
        raise InputError(
            f"a picture must be uint8 (H, W, 3), (H, W, 4) or (H, W), not {array.dtype} {array.shape}{hint}"
        )
    channels = 1 if array.ndim == 2 else array.shape[2]
    if channels == 1:
        return Frame(array.reshape(array.shape[:2]), "grey")
    if channels == 4:
        return Frame(_opaque(array), order)
    if channels != 3:
        hint = ": bring the channels last, by transpose(1, 2, 0)" if array.shape[0] == 3 else ""
        raise InputError(f"a picture must have 1, 3 or 4 channels, not the {channels} of {array.shape}{hint}")
    return Frame(array, order)


def _opaque(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 4) laid on the grey that networks see as nothing, as files with transparency are."""
    from edgeface.images import TRANSPARENT_GREY

    colours = np.ascontiguousarray(array[:, :, :3])
    alpha = array[:, :, 3:].astype(np.uint16)
    if alpha.min() == 255:
        return colours
    laid: NDArray[np.uint8] = ((colours * alpha + TRANSPARENT_GREY * (255 - alpha) + 127) // 255).astype(np.uint8)
    return laid


def _of_pil(image: Any) -> Picture:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    has_alpha = upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info
    array = np.asarray(upright.convert("RGBA" if has_alpha else "RGB"))
    return _of_array(array, "rgb")
