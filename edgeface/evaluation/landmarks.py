"""Landmark error, of five points and of 68: NME by the inter-ocular distance, its distribution (CED) and AUC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face
from edgeface.evaluation.fit import Fit, fit
from edgeface.evaluation.locate import locate
from edgeface.faces import Faces

LIMIT_PERCENT = 10.0
CED_STEP_PERCENT = 1.0


@dataclass(frozen=True)
class LandmarkReport:
    """Errors in percent of the distance between the eyes, of 68 points between their outer corners; shares in 0..1.

    ``faces`` were asked for, ``found`` of them were detected. ``nme_percent``, ``median_percent`` and ``over_10_share``
    are over the found faces, None where none was found; ``failure_share`` is over all faces, and a face not found is a
    failure, as is one over 10 %. ``auc_10`` is the area under the CED up to 10 %, divided by 10 %, over all faces.
    ``ced`` lists (error in percent, share of all faces at or below it). ``nose_ratio`` compares the found faces' nose
    height between eyes and mouth (``nose_ratios``) with the annotated one, which says whether the points follow the
    pitch of the head or are a mean face laid into the box; None where no face has such a ratio, and of 68 points.
    """

    faces: int
    found: int
    missed_share: float
    nme_percent: float | None
    median_percent: float | None
    over_10_share: float | None
    failure_share: float
    auc_10: float
    ced: list[tuple[float, float]]
    nose_ratio: Fit | None = None


def nme(predicted: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean point distance over the inter-ocular distance of ``truth``, for (N, 5, 2) points each: (N,) in 0...

    The eyes are points 0 and 1. Raises ValueError where an annotated pair of eyes coincides.
    """
    eyes_px = np.linalg.norm(truth[:, 0].astype(np.float64) - truth[:, 1], axis=1)
    if not (eyes_px > 0).all():
        raise ValueError("a face's annotated eyes coincide: its error has no unit")
    return np.asarray(np.linalg.norm(predicted.astype(np.float64) - truth, axis=2).mean(axis=1) / eyes_px)


def nme68(predicted: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """As ``nme`` of 68 points (N, 68, 2): the unit is the distance between the outer eye corners, points 36 and 45, as
    300-W has it. Raises ValueError where these coincide."""
    corners_px = np.linalg.norm(truth[:, 36].astype(np.float64) - truth[:, 45], axis=1)
    if not (corners_px > 0).all():
        raise ValueError("a face's annotated eye corners coincide: its error has no unit")
    return np.asarray(np.linalg.norm(predicted.astype(np.float64) - truth, axis=2).mean(axis=1) / corners_px)


def nose_ratios(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Where the nose tip is on the line from the middle of the eyes (0) to the middle of the mouth (1): (N,).

    ``points`` are (N, 5, 2). It falls as the head looks up, and turning the picture leaves it as it is. NaN where the
    two middles are one point.
    """
    eyes, mouth = points[:, :2].astype(np.float64).mean(axis=1), points[:, 3:].astype(np.float64).mean(axis=1)
    down = mouth - eyes
    along, length = ((points[:, 2] - eyes) * down).sum(axis=1), (down**2).sum(axis=1)
    ratios: NDArray[np.float64] = np.divide(along, length, out=np.full(len(points), np.nan), where=length > 0)
    return ratios


def auc(errors_percent: NDArray[np.float64], limit_percent: float) -> float:
    """Area under the CED from 0 to the limit, divided by the limit: 0..1; an infinite error is a face not found.

    Exact, not sampled: each face adds the share of the range in which its error is already covered.
    """
    return float(np.clip(1 - errors_percent / limit_percent, 0, 1).mean())


def evaluate_landmarks(faces: Sequence[tuple[Face, Faces]], points: Literal[5, 68] = 5) -> LandmarkReport:
    """NME of 5 or 68 ``points`` over annotated faces (not teacher's), each with its picture's detections.

    The detection evaluated is the one that ``locate`` finds. Raises ValueError when there are no faces, when one has
    no landmarks, or when a found one's detector gives none.
    """
    if not faces:
        raise ValueError("evaluate_landmarks needs at least one face")
    name, error = ("landmarks", nme) if points == 5 else ("landmarks68", nme68)
    predicted, truth = [], []
    for face, found in faces:
        index = locate(found, face)
        if index is None:
            continue
        said, known = getattr(found, name), getattr(face, name)
        if said is None or known is None:
            raise ValueError("evaluate_landmarks needs landmarks on both sides")
        predicted.append(said[index])
        truth.append(known)
    errors = 100 * error(np.array(predicted), np.array(truth)) if predicted else np.empty(0)
    everyone = np.concatenate([errors, np.full(len(faces) - len(errors), np.inf)])
    steps = np.arange(CED_STEP_PERCENT, LIMIT_PERCENT + CED_STEP_PERCENT / 2, CED_STEP_PERCENT)
    any_found = len(errors) > 0
    return LandmarkReport(
        faces=len(faces),
        found=len(errors),
        missed_share=1 - len(errors) / len(faces),
        nme_percent=float(errors.mean()) if any_found else None,
        median_percent=float(np.median(errors)) if any_found else None,
        over_10_share=float((errors > LIMIT_PERCENT).mean()) if any_found else None,
        failure_share=float((everyone > LIMIT_PERCENT).mean()),
        auc_10=auc(everyone, LIMIT_PERCENT),
        nose_ratio=_nose_fit(np.array(predicted), np.array(truth)) if predicted and points == 5 else None,
        ced=[(float(step), float((everyone <= step).mean())) for step in steps],
    )


def _nose_fit(predicted: NDArray[np.float32], truth: NDArray[np.float32]) -> Fit | None:
    said, true = nose_ratios(predicted), nose_ratios(truth)
    known = np.isfinite(said) & np.isfinite(true)
    return fit(said[known], true[known]) if known.any() else None
