"""COCO's instances JSON and Label Studio's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeface.data.exports.reading import Box, Export, Labelled, part_of, reader
from edgeface.errors import DataError
from edgeface.regular_files import LARGEST_BYTES, read_regular

T = TypeVar("T")


class _CocoImage(msgspec.Struct):
    id: int | str
    file_name: str
    width: int
    height: int


class _CocoBox(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: int = 0


class _CocoCategory(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoBox]
    categories: list[_CocoCategory]


class _Value(msgspec.Struct):
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    rotation: float = 0
    rectanglelabels: list[str] = []


class _Result(msgspec.Struct):
    type: str
    value: Any = None
    original_width: int | None = None
    original_height: int | None = None


class _Answer(msgspec.Struct):
    result: list[_Result]
    was_cancelled: bool = False


class _Task(msgspec.Struct):
    data: dict[str, Any]
    annotations: list[_Answer]


@reader("coco")
def read_coco(source: Path) -> Export:
    """COCO's ``instances*.json``: boxes x y width height in pixels; a crowd is a face to ignore.

    Raises DataError where it is no such file.
    """
    coco = _decode(source, _Coco, "COCO's instances (images, annotations and categories)")
    labels = {category.id: category.name for category in coco.categories}
    boxes: dict[int | str, list[Box]] = {image.id: [] for image in coco.images}
    problems = []
    for number, box in enumerate(coco.annotations):
        if box.image_id not in boxes or box.category_id not in labels:
            what = "image" if box.image_id not in boxes else "category"
            problems.append(f"annotations[{number}]: its {what} is not in the file")
        elif box.bbox is None:
            problems.append(f"annotations[{number}]: has no bbox")
        else:
            x, y, width, height = box.bbox
            corners = (x, y, x + width, y + height)
            fields = {"ignore": 1} if box.iscrowd else {}
            boxes[box.image_id].append(Box(corners, labels[box.category_id], fields=fields))
    split = part_of(*source.stem.replace("-", "_").split("_"))
    pictures = [
        Labelled(
            image.file_name, f"image {image.id}", boxes[image.id], (image.width, image.height),
            part_of(*Path(image.file_name).parts[:-1]) or split,
        )
        for image in coco.images
    ]
    return Export(pictures, problems, [source.parent, source.parent.parent / "images"])


@reader("label-studio")
def read_label_studio(source: Path) -> Export:
    """Label Studio's export "JSON": rectangles in percent of the picture.

    A task's first annotation that was not cancelled holds; tasks without one are left out. Raises DataError for
    JSON-MIN and other files.
    """
    tasks = _decode(source, list[_Task], 'Label Studio\'s export "JSON" (not JSON-MIN)')
    pictures, problems = [], []
    for number, task in enumerate(tasks):
        where = f"task {number}"
        answer = next((a for a in task.annotations if not a.was_cancelled), None)
        name = next((v for v in task.data.values() if isinstance(v, str)), None)
        name = task.data.get("image", name)
        if answer is None:
            continue
        if not isinstance(name, str):
            problems.append(f"{where}: its data name no picture")
            continue
        boxes, size = [], None
        for result in answer.result:
            if result.type == "rectanglelabels":
                box = _rectangle(result.value)
                if isinstance(box, str):
                    problems.append(f"{where}: {box}")
                else:
                    boxes.append(box)
                if result.original_width and result.original_height:
                    size = (result.original_width, result.original_height)
        pictures.append(Labelled(name, where, boxes, size))
    return Export(pictures, problems, [source.parent])


def _rectangle(raw: Any) -> Box | str:
    try:
        value = msgspec.convert(raw, _Value)
    except msgspec.ValidationError as error:
        return f"a rectangle is wrong: {error}"
    if None in (value.x, value.y, value.width, value.height):
        return "a rectangle lacks x, y, width or height"
    if value.rotation:
        return f"a rectangle is turned by {value.rotation:g} degrees: draw it upright"
    assert value.x is not None
    assert value.y is not None
    assert value.width is not None
    assert value.height is not None
    x1, y1 = value.x / 100, value.y / 100
    corners = (x1, y1, x1 + value.width / 100, y1 + value.height / 100)
    return Box(corners, value.rectanglelabels[0] if value.rectanglelabels else "face", relative=True)


def _decode(source: Path, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(read_regular(source, LARGEST_BYTES), type=kind)
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}: give {what}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: not {what}: {error}") from None
