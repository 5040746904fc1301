"""A head's rotation from points of its face: a mean face is turned until its points lie nearest to those seen.

``fit`` uses the C kernel where it is there; ``fit_reference`` is the specification in NumPy, and gives the same bits:
sums go from the first point on, nothing is left to a library of linear algebra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime.kernels import decoding, library

Doubles = NDArray[np.float64]

_STEPS = 8
# Of the squared mean side of the face: keeps a step finite where points coincide, and moves no answer.
_DAMPING = 1e-6
# An affine camera this flat, its determinant over the squared trace, says nothing of how the head is turned.
_FLAT = 1e-9
_MOST_TURN = 0.5        # radians about an axis in one step


@dataclass(frozen=True)
class Model:
    """A face in three dimensions, float64: ``points`` (P, 3) about their centre, and ``inverse`` (P, 3), the matrix
    that gives the best affine camera from seen points."""

    points: Doubles
    inverse: Doubles

    @classmethod
    def of(cls, points: Doubles) -> Model:
        """From points (P, 3): x right, y down, z towards the camera. Raises ValueError unless P is 3 to 68."""
        if not 3 <= len(points) <= 68 or points.shape[1:] != (3,):
            raise ValueError(f"a model's points are (P, 3), P from 3 to 68, not {points.shape}")
        centred = np.ascontiguousarray(points - points.mean(axis=0), np.float64)
        return cls(centred, np.ascontiguousarray(np.linalg.pinv(centred).T))


def fit(points: NDArray[np.floating], model: Model) -> Doubles:
    """Rotations (N, 3, 3) float64 at which ``model``, scaled and moved, lies nearest to ``points`` (N, P, 2).

    Seen from far away (scaled orthographic projection), in the least-squares sense, by eight steps of Gauss and Newton
    from the nearest affine camera; points are taken as float32. NaN where the points are not finite or all one. Raises
    ValueError for points that are not the model's.
    """
    kernels = library()
    if kernels is None:
        return fit_reference(points, model)
    return decoding.fit_pose(kernels, _checked(points, model), model.points, model.inverse)


def _checked(points: NDArray[np.floating], model: Model) -> NDArray[np.float32]:
    if points.ndim != 3 or points.shape[1:] != (len(model.points), 2):
        raise ValueError(f"points {points.shape} are not (N, {len(model.points)}, 2), as the model's")
    return np.ascontiguousarray(points, np.float32)


@np.errstate(all="ignore")
def fit_reference(points: NDArray[np.floating], model: Model) -> Doubles:
    """``fit`` in NumPy."""
    count = len(model.points)
    seen = np.moveaxis(_checked(points, model).astype(np.float64), 0, -1)   # (P, 2, N)
    seen = seen - _sum(seen) / count
    square = _sum(seen[:, 0] * seen[:, 0] + seen[:, 1] * seen[:, 1])
    usable = np.isfinite(square) & (square > 0)
    seen = seen[..., usable] / np.sqrt(square[usable])
    r = _first_rotation(seen, model.inverse)                                # (3, 3, n)
    at = _turned(r, model.points)                                           # (P, 3, n)
    scale = _sum(seen[:, 0] * at[:, 0] + seen[:, 1] * at[:, 1]) / _sum(at[:, 0] * at[:, 0] + at[:, 1] * at[:, 1])
    for _ in range(_STEPS):
        at = _turned(r, model.points)
        x, y, z = (scale * at[:, i] for i in range(3))                      # (P, n)
        none = np.zeros_like(x)
        # d/dw of exp([w]x) X at 0, seen from the front, and d/dscale: (P, 2, 4, n), then one row after the other.
        rows = np.array([[none, z, -y, at[:, 0]], [-z, none, x, at[:, 1]]]).transpose(2, 0, 1, 3)
        rows = rows.reshape(2 * count, 4, -1)
        left = np.stack([seen[:, 0] - x, seen[:, 1] - y], axis=1).reshape(2 * count, -1)
        gradient = [_sum(rows[:, j] * left) for j in range(4)]
        normal = [[_sum(rows[:, j] * rows[:, k]) for k in range(j + 1)] for j in range(4)]
        for j in range(4):
            normal[j][j] = normal[j][j] + _DAMPING
        *turn, more = _solved(normal, gradient)
        r = _further(r, turn)
        scale = scale + more
    rotations = np.full((len(points), 3, 3), np.nan)
    rotations[usable] = np.moveaxis(r, -1, 0)
    return rotations


def _sum(values: Doubles) -> Doubles:
    """Sums over axis 0 from zero and its first element on, which NumPy's sum leaves open."""
    total: Doubles = np.add.accumulate(values, axis=0)[-1] + 0.0
    return total


