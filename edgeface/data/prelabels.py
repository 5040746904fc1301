"""Pictures labelled by a detector, for a person to correct: as a set of the project and as a Label Studio import."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import write_bytes
from edgeface.data.annotations import ANNOTATIONS
from edgeface.data.exports.reading import PICTURE_SUFFIXES
from edgeface.data.pixels import ProgressBar
from edgeface.data.sets import DESCRIPTION
from edgeface.errors import InputError, OutputError
from edgeface.faces import Faces
from edgeface.image_headers import MAX_MEGAPIXELS, read_header
from edgeface.images import read_image
from edgeface.regular_files import LARGEST_BYTES, read_regular

LABEL_STUDIO = "label-studio.json"
_DESCRIPTION = """# A detector made these labels. Once a person has corrected them: measure = true.
measure = false
"""

Image = NDArray[np.uint8]


def label_pictures(
    folder: Path, detect: Callable[[Image], Faces], model: str, *, force: bool = False,
    progress: ProgressBar = lambda items, _label, _total: items,
) -> tuple[int, int, list[str]]:
    """Write annotations.jsonl, label-studio.json and, where there is none, set.toml into ``folder``, for its pictures.

    Faces are marked ``teacher`` and all pictures ``train``; ``detect`` takes uint8 (H, W, 3) BGR. Returns the numbers
    of pictures and of faces, and a line for every picture that was left out. Raises InputError for a folder without
    pictures, and OutputError where annotations are there already and ``force`` is not given.
    """
    existing = [folder / name for name in (ANNOTATIONS, LABEL_STUDIO) if (folder / name).exists()]
    if existing and not force:
        raise OutputError(f"{existing[0]}: is there already: --force replaces it")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES) if folder.is_dir() else []
    lines: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    left_out = []
    for i in progress(range(len(paths)), "labelling", len(paths)):
        try:
            image = _picture(paths[i])
        except InputError as error:
            left_out.append(str(error))
            continue
        name = paths[i].relative_to(folder).as_posix()
        faces = detect(image)
        lines.append(_line(name, image, faces))
        tasks.append(_task(name, image, faces, model))
    if not lines:
        raise InputError(f"{folder}: no pictures to label in it" + "".join(f": {text}" for text in left_out[:1]))
    write_bytes(folder / LABEL_STUDIO, json.dumps(tasks, indent=1).encode())
    if not (folder / DESCRIPTION).exists():
        write_bytes(folder / DESCRIPTION, _DESCRIPTION.encode())
    write_bytes(folder / ANNOTATIONS, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return len(lines), sum(len(line["faces"]) for line in lines), left_out


def _picture(path: Path) -> Image:
    try:
        header = read_header(read_regular(path, LARGEST_BYTES), MAX_MEGAPIXELS)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if header.orientation != 1:
        # Training reads the pixels as they are stored, labelling tools show them turned.
        raise InputError(f"{path}: is turned by its EXIF data: turn its pixels first (exiftran -ai)")
    return read_image(path)


def _line(name: str, image: Image, faces: Faces) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for i, box in enumerate(faces.boxes):
        row: dict[str, Any] = {"box": _rounded(box), "teacher": 1}
        if faces.landmarks is not None:
            row["landmarks"] = [_rounded(point) for point in faces.landmarks[i]]
        rows.append(row)
    height, width = image.shape[:2]
    return {"image": name, "width": width, "height": height, "split": "train", "complete": 1, "faces": rows}


def _task(name: str, image: Image, faces: Faces, model: str) -> dict[str, Any]:
    """A task of Label Studio with its prediction, boxes in percent; the picture comes from its local storage."""
    height, width = image.shape[:2]
    whole = np.array([width, height, width, height], np.float64)
    results = []
    for i, box in enumerate(np.clip(faces.boxes / whole, 0, 1) * 100):
        x1, y1, x2, y2 = box.tolist()
        results.append({
            "id": f"face{i}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
            "original_width": width, "original_height": height, "image_rotation": 0, "score": float(faces.scores[i]),
            "value": {
                "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0, "rectanglelabels": ["face"],
            },
        })
    scores: Sequence[float] = faces.scores.tolist()
    prediction = {"model_version": model, "score": min(scores, default=0.0), "result": results}
    return {"data": {"image": f"/data/local-files/?d={name}"}, "predictions": [prediction]}


def _rounded(values: NDArray[np.floating]) -> list[float]:
    return [round(float(value), 2) for value in values]
