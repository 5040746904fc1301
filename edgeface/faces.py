"""``Faces``: what every detector returns, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeface.class_names import ClassNames
from edgeface.errors import UnknownAttributeError
from edgeface.registry import unknown_name

# The attribute that says how good a picture of its face it is.
QUALITY = "quality"

Floats = NDArray[np.float32]

_ANGLES = ("pitch", "yaw", "roll")
_ATTRIBUTE, _CLASS = "attribute.", "class."


@dataclass(frozen=True)
class Distribution:
    """How likely each of K classes is for N faces: ``probabilities`` float32 (N, K), which add up to 1."""

    classes: ClassNames
    probabilities: Floats

    def likeliest(self) -> list[str]:
        """The name of the likeliest class of each face."""
        return [self.classes.names[i] for i in self.probabilities.argmax(axis=1)]

    def expectation(self) -> Floats | None:
        """The expected value of each face, float32 (N,), such as its age in years; None where classes have no values.
        """
        if self.classes.values is None:
            return None
        expected: Floats = self.probabilities @ np.array(self.classes.values, np.float32)
        return expected

    def spread(self) -> Floats | None:
        """The standard deviation of each face's value, float32 (N,): how sure the expectation is. None as there."""
        expected = self.expectation()
        if expected is None or self.classes.values is None:
            return None
        apart = np.array(self.classes.values, np.float32) - expected[:, None]
        deviation: Floats = np.sqrt((self.probabilities * apart**2).sum(axis=1))
        return deviation


@dataclass(frozen=True)
class FoundFace:
    """One of ``Faces``: ``box`` (4,), ``score``, ``landmarks`` (5, 2), ``landmarks68`` (68, 2) and ``pose`` (3,) as
    there; ``attributes``, name -> probability, ``present``, the names of those that it has, and ``classes``, name ->
    class -> probability; ``expectations``, name -> value, of the classes that have values, and ``spreads``, their
    standard deviations."""

    box: Floats
    score: float
    landmarks: Floats | None
    landmarks68: Floats | None
    pose: Floats | None
    attributes: Mapping[str, float]
    present: tuple[str, ...]
    classes: Mapping[str, Mapping[str, float]]
    expectations: Mapping[str, float]
    spreads: Mapping[str, float]

    def words(self) -> list[str]:
        """What is told of the face, a word each: the attributes that it has, its classes or their expectation, and its
        quality last, as a number, since it is a matter of degree."""
        words = [name for name in self.present if name != QUALITY]
        for name, each in self.classes.items():
            expected = self.expectations.get(name)
            words.append(max(each, key=lambda key: each[key]) if expected is None else f"{name} {expected:.0f}")
        if QUALITY in self.attributes:
            words.append(f"q{self.attributes[QUALITY]:.2f}".replace("0.", "."))
        return words


Own = TypeVar("Own", bound="Faces")


