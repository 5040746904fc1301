"""``Faces``: what every detector returns, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import UnknownAttributeError
from edgeface.registry import unknown_name

# The attribute that says how good a picture of its face it is.
QUALITY = "quality"

_ANGLES = ("pitch", "yaw", "roll")


@dataclass(frozen=True)
class Faces:
    """N faces of one picture, best score first.

    ``boxes`` (N, 4) float32, x1 y1 x2 y2 in pixels of the original picture, not clipped to it; ``scores`` (N,)
    float32 in 0..1; ``landmarks`` (N, 5, 2) float32 in the same pixels (eye on the image's left, eye on its right,
    nose tip, mouth corner left, right) or None; ``pose`` (N, 3) float32, pitch yaw roll in degrees, or None;
    ``attributes``, such as mask or quality: name -> (N,) float32 probabilities in 0..1, and ``thresholds``, name ->
    probability from which it is a yes (``has``). What a model does not predict is None, or not among the attributes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None = None
    pose: NDArray[np.float32] | None = None
    attributes: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.scores)
        shapes: dict[str, tuple[NDArray[Any] | None, tuple[int, ...]]] = {
            "boxes": (self.boxes, (n, 4)),
            "scores": (self.scores, (n,)),
            "landmarks": (self.landmarks, (n, 5, 2)),
            "pose": (self.pose, (n, 3)),
            **{f"attributes[{name!r}]": (array, (n,)) for name, array in self.attributes.items()},
        }
        for name, (array, shape) in shapes.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"Faces.{name} has shape {array.shape}, not {shape}")

    def __len__(self) -> int:
        return len(self.scores)

    def has(self, attribute: str) -> NDArray[np.bool_]:
        """Whether each face has it, (N,) bool: a probability of at least the attribute's threshold, 0.5 where it has
        none. Raises UnknownAttributeError, which names those that there are."""
        if attribute not in self.attributes:
            raise UnknownAttributeError(unknown_name("attribute", attribute, self.attributes))
        has: NDArray[np.bool_] = self.attributes[attribute] >= np.float32(self.thresholds.get(attribute, 0.5))
        return has


def face_records(faces: Faces) -> list[dict[str, Any]]:
    """Every face as an object for JSON: pixels and degrees to two places, probabilities to four, null for what is not
    predicted; "present" names the attributes that it has."""
    landmarks, pose = faces.landmarks, faces.pose
    has = {name: faces.has(name) for name in faces.attributes}
    return [
        {
            "box": _rounded(faces.boxes[i].tolist()),
            "score": round(float(faces.scores[i]), 4),
            "landmarks": None if landmarks is None else [_rounded(point) for point in landmarks[i].tolist()],
            "pose": None if pose is None else dict(zip(_ANGLES, _rounded(pose[i].tolist()), strict=True)),
            "attributes": {name: round(float(values[i]), 4) for name, values in faces.attributes.items()},
            "present": [name for name, present in has.items() if present[i]],
        }
        for i in range(len(faces))
    ]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 2) for value in values]
