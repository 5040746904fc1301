"""What every reader of an export gives: pictures with boxes, where their files are, and what was wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from edgeface.errors import DataError, UnknownNameError
from edgeface.registry import Registry
from edgeface.regular_files import LARGEST_BYTES, read_regular

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
# How folders and files of other tools call the project's parts.
_SPLITS = {"train": "train", "training": "train", "val": "dev", "valid": "dev", "validation": "dev", "dev": "dev",
           "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Box:
    """One box, ``corners`` x1 y1 x2 y2, in pixels of the picture or, where the export's ``relative``, as shares of it.

    ``label`` is the tool's class; ``fields`` go into the face's line as they are.
    """

    corners: tuple[float, float, float, float]
    label: str
    relative: bool = False
    fields: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Labelled:
    """A picture of an export. ``name`` is what the export calls it, ``where`` its place in the export for messages.

    ``size`` is (width, height) in pixels as annotated, None where the export does not say.
    """

    name: str
    where: str
    boxes: list[Box]
    size: tuple[int, int] | None = None
    split: str | None = None


@dataclass(frozen=True)
class Export:
    """All that was read: pictures, problems a line each, and the folders where pictures may lie."""

    pictures: list[Labelled]
    problems: list[str]
    folders: list[Path]


Reader = Callable[[Path], Export]
reader: Registry[Reader] = Registry("kind of export", UnknownNameError)


def part_of(*names: str) -> str | None:
    """The project's split that one of these folder or file names stands for: val is ``dev``; None where none does."""
    return next((_SPLITS[name.lower()] for name in names if name.lower() in _SPLITS), None)


def read_text(path: Path, *, errors: str = "strict") -> str:
    """A text file. Raises OSError, and UnicodeDecodeError for what is no UTF-8."""
    return read_regular(path, LARGEST_BYTES).decode("utf-8", errors).replace("\r\n", "\n")


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises DataError where it is none, or defines entities, which no export does."""
    try:
        content = read_regular(path, LARGEST_BYTES)
        if b"<!ENTITY" in content or b"<!DOCTYPE" in content:
            raise DataError(f"{path}: defines entities, which annotation tools do not: export it again")
        return ElementTree.fromstring(content)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not XML: {error}") from None


def pictures_below(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Every picture file below ``folders`` by its name, and by that without its suffix."""
    found: dict[str, list[Path]] = {}
    for folder in dict.fromkeys(folders):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.suffix.lower() in PICTURE_SUFFIXES and path not in found.setdefault(path.name, []):
                found[path.name].append(path)
                found.setdefault(path.stem, []).append(path)
    return found


def locate(name: str, by_name: dict[str, list[Path]]) -> Path | str:
    """The file that an export calls ``name``, or why there is none, in words.

    The longest common end of the two paths decides. Label Studio puts eight hexadecimal digits before the name of an
    uploaded file, which may be missing on disk; YOLO's text files leave out a picture's suffix.
    """
    parts = PurePosixPath(name.replace("\\", "/").rpartition("?d=")[2]).parts
    if not parts:
        return "the export names no picture"
    candidates = by_name.get(parts[-1]) or by_name.get(re.sub(r"^[0-9a-f]{8}-", "", parts[-1])) or []
    if not candidates:
        return "there is no such picture"
    has_suffix = PurePosixPath(parts[-1]).suffix.lower() in PICTURE_SUFFIXES
    ends = [(_common_end(parts, (path if has_suffix else path.with_suffix("")).parts), path) for path in candidates]
    most = max(length for length, _ in ends)
    best = [path for length, path in ends if length == most]
    return best[0] if len(best) == 1 else f"{len(best)} pictures have this name: {best[0]}, {best[1]}"


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length