def _turned(r: Doubles, model: Doubles) -> Doubles:
    """The model turned, (P, 3, n)."""
    m = model[:, :, None]
    return np.stack([r[i, 0] * m[:, 0] + r[i, 1] * m[:, 1] + r[i, 2] * m[:, 2] for i in range(3)], axis=1)


def _first_rotation(seen: Doubles, inverse: Doubles) -> Doubles:
    """The rotations (3, 3, n) nearest to the best affine cameras: (A A')^-1/2 A, and the two rows' cross product."""
    a = np.stack([_sum(seen[:, i, None] * inverse[:, :, None]) for i in range(2)])          # (2, 3, n)
    s00, s01, s11 = (
        p[0] * q[0] + p[1] * q[1] + p[2] * q[2] for p, q in ((a[0], a[0]), (a[0], a[1]), (a[1], a[1]))
    )
    square, trace = s00 * s11 - s01 * s01, s00 + s11
    det = np.sqrt(square)
    by = np.sqrt(trace + 2 * det) * det
    first = ((s11 + det) * a[0] - s01 * a[1]) / by
    second = ((s00 + det) * a[1] - s01 * a[0]) / by
    third = np.stack([
        first[1] * second[2] - first[2] * second[1],
        first[2] * second[0] - first[0] * second[2],
        first[0] * second[1] - first[1] * second[0],
    ])
    flat = ~(square > _FLAT * trace * trace)
    return np.where(flat, np.eye(3)[:, :, None], np.stack([first, second, third]))


def _solved(normal: list[list[Any]], gradient: list[Any]) -> list[Any]:
    """The solution of 4 symmetric, positive definite equations, of which the lower half is given, by L D L'."""
    lower: list[list[Any]] = [[], [], [], []]
    diagonal: list[Any] = []
    for i in range(4):
        for j in range(i + 1):
            value = normal[i][j]
            for k in range(j):
                value = value - lower[i][k] * lower[j][k] * diagonal[k]
            if j < i:
                lower[i].append(value / diagonal[j])
            else:
                diagonal.append(value)
    x = list(gradient)
    for i in range(4):
        for k in range(i):
            x[i] = x[i] - lower[i][k] * x[k]
    x = [value / d for value, d in zip(x, diagonal, strict=True)]
    for i in range(3, -1, -1):
        for k in range(i + 1, 4):
            x[i] = x[i] - lower[k][i] * x[k]
    return x


def _further(r: Doubles, turn: list[Any]) -> Doubles:
    """``r`` turned further about ``turn`` by Cayley's rotation, which needs neither sine nor cosine."""
    x, y, z = (np.clip(angle, -_MOST_TURN, _MOST_TURN) / 2 for angle in turn)
    square = x * x + y * y + z * z
    by, same = 1 + square, 1 - square
    c = [
        [(same + 2 * x * x) / by, (2 * x * y - 2 * z) / by, (2 * x * z + 2 * y) / by],
        [(2 * x * y + 2 * z) / by, (same + 2 * y * y) / by, (2 * y * z - 2 * x) / by],
        [(2 * x * z - 2 * y) / by, (2 * y * z + 2 * x) / by, (same + 2 * z * z) / by],
    ]
    return np.stack([c[i][0] * r[0] + c[i][1] * r[1] + c[i][2] * r[2] for i in range(3)])
