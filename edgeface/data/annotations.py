"""Annotated pictures: ``<set>/annotations.jsonl``, one picture a line, read into arrays and checked line by line.

A line is ``{"image": "images/x.webp", "width": 640, "height": 427, "split": "train", "complete": 1, "faces": [...]}``
and a face holds only the fields that were annotated. Fields that are not known here are passed over, because data
sets carry more than one program needs; a known field with a wrong value stops the reading.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import DataError
from edgeface.regular_files import open_regular

ANNOTATIONS = "annotations.jsonl"
SPLITS = ("train", "dev", "test")
_LOG = logging.getLogger(__name__)

Subset = Literal["easy", "medium", "hard"]
Mask = Literal["worn", "none", "incorrect"]
_Flag = bool | Annotated[int, msgspec.Meta(ge=0, le=1)]
_Level = Annotated[int, msgspec.Meta(ge=0)]
_Point = tuple[float, float]
_Side = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, eq=False)
class Face:
    """One annotated face, coordinates in pixels of its picture; what was not annotated is None.

    ``box`` (4,) float32 x1 y1 x2 y2, may reach over the picture's edge; ``landmarks`` (5, 2) float32: eye on the
    image's left, eye on its right, nose tip, mouth corner left, right; ``landmarks68`` (68, 2) float32 in the 300-W
    order; ``pose`` (3,) float32 pitch yaw roll in degrees. ``ignore``: neither a face to find nor background.
    ``teacher``: what is not the source's own annotation comes from detectors, and must never be scored on.
    ``subset``: the easiest WIDER FACE subset that counts this face. ``yaw_bin``: 1 left profile to 5 right profile.
    ``age_years`` is the source's ``age``.
    """

    box: NDArray[np.float32] | None = None
    landmarks: NDArray[np.float32] | None = None
    landmarks68: NDArray[np.float32] | None = None
    pose: NDArray[np.float32] | None = None
    ignore: bool = False
    teacher: bool = False
    subset: Subset | None = None
    mask: Mask | None = None
    yaw_bin: int | None = None
    blur: int | None = None
    occlusion: int | None = None
    illumination: int | None = None
    expression: int | None = None
    atypical_pose: bool | None = None
    sunglasses: bool | None = None
    eyeglasses: bool | None = None
    smile: bool | None = None
    gender: str | None = None
    age_years: float | None = None
    age_bin: str | None = None
    race: str | None = None
    identity: str | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a set: its file, its size in pixels, its split and its faces.

    ``complete``: every face is annotated; otherwise only those listed are, and the rest is no background. ``source``
    is the data set it came from, where the line says so, and ``source_scale`` how many of its pixels a pixel of this
    picture was.
    """

    path: Path
    width: int
    height: int
    split: str
    complete: bool
    faces: tuple[Face, ...]
    source: str | None = None
    source_scale: float = 1.0


class _FaceLine(msgspec.Struct, frozen=True):
    box: tuple[float, float, float, float] | None = None
    landmarks: list[_Point] | None = None
    landmarks68: list[_Point] | None = None
    pose: tuple[float, float, float] | None = None
    ignore: _Flag = False
    teacher: _Flag = False
    subset: Subset | None = None
    mask: Mask | None = None
    yaw_bin: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    blur: _Level | None = None
    occlusion: _Level | None = None
    illumination: _Level | None = None
    expression: _Level | None = None
    atypical_pose: _Flag | None = None
    sunglasses: _Flag | None = None
    eyeglasses: _Flag | None = None
    smile: _Flag | None = None
    gender: str | None = None
    age: float | None = None
    age_bin: str | None = None
    race: str | None = None
    identity: str | None = None


class _PictureLine(msgspec.Struct, frozen=True):
    image: str
    width: _Side
    height: _Side
    split: str
    complete: _Flag
    faces: list[_FaceLine]
    source: str | None = None
    original: tuple[_Side, _Side] | None = None


class _BadLineError(Exception):
    pass


def read_annotations(directory: Path, split: str | None) -> list[Picture]:
    """All pictures of ``directory``/annotations.jsonl in the file's order, or those of one ``split``.

    Every line is checked, also those of other splits. Where two lines name one picture, the later line holds, as a
    picture written twice has the later pixels; the log says so. Raises DataError with file and line number when a
    line is not JSON, lacks a field, has a wrong value (a box with x2 <= x1, a wrong number of points, an unknown
    split), or names a picture outside the folder or one that is not there; and DataError when the folder or its
    annotations are missing, empty, or hold no picture of ``split``.
    """
    file = directory / ANNOTATIONS
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder: give a data set's folder, the one with {ANNOTATIONS} in it")
    pictures = _latest(list(_read(directory, file)), file)
    if not pictures:
        raise DataError(f"{file}: no pictures in it: an annotation file has one picture a line")
    chosen = [p for p in pictures if split is None or p.split == split]
    if not chosen:
        present = ", ".join(sorted({p.split for p in pictures}))
        raise DataError(f"{file}: no pictures of split {split!r}: it has {present}")
    return chosen


