"""What a detector misses and what it invents: tables by kind, and every single one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture
from edgeface.evaluation.wider import HEIGHT_BINS_PX, annotated_boxes, bin_name, counted_faces, match_faces
from edgeface.faces import Faces
from edgeface.runtime.nms import iou

# A detection that overlaps an annotated face by less is on no face at all.
IOU_TOUCHES = 0.1
# Of a detection's own area: it lies in a region that was not annotated face by face.
SHARE_IGNORED = 0.5
WIDEST, EASIER = "all", "easy and medium"

Invention = Literal["nothing", "misplaced", "duplicate"]
INVENTIONS: tuple[Invention, ...] = ("nothing", "misplaced", "duplicate")

_LEVELS: dict[str, tuple[str, ...]] = {
    "blur": ("clear", "normal", "heavy"),
    "occlusion": ("none", "partial", "heavy"),
    "illumination": ("normal", "extreme"),
    "expression": ("typical", "exaggerated"),
    "atypical_pose": ("no", "yes"),
}


@dataclass(frozen=True)
class Missed:
    """A counted face that no detection at the score is matched with. ``kinds``: blur, occlusion, ... -> the level, in
    words, as annotated; ``best_score`` is that of the best detection below the score that lies on it (IoU 0.5), None
    where there is none."""

    picture: Picture
    face: Face
    box: NDArray[np.float32]
    kinds: Mapping[str, str]
    best_score: float | None


@dataclass(frozen=True)
class Invented:
    """A detection at the score that is no hit: on "nothing" (IoU under 0.1 with every annotated face), "misplaced" (on
    a face, IoU under 0.5), or a "duplicate" of a better one. ``overlap`` is its IoU with the nearest face."""

    picture: Picture
    box: NDArray[np.float32]
    score: float
    kind: Invention
    overlap: float


@dataclass(frozen=True)
class Count:
    """``missed`` of ``faces`` counted faces."""

    faces: int
    missed: int


@dataclass(frozen=True)
class ErrorTable:
    """Errors at ``score`` in ``pictures`` complete pictures.

    ``missed``: "all", and "easy and medium" where the set has WIDER's subsets -> kind, as blur -> level -> the counts;
    the kind "every" has them all. ``invented``: kind -> detections, and ``detections`` is what was judged, those on
    faces that are not counted left out.
    """

    score: float
    pictures: int
    missed: Mapping[str, Mapping[str, Mapping[str, Count]]]
    detections: int
    invented: Mapping[str, int]


@dataclass(frozen=True)
class Errors:
    """The table, and every error, the missed faces largest first, the invented ones best score first."""

    table: ErrorTable
    missed: Sequence[Missed]
    invented: Sequence[Invented]


def kinds_of(face: Face, box: NDArray[np.float32]) -> dict[str, str]:
    """A face's height in pixels of its picture and whatever levels were annotated: kind -> level in words."""
    height_px = float(box[3] - box[1])
    kinds = {"height_px": next(bin_name(low, high) for low, high in HEIGHT_BINS_PX if low <= height_px < high)}
    for kind, words in _LEVELS.items():
        level = getattr(face, kind)
        if level is not None:
            kinds[kind] = words[min(int(level), len(words) - 1)]
    if face.mask is not None:
        kinds["mask"] = face.mask
    return kinds


def find_errors(pictures: Sequence[Picture], detections: Sequence[Faces], score: float) -> Errors:
    """The errors of ``detections``, one ``Faces`` a picture, on complete pictures, matched as for AP.

    Faces that are not counted for AP are neither missed nor hit, and what lies on them is not invented; nor is what
    lies by half of its area in an ignored region.
    """
    missed, invented, every = [], [], []
    counted = list(counted_faces(pictures).values())[-1]
    offset = judged = 0
    for picture, found in zip(pictures, detections, strict=True):
        faces = [face for face in picture.faces if face.box is not None]
        here = counted[offset:offset + len(faces)]
        offset += len(faces)
        one = _Judged(picture, faces, here, found, score)
        every += one.counted()
        missed += list(one.missed())
        false = list(one.invented())
        invented += false
        judged += one.hits() + len(false)
    table = ErrorTable(
        score, len(pictures), _table(every, missed), judged,
        {kind: sum(one.kind == kind for one in invented) for kind in INVENTIONS},
    )
    missed.sort(key=lambda one: float(one.box[1] - one.box[3]))
    invented.sort(key=lambda one: -one.score)
    return Errors(table, missed, invented)


