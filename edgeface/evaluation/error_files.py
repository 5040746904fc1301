"""A detector's errors as files: a table in JSON, every error in CSV, and contact sheets of the worst of each kind."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import refused, write_bytes
from edgeface.contact_sheet import Mark, contact_sheet, tile
from edgeface.data.annotations import Picture
from edgeface.drawing import BOX, Colour
from edgeface.errors import DataError
from edgeface.evaluation.errors import INVENTIONS, Count, Errors, ErrorTable, Invented, Missed, find_errors
from edgeface.evaluation.parts import Part
from edgeface.faces import Faces
from edgeface.images import write_image

TABLE, MISSED, INVENTED = "errors.json", "missed.csv", "invented.csv"
TILES = 48
_WRONG: Colour = (60, 60, 255)
_DETECTED: Colour = (255, 160, 40)
_KINDS = ("height_px", "blur", "occlusion", "illumination", "expression", "atypical_pose", "mask")
# A sheet each; a face is on the sheet of every kind that it is of, and "plain" ones are of none.
_HARD = {
    "atypical pose": ("atypical_pose", "yes"),
    "heavy occlusion": ("occlusion", "heavy"),
    "heavy blur": ("blur", "heavy"),
    "extreme illumination": ("illumination", "extreme"),
    "mask": ("mask", "worn"),
}

_INVENTION_WORDS = {"nothing": "on no face", "misplaced": "beside a face", "duplicate": "on a face found already"}
_MISSED_HEAD = ["image", "x1", "y1", "x2", "y2", "subset", "best_score", "height_bin_px", *_KINDS[1:]]
_INVENTED_HEAD = ["image", "x1", "y1", "x2", "y2", "score", "kind", "overlap"]

Image = NDArray[np.uint8]


def error_folders(directory: Path, parts: Sequence[Part]) -> list[Path]:
    """A folder below ``directory`` for each part's errors, made where it is not there.

    Raises DataError for a part without a completely annotated picture, where nothing is known to be invented, and
    OutputError where a folder is refused.
    """
    for part in parts:
        if not any(picture.complete for picture in part.pictures):
            raise DataError(
                f"{part.name}: no picture of it is completely annotated, so that nobody knows what is missed and "
                "invented there: leave out --errors, or choose another set"
            )
    folders = [directory / part.name for part in parts]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(folder, error) from None
    return folders


def judge(directory: Path, part: Part, detections: Sequence[Faces], score: float) -> list[str]:
    """Write the errors of ``detections``, one ``Faces`` a picture of ``part``, into ``directory``: lines that say them.

    Raises as ``write_errors``.
    """
    pairs = [(p, found) for p, found in zip(part.pictures, detections, strict=True) if p.complete]
    errors = find_errors([picture for picture, _ in pairs], [found for _, found in pairs], score)
    written = write_errors(directory, errors, pairs, part.read)
    return ["", *error_lines(errors.table), f"  {directory}: {', '.join(path.name for path in written)}"]


def write_errors(
    directory: Path,
    errors: Errors,
    detections: Sequence[tuple[Picture, Faces]],
    read: Callable[[Path], Image],
) -> list[Path]:
    """Write ``errors`` into ``directory``, which is there, and return the files.

    ``detections`` are those that were judged, for the sheets; ``read`` gives a picture's pixels, uint8 (H, W, 3) BGR.
    Files of an earlier call are replaced, and sheets that it had and this one has not are removed. Raises OutputError,
    and what ``read`` raises.
    """
    by_path = {picture.path: found for picture, found in detections}
    for old in [*directory.glob("missed-*.jpg"), *directory.glob("invented-*.jpg")]:
        old.unlink(missing_ok=True)
    write_bytes(directory / TABLE, msgspec.json.format(msgspec.json.encode(errors.table), indent=2) + b"\n")
    write_bytes(directory / MISSED, _csv(chain([_MISSED_HEAD], map(_missed_row, errors.missed))))
    write_bytes(directory / INVENTED, _csv(chain([_INVENTED_HEAD], map(_invented_row, errors.invented))))
    written = [directory / TABLE, directory / MISSED, directory / INVENTED]
    for name, chosen in _missed_sheets(errors.missed):
        shown = chosen[:TILES]
        tiles = [_missed_tile(one, by_path[one.picture.path], read, errors.table.score) for one in shown]
        title = f"missed, {name}: the {len(shown)} largest of {len(chosen)}, score >= {errors.table.score:g}"
        written.append(_sheet(directory / f"missed-{name.replace(' ', '-')}.jpg", tiles, title))
    for kind in INVENTIONS:
        false = [one for one in errors.invented if one.kind == kind]
        if false:
            best = false[:TILES]
            title = f"invented, {kind}: the {len(best)} best of {len(false)}, score >= {errors.table.score:g}"
            tiles = [_invented_tile(one, read) for one in best]
            written.append(_sheet(directory / f"invented-{kind}.jpg", tiles, title))
    return written


def error_lines(table: ErrorTable) -> Iterator[str]:
    """The table as text for a terminal, lines without line ends."""
    names = list(table.missed)
    title = f"missed at score >= {table.score:g}"
    kinds_of_all = table.missed[names[0]] if table.missed[names[0]]["every"]["face"].faces else {}
    if kinds_of_all:
        yield f"{title:<34}" + "".join(f"{name + ': faces':>24}{'missed':>8}{'share':>7}" for name in names)
    for kind, levels in kinds_of_all.items():
        for level in levels:
            label = "every face" if kind == "every" else f"{kind.replace('_', ' ')} {level}"
            yield f"  {label:<32}" + "".join(_cells(table.missed[name].get(kind, {}).get(level)) for name in names)
    kinds = ", ".join(f"{number} {_INVENTION_WORDS[kind]}" for kind, number in table.invented.items())
    total = sum(table.invented.values())
    yield (
        f"invented at score >= {table.score:g}: {total} of {table.detections} detections in {table.pictures} pictures: "
        f"{kinds}"
    )


def _cells(count: Count | None) -> str:
    if count is None or not count.faces:
        return f"{'-':>24}{'-':>8}{'-':>7}"
    return f"{count.faces:>24}{count.missed:>8}{count.missed / count.faces:>7.0%}"


def _missed_row(one: Missed) -> list[str]:
    best = "" if one.best_score is None else f"{one.best_score:.4f}"
    return [
        str(one.picture.path), *_rounded(one.box), one.face.subset or "", best,
        *(one.kinds.get(kind, "") for kind in _KINDS),
    ]


def _invented_row(one: Invented) -> list[str]:
    return [str(one.picture.path), *_rounded(one.box), f"{one.score:.4f}", one.kind, f"{one.overlap:.3f}"]


def _rounded(box: NDArray[np.float32]) -> list[str]:
    return [f"{value:.1f}" for value in box.tolist()]


def _csv(rows: Iterator[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _missed_sheets(missed: Sequence[Missed]) -> Iterator[tuple[str, list[Missed]]]:
    for name, (kind, level) in _HARD.items():
        chosen = [one for one in missed if one.kinds.get(kind) == level]
        if chosen:
            yield name, chosen
    plain = [one for one in missed if all(one.kinds.get(kind) != level for kind, level in _HARD.values())]
    if plain:
        yield "plain", plain


def _missed_tile(one: Missed, found: Faces, read: Callable[[Path], Image], score: float) -> Image:
    near = found.boxes[found.scores >= np.float32(score)]
    best = "-" if one.best_score is None else f"{one.best_score:.2f}"
    text = f"{one.box[3] - one.box[1]:.0f} px, best {best}"
    return tile(read(one.picture.path), [Mark(one.box, _WRONG), *(Mark(box, _DETECTED) for box in near)], text)


def _invented_tile(one: Invented, read: Callable[[Path], Image]) -> Image:
    faces = [Mark(face.box, BOX) for face in one.picture.faces if face.box is not None]
    return tile(read(one.picture.path), [Mark(one.box, _WRONG), *faces], f"{one.score:.2f}, IoU {one.overlap:.2f}")


def _sheet(path: Path, tiles: Sequence[Image], title: str) -> Path:
    write_image(path, contact_sheet(tiles, title))
    return path
