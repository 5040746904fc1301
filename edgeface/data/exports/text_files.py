"""WIDER FACE's list of boxes, and YOLO's text files."""

from __future__ import annotations

from pathlib import Path

from edgeface.data.exports.reading import PICTURE_SUFFIXES, Box, Export, Labelled, part_of, read_text, reader
from edgeface.errors import DataError

# The columns of WIDER FACE after x, y, w, h; "invalid" makes a face to ignore.
_WIDER_LEVELS = ("blur", "expression", "illumination", "ignore", "occlusion", "atypical_pose")
# Of YOLO: a class's name a line.
_CLASS_FILES = ("classes.txt", "obj.names")


@reader("wider")
def read_wider(source: Path) -> Export:
    """``wider_face_*_bbx_gt.txt``: a picture's name, the number of boxes, and a line x y w h and six levels each.

    Boxes of no size, which the data set has, are left out. Raises DataError where the file is another one.
    """
    try:
        lines = [line.strip() for line in read_text(source).splitlines()]
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}: give wider_face_*_bbx_gt.txt") from None
    except UnicodeDecodeError:
        raise DataError(f"{source}: not text: give wider_face_*_bbx_gt.txt") from None
    split = part_of(*source.stem.split("_"))
    pictures, row = [], 0
    while row < len(lines):
        if not lines[row]:
            row += 1
            continue
        name = lines[row]
        if row + 1 >= len(lines) or not lines[row + 1].isdigit() or Path(name).suffix.lower() not in PICTURE_SUFFIXES:
            raise DataError(f"{source}, line {row + 1}: not a picture's name before a number of boxes")
        count = int(lines[row + 1])
        first = row + 2
        boxes = [_wider_box(lines, number, source) for number in range(first, first + count)]
        pictures.append(Labelled(name, f"line {row + 1}", [box for box in boxes if box is not None], split=split))
        row = first + max(count, 1 if first < len(lines) and set(lines[first].split()) == {"0"} else 0)
    if not pictures:
        raise DataError(f"{source}: no pictures in it: give wider_face_*_bbx_gt.txt")
    folder = source.parent
    return Export(pictures, [], [folder, *sorted(p for p in folder.parent.glob("WIDER_*") if p.is_dir())])


def _wider_box(lines: list[str], row: int, source: Path) -> Box | None:
    try:
        values = [int(float(text)) for text in lines[row].split()]
        x, y, width, height, *levels = values
        if len(levels) not in (0, len(_WIDER_LEVELS)):
            raise ValueError
    except (ValueError, IndexError):
        raise DataError(f"{source}, line {row + 1}: not x y w h and six levels") from None
    if width <= 0 or height <= 0:
        return None
    fields = dict(zip(_WIDER_LEVELS, levels, strict=False))
    return Box((x, y, x + width, y + height), "face", fields={k: v for k, v in fields.items() if k != "ignore" or v})


@reader("yolo")
def read_yolo(source: Path) -> Export:
    """A folder of YOLO: a text file beside each picture, or in ``labels`` as the pictures are in ``images``.

    A line is a class and x, y of the centre, width and height as shares of the picture. A picture without a text file
    has no faces; where the folder has no pictures, as 'detect --yolo' writes it, each text file is one that lies
    elsewhere. Classes are numbers, or the names of ``classes.txt`` or ``obj.names``. Folders train, val and test give
    the parts. Raises DataError where there are no text files.
    """
    below = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else []
    names = _class_names(source)
    found: list[Labelled] = []
    problems: list[str] = []
    pictures = [path.relative_to(source) for path in below if path.suffix.lower() in PICTURE_SUFFIXES]
    for relative in pictures:
        file = _label_file(source, relative)
        boxes = [] if file is None else _yolo_boxes(file, source, names, problems)
        found.append(Labelled(str(relative), str(relative), boxes, split=part_of(*relative.parts[:-1])))
    if pictures and all(_label_file(source, relative) is None for relative in pictures):
        raise DataError(f"{source}: no text file beside its pictures, nor in labels: give the folder of a YOLO export")
    for file in [] if pictures else [path for path in below if path.suffix == ".txt" and path.name not in _CLASS_FILES]:
        relative = file.relative_to(source)
        name = str(relative.with_suffix("")).removeprefix("labels/")
        boxes = _yolo_boxes(file, source, names, problems)
        found.append(Labelled(name, str(relative), boxes, split=part_of(*relative.parts[:-1])))
    if not found:
        raise DataError(f"{source}: no pictures in it, nor text files: give the folder of a YOLO export")
    return Export(found, problems, [source])


def _yolo_boxes(file: Path, source: Path, names: list[str], problems: list[str]) -> list[Box]:
    boxes: list[Box] = []
    for number, line in enumerate(read_text(file, errors="replace").splitlines(), 1):
        box = _yolo_box(line, names)
        if isinstance(box, str):
            problems.append(f"{file.relative_to(source)}, line {number}: {box}")
        elif box is not None:
            boxes.append(box)
    return boxes


def _class_names(source: Path) -> list[str]:
    for name in _CLASS_FILES:
        file = source / name
        if file.is_file():
            return read_text(file).split("\n")
    return []


def _label_file(source: Path, relative: Path) -> Path | None:
    parts = relative.with_suffix(".txt").parts
    places = [source.joinpath(*parts)]
    places += [
        source.joinpath(*parts[:i], "labels", *parts[i + 1 :]) for i, part in enumerate(parts[:-1]) if part == "images"
    ]
    return next((place for place in places if place.is_file()), None)


def _yolo_box(line: str, names: list[str]) -> Box | str | None:
    columns = line.split()
    if not columns:
        return None
    if len(columns) != 5:
        return f"has {len(columns)} columns, not the 5 of a box: export boxes, not polygons or points"
    try:
        number, values = int(columns[0]), [float(text) for text in columns[1:]]
    except ValueError:
        return "not a class and four numbers"
    if any(not 0 <= value <= 1 for value in values):
        return "a value is not between 0 and 1: YOLO's are shares of the picture"
    x, y, width, height = values
    name = names[number].strip() if 0 <= number < len(names) else ""
    return Box((x - width / 2, y - height / 2, x + width / 2, y + height / 2), name or str(number), relative=True)