class _Judged:
    """One picture's detections against its faces; ``counted_here`` (M,) says which of them are asked for."""

    def __init__(
        self, picture: Picture, faces: Sequence[Face], counted_here: NDArray[np.bool_], found: Faces, score: float
    ) -> None:
        self._picture, self._faces, self._counted, self._found = picture, faces, counted_here, found
        self._truth = annotated_boxes(picture)
        self._overlap = iou(found.boxes, self._truth)
        self._passed = found.scores >= np.float32(score)
        self._face = match_faces(found.boxes, self._truth)
        self._kinds = [kinds_of(face, box) for face, box in zip(faces, self._truth, strict=True)]

    def counted(self) -> list[tuple[Face, dict[str, str]]]:
        return [(self._faces[i], self._kinds[i]) for i in np.flatnonzero(self._counted).tolist()]

    def hits(self) -> int:
        return int(self._counted[np.unique(self._face[self._passed & (self._face >= 0)])].sum())

    def missed(self) -> Iterator[Missed]:
        hit = self._face[self._passed & (self._face >= 0)]
        for i in np.setdiff1d(np.flatnonzero(self._counted), hit).tolist():
            below = self._found.scores[self._face == i]
            best = float(below.max()) if len(below) else None
            yield Missed(self._picture, self._faces[i], self._truth[i], self._kinds[i], best)

    def invented(self) -> Iterator[Invented]:
        taken: set[int] = set()
        for i in np.argsort(-self._found.scores, kind="stable"):
            face = int(self._face[i])
            if not self._passed[i]:
                break
            if face >= 0 and face not in taken:
                taken.add(face)
                continue
            if (not self._counted[face]) if face >= 0 else self._in_ignored(self._found.boxes[i]):
                continue
            overlap = float(self._overlap[i].max(initial=0.0))
            kind: Invention = "duplicate" if face >= 0 else "misplaced" if overlap >= IOU_TOUCHES else "nothing"
            yield Invented(self._picture, self._found.boxes[i], float(self._found.scores[i]), kind, overlap)

    def _in_ignored(self, box: NDArray[np.float32]) -> bool:
        regions = self._truth[[face.ignore for face in self._faces]]
        sides = np.minimum(regions[:, 2:], box[2:]) - np.maximum(regions[:, :2], box[:2])
        shared = np.clip(sides, 0, None).prod(axis=1)
        return bool((shared >= SHARE_IGNORED * float((box[2:] - box[:2]).prod())).any()) if len(regions) else False


def _table(
    every: Sequence[tuple[Face, Mapping[str, str]]], missed: Sequence[Missed]
) -> dict[str, dict[str, dict[str, Count]]]:
    chosen: dict[str, Callable[[Face], bool]] = {WIDEST: lambda _face: True}
    if any(face.subset for face, _ in every):
        chosen[EASIER] = lambda face: face.subset in ("easy", "medium")
    return {
        name: _by_kind(
            [kinds for face, kinds in every if wanted(face)], [one.kinds for one in missed if wanted(one.face)]
        )
        for name, wanted in chosen.items()
    }


def _by_kind(every: Sequence[Mapping[str, str]], missed: Sequence[Mapping[str, str]]) -> dict[str, dict[str, Count]]:
    heights = tuple(bin_name(*one) for one in HEIGHT_BINS_PX)
    names = {"height_px": heights, **_LEVELS, "mask": ("worn", "none", "incorrect")}
    table = {"every": {"face": Count(len(every), len(missed))}}
    for kind, levels in names.items():
        rows = {
            level: Count(*(sum(kinds.get(kind) == level for kinds in of) for of in (every, missed))) for level in levels
        }
        rows = {level: count for level, count in rows.items() if count.faces}
        if rows:
            table[kind] = rows
    return table
