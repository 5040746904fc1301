"""What a set of annotated pictures holds, and everything that is wrong with it, in one go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.contact_sheet import Mark, contact_sheet, tile
from edgeface.data.annotations import ANNOTATIONS, Picture, misplaced, read_lines
from edgeface.data.pixels import ProgressBar, read_pixels
from edgeface.data.sets import SetDescription, describe
from edgeface.data.targets import face_box
from edgeface.errors import DataError

# The bounds of the sizes that are counted apart, in pixels of the square root of the area.
SIZES_PX = (8, 16, 32, 64, 128)
SHEET_TILES = 64


@dataclass
class SetReport:
    """A set's counts by part, its faces by size, what they are annotated with, and its problems, a line each.

    ``sizes``: how many faces are under each of SIZES_PX, and the rest. ``remarks`` are worth knowing, and no fault.
    """

    name: str
    description: SetDescription
    pictures: Counter[str] = field(default_factory=Counter)
    faces: Counter[str] = field(default_factory=Counter)
    ignored: int = 0
    incomplete: int = 0
    sizes: list[int] = field(default_factory=lambda: [0] * (len(SIZES_PX) + 1))
    fields: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check_set(directory: Path, progress: ProgressBar = lambda items, _label, _total: items) -> SetReport:
    """Read every line and decode every picture of the set in ``directory``.

    Raises DataError where the folder, its annotations or its set.toml cannot be read at all.
    """
    report = SetReport(directory.name, describe(directory))
    read = list(read_lines(directory))
    seen: Counter[Path] = Counter()
    for i in progress(range(len(read)), "checking", len(read)):
        number, line = read[i]
        where = f"{ANNOTATIONS}, line {number}"
        if isinstance(line, str):
            report.problems.append(f"{where}: {line}")
            continue
        seen[line.path] += 1
        _count(report, line)
        _check(report, line, where)
    report.problems += [f"{path.name}: named by {n} lines: the last one holds" for path, n in seen.items() if n > 1]
    named = {path.resolve() for path in seen}
    unused = sum(1 for path in (directory / "images").rglob("*") if path.is_file() and path.resolve() not in named)
    if unused:
        report.remarks.append(f"{unused} files in images that no line names")
    if not report.pictures["dev"]:
        report.remarks.append("no dev part: where no other set has one, training holds out a tenth of the pictures")
    if not report.description.licence:
        report.remarks.append("no licence in set.toml: weights trained on it say that none was stated")
    return report


def _count(report: SetReport, picture: Picture) -> None:
    report.pictures[picture.split] += 1
    report.incomplete += not picture.complete
    for face in picture.faces:
        report.ignored += face.ignore
        report.faces[picture.split] += not face.ignore
        report.fields.update(
            name for name in ("box", "landmarks", "landmarks68", "pose", "mask", "teacher") if _has(face, name)
        )
        box = face_box(face)
        if box is not None and not face.ignore:
            side_px = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
            report.sizes[int(np.searchsorted(SIZES_PX, side_px, side="right"))] += 1


def _has(face: object, name: str) -> bool:
    value = getattr(face, name)
    return value is not None and value is not False


def _check(report: SetReport, picture: Picture, where: str) -> None:
    for index, face in enumerate(picture.faces):
        box = face_box(face)
        if box is None:
            if report.description.weight != 0:
                report.remarks.append(f"{where}: faces[{index}] has neither a box nor points: MOS cannot learn it")
        elif (why := misplaced(box.tolist(), picture.width, picture.height)) is not None:
            corners = ", ".join(f"{value:g}" for value in box)
            report.problems.append(f"{where}: faces[{index}].box {corners} {why}")
    try:
        read_pixels(picture)
    except DataError as error:
        report.problems.append(f"{where}: {error}")


def sheet_of(directory: Path, count: int = SHEET_TILES) -> NDArray[np.uint8] | None:
    """Faces of a set, evenly spread over its pictures, each with all boxes about it: uint8 (H, W, 3) BGR.

    None where the set has no face that can be shown.
    """
    pictures = [p for _, p in read_lines(directory) if isinstance(p, Picture)]
    faces = [(p, i, face) for p in pictures for i, face in enumerate(p.faces)]
    shown = [(p, i) for p, i, face in faces if face_box(face) is not None and not face.ignore]
    chosen = [shown[i] for i in np.linspace(0, len(shown) - 1, min(count, len(shown))).round().astype(int)]
    tiles = [made for picture, i in chosen if (made := _tile(picture, i)) is not None]
    return contact_sheet(tiles, f"{directory.name}: {len(tiles)} of {len(shown)} faces") if tiles else None


def _tile(picture: Picture, index: int) -> NDArray[np.uint8] | None:
    boxes = [face_box(face) for face in picture.faces]
    ordered = [boxes[index], *boxes[:index], *boxes[index + 1 :]]
    marks = [Mark(box) for box in ordered if box is not None]
    try:
        return tile(read_pixels(picture), marks, picture.path.name[-24:])
    except DataError:
        return None


def report_lines(report: SetReport, shown: int) -> Sequence[str]:
    """The report as lines of text, with at most ``shown`` problems and as many remarks."""
    parts = [f"{part} {report.pictures[part]}" for part in ("train", "dev", "test") if report.pictures[part]]
    bounds = [f"under {SIZES_PX[0]} px", *(f"{a}-{b} px" for a, b in pairwise(SIZES_PX)),
              f"from {SIZES_PX[-1]} px"]
    sizes = ", ".join(f"{bound} {count}" for bound, count in zip(bounds, report.sizes, strict=True) if count)
    lines = [
        f"{report.name}: {sum(report.pictures.values())} pictures ({', '.join(parts) or 'none'}), "
        f"{sum(report.faces.values())} faces, {report.ignored} to ignore",
        f"  face sizes: {sizes or 'none'}",
        "  annotated with: " + (", ".join(f"{name} {n}" for name, n in report.fields.most_common()) or "nothing"),
        f"  set.toml: {', '.join(f'{k} {v}' for k, v in msgspec.structs.asdict(report.description).items())}",
    ]
    if report.incomplete:
        lines.append(f"  {report.incomplete} pictures are not complete: the rest of them is no background")
    for kind, texts in (("note", report.remarks), ("problem", report.problems)):
        lines += [f"  {kind}: {text}" for text in texts[:shown]]
        if len(texts) > shown:
            lines.append(f"  and {len(texts) - shown} more")
    return lines
