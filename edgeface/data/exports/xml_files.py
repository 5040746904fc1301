"""Pascal VOC's folder of XML files, and "CVAT for images 1.1"."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from edgeface.data.exports.reading import Box, Export, Labelled, part_of, read_text, read_xml, reader
from edgeface.errors import DataError

_CVAT_VERSION = "1.1"


@reader("voc")
def read_voc(source: Path) -> Export:
    """A folder of Pascal VOC: ``Annotations/*.xml`` or XML files anywhere in it, one a picture.

    Corners are read as the VOC devkit counts them and ``edgeface detect --voc`` writes them: pixels from 1, the last
    one is the box's. ``ImageSets/Main`` gives the parts; difficult objects are faces to ignore. Raises DataError where
    there is none.
    """
    files = sorted(source.rglob("*.xml")) if source.is_dir() else []
    if not files:
        raise DataError(f"{source}: no XML files in it: give the folder of a Pascal VOC export")
    parts = {
        stem.split()[0]: split
        for listed in sorted((source / "ImageSets" / "Main").glob("*.txt")) if (split := part_of(listed.stem))
        for stem in read_text(listed).splitlines() if stem.strip()
    }
    pictures, problems = [], []
    for file in files:
        where = str(file.relative_to(source))
        root = read_xml(file)
        if root.tag != "annotation":
            problems.append(f"{where}: is <{root.tag}>, not Pascal VOC's <annotation>")
            continue
        boxes = []
        for number, item in enumerate(root.iter("object")):
            corners = _numbers([item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")])
            if corners is None:
                problems.append(f"{where}: object {number} has no whole bndbox")
                continue
            x1, y1, x2, y2 = corners
            corners = max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2      # tools that count from 0 write 0 too
            fields = {"ignore": 1} if item.findtext("difficult") == "1" else {}
            boxes.append(Box(corners, item.findtext("name") or "", fields=fields))
        name = root.findtext("filename") or file.stem
        size = _size(root.findtext("size/width"), root.findtext("size/height"))
        pictures.append(Labelled(name, where, boxes, size, parts.get(file.stem) or part_of(*file.parent.parts[-1:])))
    return Export(pictures, problems, [source])


@reader("cvat")
def read_cvat(source: Path) -> Export:
    """The XML of CVAT's export "CVAT for images 1.1". Raises DataError for another version, or one of videos."""
    root = read_xml(source)
    version = root.findtext("version")
    if root.tag != "annotations" or version is None:
        raise DataError(f"{source}: not CVAT's XML: export as CVAT for images {_CVAT_VERSION}")
    if version != _CVAT_VERSION:
        raise DataError(f"{source}: is of version {version}: export as CVAT for images {_CVAT_VERSION}")
    if root.find("track") is not None:
        raise DataError(f"{source}: is of a video, in tracks: export as CVAT for images {_CVAT_VERSION}")
    pictures, problems = [], []
    for image in root.iter("image"):
        where = f"image {image.get('id', '?')}"
        boxes = []
        for box in image.iter("box"):
            corners = _numbers([box.get(key) for key in ("xtl", "ytl", "xbr", "ybr")])
            if corners is None or float(box.get("rotation") or 0):
                problems.append(f"{where}: a box is {'turned: draw it upright' if corners else 'not whole'}")
                continue
            boxes.append(Box(corners, box.get("label") or ""))
        size = _size(image.get("width"), image.get("height"))
        pictures.append(Labelled(image.get("name") or "", where, boxes, size, _subset(image)))
    return Export(pictures, problems, [source.parent])


def _subset(image: Element) -> str | None:
    return part_of(image.get("subset") or "")


def _numbers(texts: list[str | None]) -> tuple[float, float, float, float] | None:
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        return None
    return x1, y1, x2, y2


def _size(width: str | None, height: str | None) -> tuple[int, int] | None:
    try:
        size = int(float(width or "")), int(float(height or ""))
    except ValueError:
        return None
    return size if min(size) > 0 else None
