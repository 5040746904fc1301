"""Finding and loading the kernel library, and the type of every function in it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeface.errors import InstallError

ABI = 3     # EF_ABI of ef_common.h
FILE_NAME = "libedgeface_kernels.so"
CHOICE = "EDGEFACE_KERNELS"     # "off", or the path of another build

_REBUILD = "sudo apt install gcc, then install edgeface again (pip install --force-reinstall --no-deps)"

_I32, _I64, _FLOAT, _ARRAY = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p

# Format, first rows and steps of one or two arrays of pixels, width and height.
_PICTURE = [_I32, _ARRAY, _I64, _ARRAY, _I64, _I32, _I32]

# Result and arguments, as the sources declare them.
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ef_abi": (_I32, []),
    "ef_mark_begin": (None, []),
    "ef_mark_end": (None, []),
    "ef_align": (_I32, [*_PICTURE, _ARRAY, _I64, _I32, _ARRAY]),
    "ef_letterbox_scratch": (_I64, [_I32] * 9),
    "ef_letterbox": (
        _I32,
        [*_PICTURE, *[_I32] * 6, _I32, _ARRAY, _I64, _I64, _I32, _I32, _FLOAT, _FLOAT, _ARRAY, _I64],
    ),
    "ef_crops_scratch": (_I64, [_I32] * 4),
    "ef_crops": (_I32, [*_PICTURE, _ARRAY, _I64, _I32, _I32, _ARRAY, _FLOAT, _FLOAT, _ARRAY, _I64]),
    "ef_keep_anchors": (_I32, [_I32, _ARRAY, _FLOAT, _I32, _I32, _ARRAY, _ARRAY]),
    "ef_best_boxes": (_I32, [_ARRAY, _ARRAY, _I32, _ARRAY, _ARRAY, *[_FLOAT] * 3, *[_ARRAY] * 3]),
    "ef_decode_landmarks": (_I32, [_ARRAY, _ARRAY, _I32, _ARRAY, _FLOAT, _FLOAT, _ARRAY]),
    "ef_pose_degrees": (_I32, [_I32, _ARRAY, _I32, _FLOAT, _FLOAT, _ARRAY]),
    "ef_heatmap_points": (_I32, [_ARRAY, *[_I32] * 4, _ARRAY, _ARRAY]),
    "ef_fit_pose": (_I32, [_I32, _I32, *[_ARRAY] * 4]),
    "ef_nms": (_I32, [_I32, _ARRAY, _ARRAY, _FLOAT, *[_ARRAY] * 4]),
    "ef_sigmoid": (None, [_I32, _ARRAY, _ARRAY]),
    "ef_gather_patches": (_I32, [_ARRAY, _I32, _ARRAY, _ARRAY, _I32, _ARRAY]),
    "ef_roi_align": (_I32, [_ARRAY, _I32, _ARRAY, _FLOAT, _I32, _I32, _I32, _ARRAY, _ARRAY]),
}


@dataclass(frozen=True)
class Status:
    """Whether the C kernels are used, from which file, and one line that says so or says why not."""

    used: bool
    path: Path | None
    text: str


def status() -> Status:
    """Which kernels this process uses; raises nothing, what is wrong is in the text."""
    try:
        path = _path()
        if library() is not None:
            return Status(True, path, f"C kernels from {path}")
    except InstallError as error:
        return Status(False, None, str(error))
    if os.environ.get(CHOICE) == "off":
        return Status(False, None, f"NumPy and OpenCV, because {CHOICE} is off")
    return Status(False, None, f"NumPy and OpenCV: no C compiler was there to build the C kernels: {_REBUILD}")


@lru_cache(maxsize=1)
def library() -> Any | None:
    """The loaded library with typed functions, or None where it was not built or is off by EDGEFACE_KERNELS.

    Raises InstallError when there is a library that cannot be loaded or is not this version's.
    """
    path = _path()
    if path is None:
        return None
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.ef_abi.restype = ctypes.c_int32
        found = loaded.ef_abi()
    except (OSError, AttributeError) as error:
        raise InstallError(f"{path}: cannot be loaded ({error}): {_REBUILD}") from None
    if found != ABI:
        raise InstallError(f"{path}: its interface is version {found}, this edgeface needs {ABI}: {_REBUILD}")
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise InstallError(f"{path}: has no function {name}: {_REBUILD}") from None
        function.restype, function.argtypes = result, arguments
    return loaded


def mark_begin() -> None:
    """Start of what an instruction counter under emulation shall count; nothing elsewhere. Raises InstallError."""
    _required().ef_mark_begin()


def mark_end() -> None:
    """The end of what ``mark_begin`` started. Raises InstallError."""
    _required().ef_mark_end()


def _required() -> Any:
    loaded = library()
    if loaded is None:
        raise InstallError(f"the C kernels are needed here: {status().text}")
    return loaded


def _path() -> Path | None:
    choice = os.environ.get(CHOICE)
    if choice == "off":
        return None
    if choice:
        path = Path(choice)
        if not path.is_file():
            raise InstallError(f"{path}: no such file: set {CHOICE} to a built {FILE_NAME}, to off, or not at all")
        return path
    return next((path for path in _candidates() if path.is_file()), None)


def _candidates() -> Iterator[Path]:
    """Beside this package, in every folder that it spans in an editable install; then in the installed edgeface, for
    Python started in a clone's root, which imports the sources from there."""
    yield from (Path(folder) / FILE_NAME for folder in sys.modules[__package__].__path__)
    # It takes 3 MB and 20 ms to import, for e-mail's sake.
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        installed = metadata.distribution("edgeface")
        yield Path(str(installed.locate_file(f"edgeface/runtime/kernels/{FILE_NAME}")))
