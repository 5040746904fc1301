"""Head pose from points: a mean face in three dimensions, turned until its points lie on those found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.mean_face import MEAN_FACE_68

Floats = NDArray[np.float64]

_STEPS = 8
# Of 68 points the brows, nose, eyes and mouth corners: the others are the jaw, where a picture shows the outline of the
# cheek and not the same point of it, and the lips, which open. On annotated points the error of pitch is 3.9 degrees
# with all, 2.6 without the jaw, and 2.1 without both.
_RIGID = (*range(17, 49), 54)
# Of the squared mean side of the face: keeps a step finite where points coincide, and moves no answer.
_DAMPING = 1e-6


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
    if points.ndim != 3 or points.shape[1:] not in ((5, 2), (68, 2)):
        raise ValueError(f"points {points.shape} are neither (N, 5, 2) nor (N, 68, 2)")
    seen, model = points.astype(np.float64), np.array(MEAN_FACE_68)
    if points.shape[1] == 68:
        seen, model = seen[:, _RIGID], model[_RIGID, :]
    else:
        model = five_of_68(model)
    model = model - model.mean(axis=0)
    seen = seen - seen.mean(axis=1, keepdims=True)
    size = np.sqrt((seen**2).sum(axis=(1, 2)))
    usable = np.isfinite(size) & (size > 0)
    degrees = np.full((len(points), 3), np.nan, np.float32)
    if usable.any():
        seen = seen[usable] / size[usable, None, None]
        degrees[usable] = rotation_degrees(_fitted(model, seen))
    return degrees


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


def _fitted(model: Floats, seen: Floats) -> Floats:
    """The rotation (N, 3, 3) at which ``model`` (P, 3) lies nearest to ``seen`` (N, P, 2), both centred."""
    rotations, scale = _start(model, seen)
    for _ in range(_STEPS):
        turned = np.einsum("nij,pj->npi", rotations, model)
        residual = (seen - scale[:, None, None] * turned[..., :2]).reshape(len(seen), -1)
        # d/dw of exp([w]x) X at 0, seen from the front: w x X = (wy z - wz y, wz x - wx z).
        x, y, z = np.moveaxis(turned, -1, 0)
        zero = np.zeros_like(x)
        by_turn = np.stack([np.stack([zero, z, -y], -1), np.stack([-z, zero, x], -1)], axis=2)
        jacobian = np.concatenate([scale[:, None, None, None] * by_turn, turned[..., :2, None]], axis=-1)
        jacobian = jacobian.reshape(len(seen), -1, 4)
        normal = np.einsum("nri,nrj->nij", jacobian, jacobian) + _DAMPING * np.eye(4)
        step = np.linalg.solve(normal, np.einsum("nri,nr->ni", jacobian, residual)[..., None])[..., 0]
        rotations = _turn(np.clip(step[:, :3], -0.5, 0.5)) @ rotations
        scale = scale + step[:, 3]
    return rotations


def _start(model: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """Rotation (N, 3, 3) and scale (N,) of the best affine camera's nearest scaled rotation."""
    affine = np.einsum("npi,pj->nij", seen, np.linalg.pinv(model).T)
    u, _, vt = np.linalg.svd(affine, full_matrices=False)
    first, second = np.moveaxis(u @ vt, 1, 0)
    rotations = np.stack([first, second, np.cross(first, second)], axis=1)
    turned = np.einsum("nij,pj->npi", rotations, model)[..., :2]
    scale: Floats = (seen * turned).sum(axis=(1, 2)) / (turned**2).sum(axis=(1, 2))
    return rotations, scale


def _turn(vectors: Floats) -> Floats:
    """Rotations (N, 3, 3) about ``vectors`` (N, 3) by their length in radians."""
    angle = np.linalg.norm(vectors, axis=1)
    x, y, z = (vectors / np.maximum(angle, 1e-12)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.moveaxis(np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]), -1, 0)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    turned: Floats = np.eye(3) + sin * cross + (1 - cos) * (cross @ cross)
    return turned
