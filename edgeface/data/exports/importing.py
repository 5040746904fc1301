"""An export as a set of the project's format: pictures are copied as they are, and every problem is said at once."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeface.atomic import refused
from edgeface.data.annotations import ANNOTATIONS, misplaced
from edgeface.data.exports import json_files, text_files, xml_files  # noqa: F401  (register their readers)
from edgeface.data.exports.reading import Box, Labelled, locate, pictures_below, reader
from edgeface.data.pixels import ProgressBar
from edgeface.data.sets import DESCRIPTION
from edgeface.errors import DataError, InputError, OutputError
from edgeface.image_headers import MAX_MEGAPIXELS, read_header
from edgeface.images import read_image
from edgeface.regular_files import LARGEST_BYTES, is_there, read_regular
from edgeface.wording import counted

_PROBLEMS_SHOWN = 20
_JPEG_QUALITY = 95
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """How an export is read: ``images`` is where its pictures lie, if not beside it; ``labels`` the classes that are
    faces, by default the only one there is or "face"; ``split`` the part for pictures that the export puts in none.

    ``skip_bad`` leaves out what is wrong instead of refusing the export.
    """

    images: Path | None = None
    labels: Sequence[str] = ()
    split: str = "train"
    complete: bool = True
    skip_bad: bool = False


@dataclass(frozen=True)
class Imported:
    """What came of it: numbers of pictures and faces, and what was left out, a line each."""

    pictures: int
    faces: int
    left_out: list[str]


def import_export(
    kind: str, source: Path, out: Path, wanted: Wanted, progress: ProgressBar = lambda items, _label, _total: items
) -> Imported:
    """Read the export ``source`` of ``kind`` and write the set ``out``, whole or not at all.

    A picture that its EXIF data turn is written upright, as tools show it. Raises UnknownNameError for a kind that
    there is not, DataError for an export that is wrong, each problem of which the log lists, and OutputError where
    ``out`` is there already.
    """
    read = reader.get(kind)
    for path in (source, wanted.images or source):
        if not is_there(path):
            raise DataError(f"{path}: No such file or directory")
    export = read(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: is there already: choose another --out")
    if not any(picture.boxes for picture in export.pictures):
        raise DataError(f"{source}: no boxes in it" + "".join(f": {text}" for text in export.problems[:1]))
    chosen = _face_labels(export.pictures, wanted.labels, source)
    by_name = pictures_below([wanted.images] if wanted.images else export.folders)
    problems = list(export.problems)
    with _whole_folder(out) as folder:
        lines = []
        for i in progress(range(len(export.pictures)), "importing", len(export.pictures)):
            line = _import(export.pictures[i], by_name, chosen, wanted, folder, problems)
            lines += [] if line is None else [line]
        if problems and not wanted.skip_bad:
            where = "" if wanted.images else " (--images says where the pictures are)"
            _log(problems)
            raise DataError(
                f"{source}: {counted(len(problems), 'problem')}{where}: mend them, or --skip-bad leaves them out; "
                f"the first: {problems[0]}"
            )
        if not lines:
            raise DataError(f"{source}: no picture could be used: the first: {problems[0]}")
        (folder / ANNOTATIONS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Imported(len(lines), sum(len(line["faces"]) for line in lines), problems)


def write_description(out: Path, boxes: str, licence: str | None) -> None:
    """The set.toml of an imported set; ``licence`` None leaves that line for its owner to fill in."""
    said = f"licence = {json.dumps(licence)}\n" if licence else '# licence = "..."      # what its terms allow\n'
    (out / DESCRIPTION).write_text(f'boxes = "{boxes}"\n{said}', encoding="utf-8")


def _face_labels(pictures: Iterable[Labelled], asked: Sequence[str], source: Path) -> frozenset[str]:
    """The classes that are faces. Raises DataError where that is not clear, or an asked class is not there."""
    counts = Counter(box.label for picture in pictures for box in picture.boxes)
    there = ", ".join(f"{label!r} ({count})" for label, count in counts.most_common(20))
    if asked:
        absent = [label for label in asked if label not in counts]
        if absent:
            raise DataError(f"{source}: no box of class {absent[0]!r}: it has {there}")
        return frozenset(asked)
    named = [label for label in counts if label.lower() == "face"]
    if len(counts) > 1 and not named:
        raise DataError(f"{source}: has classes {there}: say which are faces with --label")
    return frozenset(named or counts)


def _import(
    picture: Labelled, by_name: dict[str, list[Path]], labels: frozenset[str], wanted: Wanted, folder: Path,
    problems: list[str],
) -> dict[str, Any] | None:
    """Copy one picture, and return its line; None, and a line of ``problems``, where it cannot be used."""
    where = f"{picture.where}, {picture.name}" if picture.name != picture.where else picture.name
    path = locate(picture.name, by_name)
    if isinstance(path, str):
        problems.append(f"{where}: {path}")
        return None
    try:
        content = read_regular(path, LARGEST_BYTES)
        header = read_header(content, MAX_MEGAPIXELS)
    except (OSError, InputError) as error:
        problems.append(f"{where}: cannot be read: {error}")
        return None
    raw, shown = (header.width_px, header.height_px), header.displayed_px
    if picture.size is not None and picture.size not in (raw, shown):
        problems.append(f"{where}: is {shown[0]}x{shown[1]}, annotated as {picture.size[0]}x{picture.size[1]}")
        return None
    upright = header.orientation != 1 and (raw == shown or picture.size in (None, shown))
    width, height = shown if upright else raw
    faces = [
        face for box in picture.boxes if box.label in labels
        if (face := _face(box, width, height, where, problems)) is not None
    ]
    try:
        name = _copied(path, content, upright, folder / "images")
    except InputError as error:
        problems.append(f"{where}: {error}")
        return None
    return {
        "image": f"images/{name}", "width": width, "height": height, "split": picture.split or wanted.split,
        "complete": int(wanted.complete), "faces": faces,
    }


def _face(box: Box, width: int, height: int, where: str, problems: list[str]) -> dict[str, Any] | None:
    scale = np.array([width, height, width, height] if box.relative else [1, 1, 1, 1], np.float64)
    x1, y1, x2, y2 = (round(float(v), 2) for v in np.asarray(box.corners) * scale)
    said = f"{where}: box {x1:g}, {y1:g}, {x2:g}, {y2:g}"
    if not (x1 < x2 and y1 < y2):
        problems.append(f"{said} has no size")
    elif (why := misplaced((x1, y1, x2, y2), width, height)) is not None:
        problems.append(f"{said} {why}")
    else:
        return {"box": [x1, y1, x2, y2], **box.fields}
    return None


def _copied(path: Path, content: bytes, upright: bool, images: Path) -> str:
    """Write the picture below ``images`` under a free name, and return it; raises InputError for a damaged one."""
    suffix = ".jpg" if upright else path.suffix.lower()
    name = f"{path.stem}{suffix}"
    number = 1
    while (images / name).exists():
        number += 1
        name = f"{path.stem}-{number}{suffix}"
    if upright:
        done, encoded = cv2.imencode(suffix, read_image(path), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert done
        content = encoded.tobytes()
    (images / name).write_bytes(content)
    return name


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder with ``images`` in it that becomes ``out`` when the block ends, and is gone after an exception."""
    temporary = out.parent / f".edgeface-{secrets.token_hex(6)}"
    try:
        (temporary / "images").mkdir(parents=True)
        yield temporary
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise refused(out, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _log(problems: Sequence[str]) -> None:
    for text in problems[:_PROBLEMS_SHOWN]:
        _LOG.error("%s", text)
    if len(problems) > _PROBLEMS_SHOWN:
        _LOG.error("and %d more", len(problems) - _PROBLEMS_SHOWN)
