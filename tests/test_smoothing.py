"""The one-euro filter: what rests is calmer, what moves is not late."""

from __future__ import annotations

import numpy as np
import pytest

from edgeface.errors import OptionError
from edgeface.faces import Faces
from edgeface.stream.smoothing import Smoother, SmoothingOptions

RATE = 25
SIZE = 80.0


def one_face(shift_px: float, noise: np.ndarray, yaw_deg: float) -> Faces:
    points = np.array([(24, 32), (56, 32), (40, 48), (28, 64), (52, 64)], np.float32) + noise
    points[:, 0] += shift_px
    box = np.array([[shift_px, 0, shift_px + SIZE, SIZE]], np.float32)
    return Faces(box, np.ones(1, np.float32), points[None].astype(np.float32), np.array([[0, yaw_deg, 0]], np.float32))


def test_a_face_at_rest_jitters_less_than_half_as_much() -> None:
    rng = np.random.default_rng(0)
    smooth = Smoother(SmoothingOptions())
    before, after = [], []
    for i in range(200):
        faces = one_face(0.0, rng.normal(0, 0.8, (5, 2)), float(rng.normal(0, 1.0)))
        smoothed = smooth(faces, np.array([1]), i / RATE)
        assert smoothed.landmarks is not None
        assert faces.landmarks is not None
        assert smoothed.pose is not None
        assert faces.pose is not None
        before.append([*faces.landmarks.ravel(), faces.pose[0, 1]])
        after.append([*smoothed.landmarks.ravel(), smoothed.pose[0, 1]])
    steps = [np.abs(np.diff(np.array(values[20:]), axis=0)).mean(axis=0) for values in (before, after)]
    assert (steps[1] < 0.5 * steps[0]).all()


def test_a_face_that_moves_is_not_seen_late() -> None:
    smooth = Smoother(SmoothingOptions())
    for i in range(50):
        shift_px, yaw_deg = SIZE * i / RATE, 60.0 * i / RATE
        smoothed = smooth(one_face(shift_px, np.zeros((5, 2)), yaw_deg), np.array([1]), i / RATE)
    assert smoothed.landmarks is not None
    assert smoothed.pose is not None
    # A face size a second: one frame at 25 a second would be 4 % of the size.
    assert (40 + shift_px) - smoothed.landmarks[0, 2, 0] < 0.012 * SIZE
    assert yaw_deg - smoothed.pose[0, 1] < 1.0


def test_faces_do_not_mix_and_forgotten_ones_begin_anew() -> None:
    smooth = Smoother(SmoothingOptions())
    smooth(one_face(0.0, np.zeros((5, 2)), 0.0), np.array([1]), 0.0)
    other = smooth(one_face(300.0, np.zeros((5, 2)), 40.0), np.array([2]), 0.04)
    assert other.pose is not None
    assert other.pose[0, 1] == 40.0
    smooth.keep([2])
    again = smooth(one_face(500.0, np.zeros((5, 2)), -40.0), np.array([1]), 0.08)
    assert again.pose is not None
    assert again.pose[0, 1] == -40.0


def test_a_cut_off_that_is_not_over_zero_is_refused() -> None:
    with pytest.raises(OptionError, match="smoothing: "):
        SmoothingOptions(rest_hz=0.0)


def test_a_value_that_is_no_number_passes_and_is_forgotten() -> None:
    smooth = Smoother(SmoothingOptions())
    none = np.zeros((5, 2))
    for i, noise in enumerate((none + np.nan, none, none + np.nan, none)):
        smoothed = smooth(one_face(0.0, noise, 0.0), np.array([1]), i / RATE)
        assert smoothed.landmarks is not None
        assert np.isfinite(smoothed.landmarks).all() == (i % 2 == 1)
