"""Labels a picture: YOLO's text files and Pascal VOC's XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgeface.atomic import make_folder, write_bytes
from edgeface.result_files.picture import CLASS, DetectedPicture

YOLO_LABELS = "labels"
VOC_ANNOTATIONS = "Annotations"


class YoloFolder:
    """``labels/STEM.txt`` for every picture, and the class's name in ``classes.txt`` and ``data.yaml``.

    A line is 0, the class, and x, y of the box's centre, its width and height as shares of the picture. A picture
    without faces has an empty file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_described = False

    def targets(self, picture: DetectedPicture) -> list[Path]:
        """The file that ``write`` writes."""
        return [self._folder / YOLO_LABELS / f"{picture.stem}.txt"]

    def write(self, picture: DetectedPicture) -> None:
        """Raises OutputError."""
        if not self._is_described:
            _written(self._folder / "classes.txt", f"{CLASS}\n".encode())
            _written(self._folder / "data.yaml", f"nc: 1\nnames: [{CLASS}]\n".encode())
            self._is_described = True
        boxes, _ = picture.clipped()
        lines = []
        for x1, y1, x2, y2 in boxes.tolist():
            shares = (
                (x1 + x2) / 2 / picture.width, (y1 + y2) / 2 / picture.height,
                (x2 - x1) / picture.width, (y2 - y1) / picture.height,
            )
            lines.append("0 " + " ".join(f"{share:.6f}" for share in shares) + "\n")
        (target,) = self.targets(picture)
        _written(target, "".join(lines).encode())


class VocFolder:
    """``Annotations/STEM.xml`` for every picture. Corners are whole pixels as the VOC devkit counts them: from 1, the
    last one is the box's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def targets(self, picture: DetectedPicture) -> list[Path]:
        """The file that ``write`` writes."""
        return [self._folder / VOC_ANNOTATIONS / f"{picture.stem}.xml"]

    def write(self, picture: DetectedPicture) -> None:
        """Raises OutputError."""
        name = Path(picture.file_name)
        root = ElementTree.Element("annotation")
        _add(root, {"folder": name.parent.name, "filename": name.name, "path": picture.file_name})
        size = ElementTree.SubElement(root, "size")
        _add(size, {"width": picture.width, "height": picture.height, "depth": 3})
        _add(root, {"segmented": 0})
        boxes, faces = picture.clipped()
        for box, face in zip(boxes.tolist(), faces, strict=True):
            x1, y1, x2, y2 = map(round, box)
            if x1 == x2 or y1 == y2:
                continue        # what is left of it at the picture's edge is no whole pixel
            truncated = bool((picture.seen.boxes[face] != box).any())
            item = ElementTree.SubElement(root, "object")
            _add(item, {"name": CLASS, "pose": "Unspecified", "truncated": int(truncated), "difficult": 0})
            _add(ElementTree.SubElement(item, "bndbox"), {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2})
        ElementTree.indent(root)
        (target,) = self.targets(picture)
        _written(target, ElementTree.tostring(root, encoding="utf-8") + b"\n")


def _add(parent: ElementTree.Element, texts: dict[str, str | int]) -> None:
    for tag, text in texts.items():
        # XML has no control characters, not even escaped.
        ElementTree.SubElement(parent, tag).text = "".join(c if c.isprintable() else "?" for c in str(text))


def _written(target: Path, content: bytes) -> None:
    make_folder(target.parent)
    write_bytes(target, content)
