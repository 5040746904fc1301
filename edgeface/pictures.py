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
_HINTS = (      # what is given in a picture's place, by the name of its type
    (("bytes", "bytearray", "memoryview"), "wrap what a file holds in io.BytesIO"),
    (("generator", "list_iterator", "map", "zip", "set", "dict", "dict_values"), "give several pictures as a list"),
    (("list", "tuple"), "a list in a list is no batch: give one flat list"),
    (("Tensor",), "a tensor by .numpy(), rows, columns, then channels"),
)
_LARGEST_16 = 65_535
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
        return _of_path(given)
    if hasattr(given, "getexif") and hasattr(given, "convert"):
        return _of_pil(given)
    if hasattr(given, "read"):
        from edgeface.images import decode_image

        try:
            data = given.read()
        except (OSError, ValueError) as error:      # ValueError: it is closed
            raise InputError(f"the file given cannot be read: {error}") from None
        if isinstance(data, (bytes, bytearray)):
            return decode_image(bytes(data), str(getattr(given, "name", "the file given")))
        raise InputError(f"the file given reads {type(data).__name__}, not bytes: open it in binary mode, 'rb'")
    name = type(given).__name__
    hint = next((f"; {text}" for names, text in _HINTS if name in names), "")
    raise InputError(
        f"a picture cannot be made of {name}: give a path, a binary file, a PIL image, "
        f"uint8 (H, W, 3), (H, W) or (H, W, 4), or a Frame{hint}"
    )


def as_pictures(given: Sequence[Given], channel_order: ChannelOrder = "bgr") -> list[Picture]:
    """Each of several as ``as_picture``, whose InputError says which one it is about."""
    found = []
    for number, each in enumerate(given):
        try:
            found.append(as_picture(each, channel_order))
        except InputError as error:
            raise type(error)(f"picture {number} of the {len(given)} given: {error}") from None
    return found


def is_several(given: Given) -> bool:
    """Whether ``given`` are several pictures: a list or tuple of them."""
    return isinstance(given, Sequence) and not isinstance(given, (str, bytes))


def _of_path(given: str | Path) -> Picture:
    from edgeface.images import read_image

    text = str(given)       # of Path("") it is ".", the folder
    if text.startswith(("http://", "https://", "s3://", "data:")):
        raise InputError(f"{text[:80]}: addresses are not fetched: download it, and give the path or io.BytesIO")
    if not text:
        raise InputError("an empty path is no picture: give one")
    return read_image(Path(given))


def _of_array(array: NDArray[Any], order: ChannelOrder) -> Picture:
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or array.ndim == 3):
        hint = _hint(array)
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


def _hint(array: NDArray[Any]) -> str:
    """What to do with an array that is no picture; of numbers that are bytes already, or below 0, only its shape says.
    """
    if array.ndim == 4:
        return ": give several pictures as a list, list(array)"
    if array.size == 0:
        return ": it is empty"
    if array.dtype.kind not in "fiu" or array.dtype == np.uint8 or not array.min() >= 0:
        return ""
    if array.dtype.kind == "f":
        return ": multiply by 255 and round first" if array.max() <= 1 else ": round it, array.round().astype('uint8')"
    return ": array.astype('uint8')" if array.max() <= 255 else ": bring it to 0 to 255, array >> 8 of 16 bits"


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

    try:
        upright = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError) as error:     # what PIL raises for a damaged file, read only now
        raise InputError(f"the PIL image cannot be read: {error}") from None
    if upright.mode.startswith("I") or upright.mode == "F":
        return _of_deep_pil(upright)
    has_alpha = upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info
    array = np.asarray(upright.convert("RGBA" if has_alpha else "RGB"))
    return _of_array(array, "rgb")


def _of_deep_pil(image: Any) -> Picture:
    """Grey of more than 8 bits, which PIL's own conversion would cut off at 255."""
    array = np.asarray(image)
    least, most = float(array.min(initial=0)), float(array.max(initial=0))
    if (image.mode == "F" and most <= 1) or not (least >= 0 and most <= _LARGEST_16):
        raise InputError(
            f"a PIL image of mode {image.mode} with values from {least:g} to {most:g}: bring it to 0 to 255, mode L"
        )
    if most > 255 or image.mode.startswith("I;16"):
        array = array / (_LARGEST_16 / 255)
    return Frame(np.rint(array).astype(np.uint8), "grey")