@dataclass(frozen=True)
class Faces:
    """N faces of one picture, best score first. Iterating gives a ``FoundFace`` each, and so does an index.

    ``boxes`` (N, 4) float32, x1 y1 x2 y2 in pixels of the original picture, not clipped to it; ``scores`` (N,)
    float32 in 0..1; ``landmarks`` (N, 5, 2) float32 in the same pixels (eye on the image's left, eye on its right,
    nose tip, mouth corner left, right) or None; ``pose`` (N, 3) float32, pitch yaw roll in degrees, or None;
    ``attributes``, such as mask or quality: name -> (N,) float32 probabilities in 0..1, and ``thresholds``, name ->
    probability from which it is a yes (``has``); ``landmarks68`` (N, 68, 2), in the order of 300-W, or None;
    ``classes``, such as age or gender: name -> ``Distribution`` over named classes. What a model does not predict is
    None, or not among the attributes and classes.
    """

    boxes: Floats
    scores: Floats
    landmarks: Floats | None = None
    pose: Floats | None = None
    attributes: Mapping[str, Floats] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    landmarks68: Floats | None = None
    classes: Mapping[str, Distribution] = field(default_factory=dict)

    # The fields that are one array, or None; every other field that goes by face is a mapping.
    _SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        "boxes": (4,), "scores": (), "landmarks": (5, 2), "landmarks68": (68, 2), "pose": (3,),
    }

    def __post_init__(self) -> None:
        shapes: dict[str, tuple[NDArray[Any] | None, tuple[int, ...]]] = {
            name: (getattr(self, name), shape) for name, shape in self._SHAPES.items()
        }
        shapes |= {f"attributes[{name!r}]": (array, ()) for name, array in self.attributes.items()}
        for name, each in self.classes.items():
            shapes[f"classes[{name!r}]"] = each.probabilities, (len(each.classes.names),)
        for name, (array, shape) in shapes.items():
            if array is not None and array.shape != (len(self.scores), *shape):
                raise ValueError(f"Faces.{name} has shape {array.shape}, not {(len(self.scores), *shape)}")

    @classmethod
    def empty(cls) -> Faces:
        """No faces."""
        return Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32))

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], thresholds: Mapping[str, float], classes: Mapping[str, ClassNames]
    ) -> Faces:
        """The inverse of ``arrays``, with what is not in them: the attributes' thresholds and the names of classes.

        Raises KeyError without boxes, scores, or the names of a distribution's classes, and ValueError for shapes that
        do not fit.
        """
        return Faces(
            arrays["boxes"], arrays["scores"], arrays.get("landmarks"), arrays.get("pose"),
            {name.removeprefix(_ATTRIBUTE): array for name, array in arrays.items() if name.startswith(_ATTRIBUTE)},
            thresholds, arrays.get("landmarks68"),
            {
                name.removeprefix(_CLASS): Distribution(classes[name.removeprefix(_CLASS)], array)
                for name, array in arrays.items() if name.startswith(_CLASS)
            },
        )

    @classmethod
    def joined(cls, parts: Sequence[Faces]) -> Faces:
        """The faces of all parts, one after the other: what all of them predict. Of a threshold the last part's counts;
        classes must be the same in all."""
        if not parts:
            return Faces.empty()
        every = [part.arrays() for part in parts]
        names = [name for name in every[0] if all(name in arrays for arrays in every)]
        return Faces.of_arrays(
            {name: np.concatenate([arrays[name] for arrays in every]) for name in names},
            {
                name: value for part in parts for name, value in part.thresholds.items() if _ATTRIBUTE + name in names
            },
            {name: each.classes for name, each in parts[0].classes.items()},
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[FoundFace]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> FoundFace:
        """Face ``index``, from 0, or from -1 backwards; raises IndexError."""
        return FoundFace(
            box=self.boxes[index],
            score=float(self.scores[index]),
            landmarks=None if self.landmarks is None else self.landmarks[index],
            landmarks68=None if self.landmarks68 is None else self.landmarks68[index],
            pose=None if self.pose is None else self.pose[index],
            attributes={name: float(values[index]) for name, values in self.attributes.items()},
            present=tuple(name for name in self.attributes if self.has(name)[index]),
            classes={
                name: dict(zip(each.classes.names, each.probabilities[index].tolist(), strict=True))
                for name, each in self.classes.items()
            },
            expectations=_of_face(index, {name: each.expectation() for name, each in self.classes.items()}),
            spreads=_of_face(index, {name: each.spread() for name, each in self.classes.items()}),
        )

    def select(self: Own, chosen: ArrayLike | slice) -> Own:
        """Those faces, everything that is known of them: by indices (n,), in that order, by a mask bool (N,), or by a
        slice. Raises IndexError for a face that is not there."""
        rows: Any = chosen if isinstance(chosen, slice) else np.asarray(chosen)
        if isinstance(rows, np.ndarray) and not rows.size and rows.dtype != np.bool_:
            rows = rows.astype(np.int64)       # an empty list has no integers
        arrays = {name: getattr(self, name) for name in self._SHAPES}
        changed: dict[str, Any] = {name: None if array is None else array[rows] for name, array in arrays.items()}
        return replace(
            self,
            **changed,
            attributes={name: values[rows] for name, values in self.attributes.items()},
            classes={
                name: replace(each, probabilities=each.probabilities[rows]) for name, each in self.classes.items()
            },
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is known of each face, an array (N, ...) a name: the fields' own names, ``attribute.mask``
        for an attribute's probabilities, ``class.age`` for those of classes."""
        found = {name: getattr(self, name) for name in self._SHAPES}
        found |= {_ATTRIBUTE + name: values for name, values in self.attributes.items()}
        found |= {_CLASS + name: each.probabilities for name, each in self.classes.items()}
        return {name: array for name, array in found.items() if array is not None}

    def to_dict(self) -> dict[str, Any]:
        """Everything for JSON: {"faces": [...]}, as ``face_records`` and the lines of ``edgeface detect --json``."""
        return {"faces": face_records(self)}

    def has(self, attribute: str) -> NDArray[np.bool_]:
        """Whether each face has it, (N,) bool: a probability of at least the attribute's threshold, 0.5 where it has
        none. Raises UnknownAttributeError, which names those that there are."""
        if attribute not in self.attributes:
            raise UnknownAttributeError(unknown_name("attribute", attribute, self.attributes))
        has: NDArray[np.bool_] = self.attributes[attribute] >= np.float32(self.thresholds.get(attribute, 0.5))
        return has


def _of_face(index: int, values: Mapping[str, Floats | None]) -> dict[str, float]:
    return {name: float(each[index]) for name, each in values.items() if each is not None}


def face_records(faces: Faces) -> list[dict[str, Any]]:
    """Every face as an object for JSON: pixels and degrees to two places, probabilities to four, null for what is not
    predicted; "present" names the attributes that it has. "landmarks68", "classes", "expectations" and "spreads" are
    there where the model predicts them; of classes that stand for numbers the last two say all."""
    return [_record(face) for face in faces]


def _record(face: FoundFace) -> dict[str, Any]:
    record: dict[str, Any] = {
        "box": _rounded(face.box.tolist()),
        "score": round(face.score, 4),
        "landmarks": None if face.landmarks is None else [_rounded(point) for point in face.landmarks.tolist()],
        "pose": None if face.pose is None else dict(zip(_ANGLES, _rounded(face.pose.tolist()), strict=True)),
        "attributes": {name: round(value, 4) for name, value in face.attributes.items()},
        "present": list(face.present),
    }
    if face.landmarks68 is not None:
        record["landmarks68"] = [_rounded(point) for point in face.landmarks68.tolist()]
    named = {name: each for name, each in face.classes.items() if name not in face.expectations}
    if named:
        record["classes"] = {
            name: {key: round(value, 4) for key, value in each.items()} for name, each in named.items()
        }
    if face.expectations:
        record["expectations"] = {name: round(value, 2) for name, value in face.expectations.items()}
        record["spreads"] = {name: round(value, 2) for name, value in face.spreads.items()}
    return record


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 2) for value in values]
