"""COCO's instances JSON, with scores, and keypoints where the model gives landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgeface.atomic import refused, replacing
from edgeface.result_files.picture import CLASS, DetectedPicture
from edgeface.tables import POINTS

_CATEGORY = 1
_VISIBLE = 2


class CocoFile:
    """Made by ``coco_file``. An image is a picture or a frame, which has its ``video``, ``frame`` and ``time_s``;
    boxes lie inside the picture."""

    def __init__(self, description: str) -> None:
        self._description = description
        # Encoded, since Python's objects take ten times the memory, and a film has many faces.
        self._images: list[msgspec.Raw] = []
        self._annotations: list[msgspec.Raw] = []
        self._has_points = False

    def write(self, picture: DetectedPicture) -> None:
        """An image and its annotations."""
        number = len(self._images) + 1
        image: dict[str, Any] = {
            "id": number, "file_name": picture.file_name, "width": picture.width, "height": picture.height,
        }
        if picture.frame is not None:
            image |= {"video": picture.source_name, "frame": picture.frame}
            image |= {} if picture.time_s is None else {"time_s": round(picture.time_s, 3)}
        self._images.append(_raw(image))
        boxes, faces = picture.clipped()
        for box, face in zip(boxes.tolist(), faces, strict=True):
            self._annotations.append(_raw(self._annotation(number, box, picture, face)))

    def encoded(self) -> bytes:
        """The file."""
        category: dict[str, Any] = {"id": _CATEGORY, "name": CLASS, "supercategory": "person"}
        if self._has_points:
            category |= {"keypoints": list(POINTS), "skeleton": []}
        return msgspec.json.encode({
            "info": {"description": self._description},
            "licenses": [],
            "categories": [category],
            "images": self._images,
            "annotations": self._annotations,
        })

    def _annotation(self, image: int, box: list[float], picture: DetectedPicture, face: int) -> dict[str, Any]:
        x1, y1, x2, y2 = box
        found = picture.seen[face]
        annotation: dict[str, Any] = {
            "id": len(self._annotations) + 1, "image_id": image, "category_id": _CATEGORY,
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": round((x2 - x1) * (y2 - y1), 2), "segmentation": [], "iscrowd": 0, "score": round(found.score, 4),
        }
        if found.attributes:
            annotation["attributes"] = {name: round(value, 4) for name, value in found.attributes.items()}
        if found.landmarks is not None:
            self._has_points = True
            points = [[round(x, 2), round(y, 2), _VISIBLE] for x, y in found.landmarks.tolist()]
            annotation |= {"keypoints": [value for point in points for value in point], "num_keypoints": len(points)}
        return annotation


@contextmanager
def coco_file(path: Path, description: str) -> Iterator[CocoFile]:
    """The file at ``path``, which appears when the block ends without an error. Raises OutputError."""
    coco = CocoFile(description)
    with replacing(path) as temporary:
        yield coco
        try:
            temporary.write_bytes(coco.encoded())
        except OSError as error:
            raise refused(path, error) from None


def _raw(value: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