def read_lines(directory: Path) -> Iterator[tuple[int, Picture | str]]:
    """Every line of ``directory``/annotations.jsonl with its number: its picture, or what is wrong with it in words.

    Raises DataError where the file cannot be read.
    """
    file = directory / ANNOTATIONS
    decoder = msgspec.json.Decoder(_PictureLine)
    try:
        with open_regular(file) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, _line(directory, line, decoder)
    except FileNotFoundError:
        raise DataError(f"{file}: missing: give a data set's folder, the one with {ANNOTATIONS} in it") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None


def _line(directory: Path, line: bytes, decoder: msgspec.json.Decoder[_PictureLine]) -> Picture | str:
    try:
        return _picture(directory, decoder.decode(line))
    except msgspec.ValidationError as error:
        return _plain(error)
    except msgspec.DecodeError as error:
        return f"not JSON: {error}"
    except UnicodeDecodeError:
        return "not JSON: the text is not UTF-8"
    except _BadLineError as error:
        return str(error)


def _read(directory: Path, file: Path) -> Iterator[Picture]:
    for number, picture in read_lines(directory):
        if isinstance(picture, str):
            raise DataError(f"{file}, line {number}: {picture}")
        yield picture


def _latest(pictures: list[Picture], file: Path) -> list[Picture]:
    latest = {picture.path: picture for picture in pictures}
    if len(latest) < len(pictures):
        replaced = len(pictures) - len(latest)
        _LOG.warning("%s: %d lines name a picture that a later line names again: the later one holds", file, replaced)
    return list(latest.values())


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's text with its JSON path in words: ``faces[0].blur: Expected `int`, got `str```."""
    text, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {text}" if where else text


def _picture(directory: Path, raw: _PictureLine) -> Picture:
    name = PurePosixPath(raw.image)
    if not raw.image or name == PurePosixPath("."):
        raise _BadLineError("image: the name is empty")
    if name.is_absolute() or ".." in name.parts or "\\" in raw.image or "\0" in raw.image:
        raise _BadLineError(f"image {raw.image!r} is not inside the data set's folder")
    if raw.split not in SPLITS:
        raise _BadLineError(f"split {raw.split!r} is none of {', '.join(SPLITS)}")
    path = directory / name
    if not path.is_file():
        raise _BadLineError(f"image {raw.image!r} is not there")
    faces = tuple(_face(face, index) for index, face in enumerate(raw.faces))
    scale = 1.0 if raw.original is None else max(raw.original) / max(raw.width, raw.height)
    return Picture(path, raw.width, raw.height, raw.split, bool(raw.complete), faces, raw.source, scale)


def _face(raw: _FaceLine, index: int) -> Face:
    if raw.box is not None and not (raw.box[0] < raw.box[2] and raw.box[1] < raw.box[3]):
        raise _BadLineError(f"faces[{index}].box {list(raw.box)} is not x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    return Face(
        box=None if raw.box is None else np.asarray(raw.box, np.float32),
        landmarks=_points(raw.landmarks, 5, f"faces[{index}].landmarks"),
        landmarks68=_points(raw.landmarks68, 68, f"faces[{index}].landmarks68"),
        pose=None if raw.pose is None else np.asarray(raw.pose, np.float32),
        ignore=bool(raw.ignore),
        teacher=bool(raw.teacher),
        subset=raw.subset,
        mask=raw.mask,
        yaw_bin=raw.yaw_bin,
        blur=raw.blur,
        occlusion=raw.occlusion,
        illumination=raw.illumination,
        expression=raw.expression,
        atypical_pose=_flag(raw.atypical_pose),
        sunglasses=_flag(raw.sunglasses),
        eyeglasses=_flag(raw.eyeglasses),
        smile=_flag(raw.smile),
        gender=raw.gender,
        age_years=raw.age,
        age_bin=raw.age_bin,
        race=raw.race,
        identity=raw.identity,
    )


def _points(points: list[_Point] | None, count: int, what: str) -> NDArray[np.float32] | None:
    if points is None:
        return None
    if len(points) != count:
        raise _BadLineError(f"{what} has {len(points)} points, not {count}")
    return np.asarray(points, np.float32)


def _flag(value: bool | int | None) -> bool | None:
    return None if value is None else bool(value)


def misplaced(box: Sequence[float], width: int, height: int) -> str | None:
    """What is wrong with where a box x1 y1 x2 y2 lies, in pixels of a picture; None where it shows and reaches out of
    the picture no further than the picture is large, as a face that is cut off may."""
    x1, y1, x2, y2 = box
    if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
        return f"is outside the picture of {width}x{height}"
    if x1 < -width or y1 < -height or x2 > 2 * width or y2 > 2 * height:
        return f"reaches far out of the picture of {width}x{height}"
    return None
