"""What a detector is trained on: every set's faces as arrays of one form, with what each may be trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture

# Teacher pose in `wider` reads this much too low in pitch (the data's README).
TEACHER_PITCH_OFFSET_DEG = 4.5


@dataclass(frozen=True)
class Targets:
    """The faces of one picture or crop, N of them, in its pixels.

    ``boxes`` (N, 4) float32 x1 y1 x2 y2; ``landmarks`` (N, 5, 2) float32, NaN where unknown; ``pose`` (N, 3) float32
    pitch yaw roll in degrees, NaN where unknown; ``ignore`` (N,) bool, neither face nor background; ``regress`` (N,)
    bool, whether the box itself is annotated in the forehead-to-chin style; ``complete``: all else is background.
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    pose: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    regress: NDArray[np.bool_]
    complete: bool

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Targets:
        """The faces of a mask or of indices."""
        return Targets(
            self.boxes[keep], self.landmarks[keep], self.pose[keep], self.ignore[keep], self.regress[keep],
            self.complete,
        )

    def moved(self, scale: float, dx: float, dy: float) -> Targets:
        """The faces after x -> x * scale + dx, y -> y * scale + dy."""
        shift = np.array([dx, dy], np.float32)
        return Targets(
            (self.boxes.reshape(-1, 2, 2) * scale + shift).reshape(-1, 4).astype(np.float32),
            (self.landmarks * scale + shift).astype(np.float32),
            self.pose, self.ignore, self.regress, self.complete,
        )

    def flipped(self, width: int) -> Targets:
        """The faces in the picture mirrored left to right: landmarks swap sides, yaw and roll change sign."""
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = width - self.boxes[:, [2, 0]]
        landmarks = self.landmarks[:, [1, 0, 2, 4, 3]].copy()
        landmarks[:, :, 0] = width - landmarks[:, :, 0]
        pose = self.pose * np.array([1, -1, -1], np.float32)
        return Targets(boxes, landmarks, pose, self.ignore, self.regress, self.complete)

    def turned(self, angle_deg: float, centre: tuple[float, float]) -> Targets:
        """The faces in the picture turned clockwise about ``centre`` (x, y).

        A box becomes the one round the turned ellipse that it held, as a head is nearer to that than to a rectangle.
        Turning the picture multiplies the head's rotation, Rx(pitch) Ry(-yaw) Rz(roll), from the left, so pitch and yaw
        change with it: the convention was held against the eyes' line on 805 turned faces of ``landmarks68``, which it
        meets to 1.3 degrees, where one with roll outermost is 3.8 degrees off.
        """
        angle = math.radians(angle_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        rotation = np.array([[cos, -sin], [sin, cos]], np.float32)
        about = np.array(centre, np.float32)
        middle = ((self.boxes[:, :2] + self.boxes[:, 2:]) / 2 - about) @ rotation.T + about
        half = (self.boxes[:, 2:] - self.boxes[:, :2]) / 2
        half = np.hypot(half * abs(cos), half[:, ::-1] * abs(sin))
        return Targets(
            np.concatenate((middle - half, middle + half), 1).astype(np.float32),
            ((self.landmarks - about) @ rotation.T + about).astype(np.float32),
            _turned_pose(self.pose, angle), self.ignore, self.regress, self.complete,
        )


def _turned_pose(pose: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
    """Pitch, yaw, roll (N, 3) in degrees after the picture was turned clockwise by ``angle`` radians; NaN stays."""
    a, b, c = np.radians(pose.astype(np.float64) * [1, -1, 1]).T
    # Rows of Rx(a) Ry(b) Rz(c) that the decomposition needs.
    x = np.stack((np.cos(b) * np.cos(c), -np.cos(b) * np.sin(c), np.sin(b)))
    y = np.stack((
        np.cos(a) * np.sin(c) + np.sin(a) * np.sin(b) * np.cos(c),
        np.cos(a) * np.cos(c) - np.sin(a) * np.sin(b) * np.sin(c),
        -np.sin(a) * np.cos(b),
    ))
    first = math.cos(angle) * x - math.sin(angle) * y
    second = math.sin(angle) * x + math.cos(angle) * y
    pitch, yaw = np.arctan2(-second[2], np.cos(a) * np.cos(b)), -np.arcsin(first[2].clip(-1, 1))
    roll = np.arctan2(-first[1], first[0])
    turned: NDArray[np.float32] = np.degrees(np.stack((pitch, yaw, roll), 1)).astype(np.float32)
    return turned


def joined(parts: list[Targets]) -> Targets:
    """Faces of several parts of one canvas, in one; complete where all are."""
    return Targets(
        np.concatenate([p.boxes for p in parts]), np.concatenate([p.landmarks for p in parts]),
        np.concatenate([p.pose for p in parts]), np.concatenate([p.ignore for p in parts]),
        np.concatenate([p.regress for p in parts]), all(p.complete for p in parts),
    )


def box_from_landmarks68(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Forehead-to-chin box (4,) of the 68 points (68, 2): their extent, with a forehead of 0.3 of brow to chin."""
    x1, y1 = points.min(0)
    x2, y2 = points.max(0)
    return np.array([x1, y1 - 0.3 * (y2 - y1), x2, y2], np.float32)


def box_from_landmarks5(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Box (4,) from eyes, nose tip and mouth corners (5, 2).

    Its unit is the larger of the distance between the eyes and 1.1 times that from the eyes to the mouth, so that a
    turned face, whose eyes are close, keeps its height; 2.0 by 2.5 units, centred a little above the points' middle.
    """
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    unit = max(float(np.linalg.norm(points[1] - points[0])), 1.1 * float(np.linalg.norm(mouth - eyes)))
    cx, cy = (eyes + mouth) / 2 - np.array([0, 0.1 * unit], np.float32)
    return np.array([cx - unit, cy - 1.25 * unit, cx + unit, cy + 1.25 * unit], np.float32)


def face_box(face: Face) -> NDArray[np.float32] | None:
    """The annotated box (4,) float32, else one derived from the 68 or the 5 points, else None."""
    if face.box is not None:
        return np.asarray(face.box, np.float32)
    if face.landmarks68 is not None:
        return box_from_landmarks68(np.asarray(face.landmarks68, np.float32))
    if face.landmarks is not None:
        return box_from_landmarks5(np.asarray(face.landmarks, np.float32))
    return None


def face_box_of_points(face: Face, complete: bool) -> NDArray[np.float32] | None:
    """Where a face is, forehead to chin (4,), of its points where it has them: sets of single faces, which are not
    ``complete``, annotate tight squares, if any, beside landmarks. None where nothing places it."""
    if face.landmarks68 is not None:
        return box_from_landmarks68(np.asarray(face.landmarks68, np.float32))
    if face.landmarks is not None and not complete:
        return box_from_landmarks5(np.asarray(face.landmarks, np.float32))
    return None if face.box is None else np.asarray(face.box, np.float32)


def targets_of(picture: Picture, *, regress_boxes: bool) -> Targets:
    """A picture's annotations as arrays; faces that nothing places are left out.

    ``regress_boxes``: whether its set's boxes go from forehead to chin (``SetDescription.regress``).
    """
    rows = [(face, box) for face in picture.faces if (box := face_box(face)) is not None]
    n = len(rows)
    landmarks = np.full((n, 5, 2), np.nan, np.float32)
    pose = np.full((n, 3), np.nan, np.float32)
    for i, (face, _) in enumerate(rows):
        if face.landmarks is not None:
            landmarks[i] = face.landmarks
        if face.pose is not None:
            pose[i] = face.pose
            if face.teacher:
                pose[i, 0] += TEACHER_PITCH_OFFSET_DEG
    regress = [face.box is not None and regress_boxes for face, _ in rows]
    return Targets(
        np.array([box for _, box in rows], np.float32).reshape(n, 4), landmarks, pose,
        np.array([bool(face.ignore) for face, _ in rows], bool), np.array(regress, bool), bool(picture.complete),
    )
