"""What the user names to ``edgeface detect``, as files; and the names of what is drawn for each."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from edgeface.addresses import redacted
from edgeface.errors import InputError
from edgeface.regular_files import real_path

PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
)
# Of a folder; what a file that is named is, its content says.
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".mpg", ".mpeg", ".flv", ".wmv", ".m2ts", ".mts", ".3gp",
    ".asf", ".ogv", ".vob", ".mxf", ".ivf", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg",
    ".y4m", ".dav",
))
# A drawn picture keeps its source's format where that format keeps colours well and every viewer opens it.
_KEPT_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))


def expand(source: str) -> list[Path]:
    """The files that one source means; raises InputError when there is none.

    A file stands for itself, whatever its name. A folder stands for the pictures and videos in it, by suffix, in order
    of name, without hidden files and without the folders inside. What is neither and holds ``*``, ``?`` or ``[`` is a
    pattern; ``**`` in it goes through folders.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return _folder(path)
        # os.path.exists would follow a broken link and then call the name a pattern.
        if path.exists() or path.is_symlink():
            return [path]
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}: check the path") from None
    if source == "-":
        raise InputError("-: detect reads files, not a pipe: write the picture to one, then give its name")
    if "://" in source:
        raise InputError(
            f"{redacted(source)}: detect reads files: for a camera or stream use 'edgeface camera', and download what "
            "is a file"
        )
    if source.isascii() and source.isdigit():
        raise InputError(f"{source}: no such file: for the camera of that number use 'edgeface camera {source}'")
    if not glob.has_magic(source):
        raise InputError(f"{redacted(source)}: no such file or folder: check the path")
    # Path.glob takes no absolute pattern, and sees hidden folders.
    matches = glob.glob(source, recursive=True)  # noqa: PTH207
    found = sorted(p for p in map(Path, matches) if _is_media(p))
    if not found:
        raise InputError(f"{redacted(source)}: no picture or video matches: check the pattern")
    return found


def drawn_name(path: Path, *, video_suffix: str | None = None, taken: set[str]) -> str:
    """A file name for what is drawn on ``path``, none of ``taken`` (lower case), which it joins.

    ``photo.jpg`` stays ``photo.jpg``; a second one becomes ``photo-2.jpg``. Videos get ``video_suffix``, and pictures,
    which it is None for, .png where their format is not written here.
    """
    suffix = video_suffix or (path.suffix if path.suffix.lower() in _KEPT_SUFFIXES else ".png")
    name, number = f"{path.stem}{suffix}", 1
    while name.lower() in taken:
        number += 1
        name = f"{path.stem}-{number}{suffix}"
    taken.add(name.lower())
    return name


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _folder(folder: Path) -> list[Path]:
    entries = sorted(folder.iterdir())
    found = [entry for entry in entries if _is_media(entry)]
    if found:
        return found
    hint = f"for the folders inside write '{folder}/**/*.jpg'" if any(e.is_dir() for e in entries) else "check the path"
    raise InputError(f"{folder}: no picture or video in this folder: {hint}")


def unique(paths: Sequence[Path]) -> list[Path]:
    """The paths without those that name a file a second time, in order."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(real_path(path), path)
    return list(first.values())
