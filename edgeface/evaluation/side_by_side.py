"""Where two models differ on a picture: faces of one alone, and faces of both that are told differently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.faces import QUALITY, Faces
from edgeface.matching import differences, match

SAME_IOU = 0.5
# What a person sees when the two pictures lie side by side.
BOX_IOU = 0.75
LANDMARK_SHARE = 0.1        # of the square root of the box's area
POSE_DEG = 10.0


@dataclass(frozen=True)
class Difference:
    """One thing that differs: ``one`` and ``other`` are the faces' indices, None where that model has none."""

    what: str
    one: int | None
    other: int | None


@dataclass(frozen=True)
class Compared:
    """A picture with the faces of two models; ``same`` counts faces of both, ``found`` is where they differ, faces of
    one alone first."""

    path: Path
    one: Faces
    other: Faces
    same: int
    found: tuple[Difference, ...]

    def alone(self, is_other: bool) -> list[int]:
        """The faces that only the one, or the other, model has."""
        if is_other:
            return [each.other for each in self.found if each.one is None and each.other is not None]
        return [each.one for each in self.found if each.other is None and each.one is not None]


def compared(path: Path, one: Faces, other: Faces, iou_least: float = SAME_IOU) -> Compared:
    """Compare what two models found in a picture; boxes of at least ``iou_least`` are the same face."""
    pairs = match(one.boxes, other.boxes, iou_least)
    found = []
    for i in sorted(set(range(len(one))) - {pair.one for pair in pairs}):
        found.append(Difference(f"score {one.scores[i]:.2f}", i, None))
    for i in sorted(set(range(len(other))) - {pair.other for pair in pairs}):
        found.append(Difference(f"score {other.scores[i]:.2f}", None, i))
    apart = differences(one, other, pairs)
    for row, pair in enumerate(pairs):
        what = [f"boxes overlap by an IoU of {pair.iou:.2f}"] if pair.iou < BOX_IOU else []
        what += _told_apart(one, other, pair.one, pair.other, {name: values[row] for name, values in apart.items()})
        found += [Difference(text, pair.one, pair.other) for text in what]
    return Compared(path, one, other, len(pairs), tuple(found))


def _told_apart(one: Faces, other: Faces, i: int, j: int, apart: dict[str, NDArray[Any]]) -> Iterator[str]:
    if "landmarks" in apart:
        side_px = float(np.sqrt(max(1.0, np.prod(one.boxes[i, 2:] - one.boxes[i, :2]))))
        most_px = float(np.hypot(*apart["landmarks"].T).max())
        if most_px > LANDMARK_SHARE * side_px:
            yield f"landmarks lie up to {most_px:.0f} px apart"
    if one.pose is not None and other.pose is not None:
        # An angle and the same one once round are no difference.
        turned_deg = np.abs((apart["pose"] + 180) % 360 - 180)
        worst = int(turned_deg.argmax())
        if turned_deg[worst] > POSE_DEG:
            name = ("pitch", "yaw", "roll")[worst]
            yield f"{name} {one.pose[i, worst]:.0f} and {other.pose[j, worst]:.0f} degrees"
    for name in sorted((one.attributes.keys() & other.attributes.keys()) - {QUALITY}):
        here, there = bool(one.has(name)[i]), bool(other.has(name)[j])
        if here != there:
            values = f"{one.attributes[name][i]:.2f}, {other.attributes[name][j]:.2f}"
            yield f"{name} {_yes(here)} and {_yes(there)} ({values})"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def difference_lines(each: Compared, names: tuple[str, str]) -> list[str]:
    """Each difference as a line for people, without the picture's name; ``names`` are the models'."""
    lines = []
    for difference in each.found:
        is_other = difference.one is None
        faces, index = (each.other, difference.other) if is_other else (each.one, difference.one)
        assert index is not None
        x1, y1, x2, y2 = faces.boxes[index].round().astype(int).tolist()
        who = f"only {names[is_other]}, " if None in (difference.one, difference.other) else ""
        lines.append(f"face at {x1},{y1} to {x2},{y2}: {who}{difference.what}")
    return lines
