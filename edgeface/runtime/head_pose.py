"""Head pose from points: a mean face in three dimensions, turned until its points lie on those found."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeface.mean_face import MEAN_FACE_68
from edgeface.runtime.pose_fit import Model, fit

Floats = NDArray[np.float64]

# Of 68 points the brows, nose, eyes and mouth corners: the others are the jaw, where a picture shows the outline of the
# cheek and not the same point of it, and the lips, which open. On annotated points the error of pitch is 3.9 degrees
# with all, 2.6 without the jaw, and 2.1 without both.
_RIGID = (*range(17, 49), 54)


def five_of_68(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """The five points (..., 5, D) of 68 in the 300-W order (..., 68, D): middles of the eyes, nose tip, mouth corners.
    """
    left, right = points[..., 36:42, :].mean(axis=-2), points[..., 42:48, :].mean(axis=-2)
    return np.stack([left, right, points[..., 30, :], points[..., 48, :], points[..., 54, :]], axis=-2)


def pose_from_points(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Pitch, yaw and roll in degrees, (N, 3) float32, of the heads whose points these are.

    ``points`` is (N, 5, 2), as ``Faces.landmarks`` (eye on the image's left, eye on its right, nose tip, mouth corner
    left, right), or (N, 68, 2) in the 300-W order; pixels, x right and y down. Signs are AFLW2000's, as in
    ``Faces.pose``: pitch is positive looking up, yaw towards the image's left, roll clockwise.

    The pose, scale and place are those at which a mean face, seen from far away (scaled orthographic projection), lies
    nearest to the points in the least-squares sense. A face whose points are not all finite, or all one, has NaN.
    Raises ValueError for another shape.
    """
    points = np.asarray(points)         # None where a model gives none
    if points.ndim != 3 or points.shape[1:] not in ((5, 2), (68, 2)):
        raise ValueError(f"points {points.shape} are neither (N, 5, 2) nor (N, 68, 2)")
    model = _model(points.shape[1])
    return rotation_degrees(fit(points[:, _RIGID] if points.shape[1] == 68 else points, model)).astype(np.float32)


@lru_cache(maxsize=2)
def _model(count: int) -> Model:
    """The mean face's points that pose is taken from, of 5 or 68."""
    points = np.array(MEAN_FACE_68)
    return Model.of(np.asarray(points[_RIGID, :] if count == 68 else five_of_68(points), np.float64))


def rotation(pose: NDArray[np.floating]) -> Floats:
    """The head's rotation Rx(pitch) Ry(-yaw) Rz(roll), (N, 3, 3), of ``pose`` (N, 3) in degrees.

    Its axes are x to the image's right, y down, z towards the camera; its first two rows are what a picture shows.
    """
    pitch, yaw, roll = np.radians(np.asarray(pose, np.float64)).T * np.array([[1.0], [-1.0], [1.0]])
    (sp, sy, sr), (cp, cy, cr) = np.sin((pitch, yaw, roll)), np.cos((pitch, yaw, roll))
    rows = [
        [cy * cr, -cy * sr, sy],
        [cp * sr + sp * sy * cr, cp * cr - sp * sy * sr, -sp * cy],
        [sp * sr - cp * sy * cr, sp * cr + cp * sy * sr, cp * cy],
    ]
    turned: Floats = np.moveaxis(np.array(rows), -1, 0)
    return turned


def rotation_degrees(rotations: Floats) -> Floats:
    """Pitch, yaw and roll in degrees (N, 3) of rotations (N, 3, 3): the inverse of ``rotation``, yaw in -90..90."""
    pitch = np.arctan2(-rotations[:, 1, 2], rotations[:, 2, 2])
    yaw = -np.arcsin(np.clip(rotations[:, 0, 2], -1, 1))
    roll = np.arctan2(-rotations[:, 0, 1], rotations[:, 0, 0])
    degrees: Floats = np.degrees(np.stack([pitch, yaw, roll], axis=1))
    return degrees
