"""Fit the mean face of ``edgeface/mean_face.py`` to annotated points and head poses, and print it.

    python benchmarks/mean_face.py --data data/landmarks68
    python benchmarks/mean_face.py --data data/landmarks68 --model maskface

Each face is the mean face turned by its annotated pose, scaled, moved and seen from far away. The scales and the mean
face are fitted in turn by least squares until both stand, and the result is made symmetric. The last lines compare the
pose that ``edgeface.pose_from_points`` finds in the annotated points of the dev part with the annotated pose. With
--model nothing is fitted, and they compare that of the model's points at 320 px.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import edgeface
from edgeface.data.annotations import read_annotations
from edgeface.evaluation.fit import fit
from edgeface.evaluation.pose import ANGLES
from edgeface.mean_face import MIRRORED_68
from edgeface.runtime.head_pose import five_of_68, pose_from_points, rotation

Floats = NDArray[np.float64]

ROUNDS = 30
_SIZE_PX = 320


def annotated(data: Path, split: str) -> tuple[Floats, Floats]:
    """Points (N, 68, 2) in pixels and poses (N, 3) in degrees of a part's faces that have both."""
    faces = [face for picture in read_annotations(data, split) for face in picture.faces]
    pairs = [(f.landmarks68, f.pose) for f in faces if f.landmarks68 is not None and f.pose is not None]
    return np.array([p for p, _ in pairs], np.float64), np.array([p for _, p in pairs], np.float64)


def mean_face(points: Floats, pose: Floats) -> Floats:
    """The mean face (68, 3) of ``points`` (N, 68, 2) at ``pose`` (N, 3) degrees."""
    camera = rotation(pose)[:, :2]
    seen = points - points.mean(axis=1, keepdims=True)
    scale = np.sqrt((seen**2).sum(axis=(1, 2)))
    face = np.zeros((68, 3))
    for _ in range(ROUNDS):
        right = np.einsum("nij,npi->pj", camera, seen / scale[:, None, None])
        face = np.linalg.solve(np.einsum("nij,nik->jk", camera, camera), right.T).T
        turned = np.einsum("nij,pj->npi", camera, face)
        scale = (seen * turned).sum(axis=(1, 2)) / (turned**2).sum(axis=(1, 2))
    face = (face + face[MIRRORED_68, :] * [-1, 1, 1]) / 2
    left, right_eye = five_of_68(face)[:2]
    face = face - face.mean(axis=0) * [0, 0, 1] - (left + right_eye) / 2 * [1, 1, 0]
    return np.asarray(face / np.linalg.norm(right_eye - left))


def found_by(model: str, data: Path) -> dict[str, tuple[Floats, Floats]]:
    """By name points (N, P, 2) that the model finds on the faces of the dev part, and their annotated poses (N, 3): of
    the best face about the middle of the annotated points."""
    detector = edgeface.load(model, size=_SIZE_PX)
    found: dict[str, list[tuple[Floats, Floats]]] = {}
    for picture in read_annotations(data, "dev"):
        faces = detector(picture.path)
        for face in picture.faces:
            if face.landmarks68 is None or face.pose is None:
                continue
            x, y = five_of_68(np.asarray(face.landmarks68, np.float64)).mean(axis=0)
            b = faces.boxes
            there = np.flatnonzero((b[:, 0] < x) & (x < b[:, 2]) & (b[:, 1] < y) & (y < b[:, 3]))
            for name, points in (("68 points", faces.landmarks68), ("5 points", faces.landmarks)):
                if points is not None and len(there):
                    pair = points[there[faces.scores[there].argmax()]], np.asarray(face.pose)
                    found.setdefault(name, []).append(pair)
    return {name: (np.array([p for p, _ in pairs]), np.array([p for _, p in pairs])) for name, pairs in found.items()}


def compare(name: str, points: Floats, pose: Floats) -> None:
    """A line an angle: the pose of ``points`` (N, P, 2) against ``pose`` (N, 3)."""
    found = pose_from_points(points)
    for i, angle in enumerate(ANGLES):
        one = fit(found[:, i], pose[:, i])
        click.echo(
            f"{name} of {len(pose)} faces, {angle:<5} error {one.error:.2f} degrees (a constant "
            f"{one.constant_error:.2f}), correlation {one.correlation:.3f}, slope {one.slope:.2f}"
        )


@click.command(help=__doc__)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A set with 68 points and head poses.")
@click.option("--model", help="Compare the pose of this model's points.")
def main(data: Path, model: str | None) -> None:
    if model is not None:
        for name, (points, pose) in found_by(model, data).items():
            compare(name, points, pose)
        return
    face = mean_face(*annotated(data, "train"))
    rows = [f"({x:.3f}, {y:.3f}, {z:.3f}),".replace("-0.000", "0.000") for x, y, z in face]
    for start in range(0, len(rows), 4):
        click.echo("    " + " ".join(rows[start:start + 4]))
    points, pose = annotated(data, "dev")
    for name, given in (("68 points", points), ("5 points", five_of_68(points))):
        compare(name, given, pose)


if __name__ == "__main__":
    main()
