"""What T-CNN is trained on: labels of annotated faces, degradations, and the dev figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.data.annotations import Face, Picture
from edgeface.models.patch_nets import PatchOutput
from edgeface.training.patches.degrade import DEGRADATIONS, seen_at
from edgeface.training.patches.face_probe import Annotated, FaceProbe, Refinable, best_threshold, refine
from edgeface.training.patches.faces import framed, widened
from edgeface.training.patches.labels import MASK, QUALITY, SUNGLASSES, labels_of

WIDER: dict[str, Any] = {"blur": 0, "occlusion": 0, "atypical_pose": False}


def box(side: float) -> NDArray[np.float32]:
    return np.array([10, 10, 10 + 0.8 * side, 10 + side], np.float32)


def picture(*faces: Face, source: str | None = None) -> Picture:
    return Picture(Path("x.webp"), 640, 480, "train", True, faces, source, source_scale=1.6)


def label(face: Face, name: int, set_name: str, *, train: bool = True, source: str | None = None) -> float:
    return float(labels_of(picture(face, source=source), set_name, train=train)[0, name])


@pytest.mark.parametrize(
    ("face", "set_name", "wanted"),
    [
        (Face(mask="worn"), "masks", 1.0),
        (Face(mask="none"), "masks", 0.0),
        (Face(mask="incorrect"), "masks", math.nan),
        (Face(), "wider", math.nan),
        (Face(), "landmarks5", 0.0),
    ],
)
def test_mask_labels(face: Face, set_name: str, wanted: float) -> None:
    assert label(face, MASK, set_name) == pytest.approx(wanted, nan_ok=True)


def test_what_is_taken_for_granted_in_training_is_never_scored_on() -> None:
    assert label(Face(), MASK, "landmarks5", train=False) == pytest.approx(math.nan, nan_ok=True)
    assert label(Face(), SUNGLASSES, "attributes", train=False) == pytest.approx(math.nan, nan_ok=True)
    assert label(Face(), SUNGLASSES, "attributes") == 0


def test_clear_glasses_are_no_sunglasses_and_unknown_ones_are_neither() -> None:
    assert label(Face(eyeglasses=True, sunglasses=False), SUNGLASSES, "landmarks5") == 0
    assert label(Face(eyeglasses=False), SUNGLASSES, "landmarks5") == 0
    assert label(Face(eyeglasses=True), SUNGLASSES, "landmarks5") == pytest.approx(math.nan, nan_ok=True)
    assert label(Face(eyeglasses=True, sunglasses=True), SUNGLASSES, "landmarks5") == 1


@pytest.mark.parametrize(
    ("side_px", "fields", "wanted"),
    [
        (60, {}, 1.0),                              # 96 px at the source
        (45, {}, math.nan),                         # 72
        (12, {}, 0.0),                              # 19: tiny
        (60, {"blur": 1}, math.nan),
        (60, {"blur": 2}, 0.0),
        (60, {"occlusion": 2}, 0.0),
        (60, {"atypical_pose": True}, 0.0),
        (60, {"ignore": True}, math.nan),
    ],
)  # fmt: skip
def test_quality_of_wider_faces(side_px: float, fields: dict[str, Any], wanted: float) -> None:
    face = Face(box=box(side_px), **{**WIDER, **fields})
    assert label(face, QUALITY, "wider", train=False) == pytest.approx(wanted, nan_ok=True)


def test_quality_is_measured_at_the_size_that_the_source_has() -> None:
    at_source = Picture(Path("x.webp"), 640, 480, "train", True, (Face(box=box(60), **WIDER),))
    assert math.isnan(labels_of(at_source, "wider", train=True)[0, QUALITY])


def test_a_teachers_pose_counts_in_training_alone() -> None:
    away = Face(box=box(60), pose=np.array([0, 60, 0], np.float32), **WIDER)
    assert label(away, QUALITY, "wider") == 0
    assert label(away, QUALITY, "wider", train=False) == 1


def test_degradations_spoil_more_with_their_strength() -> None:
    rng = np.random.default_rng(0)
    patch = np.clip(rng.normal(128, 60, (48, 48, 3)), 0, 255).astype(np.uint8)
    for name, spoil in DEGRADATIONS.items():
        little, much = (
            float(np.abs(spoil(np.random.default_rng(1), patch, strength).astype(int) - patch).mean())
            for strength in (0.0, 1.0)
        )
        assert 0 < little < much, name


def test_a_patch_seen_small_keeps_its_means() -> None:
    patch = np.zeros((48, 48, 3), np.uint8)
    patch[:, 24:] = 200
    seen = seen_at(patch, 12)
    assert seen.shape == patch.shape
    assert abs(float(seen.mean()) - 100) < 1
    assert 0 < seen[24, 23, 0] < seen[24, 25, 0] < 200


def test_faces_are_framed_by_their_box_and_by_what_was_found_there() -> None:
    own = np.array([[10, 10, 50, 50], [np.nan] * 4], np.float32)
    found = np.array([[12, 8, 52, 54, 0.9], [200, 200, 240, 240, 0.95]], np.float32)
    first, nowhere = framed(own, found)
    assert np.array_equal(first, np.array([[10, 10, 50, 50], [12, 8, 52, 54]], np.float32))
    assert np.array_equal(nowhere, found[1:, :4])
    assert not len(framed(own, np.empty((0, 5), np.float32))[1])
    assert np.allclose(widened(own[:1], 1.5), [[0, 0, 60, 60]])


class Says(nn.Module):
    """Stands for a net: the logit of all it says is the mean of a patch's first channel, times 10."""

    def forward(self, x: torch.Tensor) -> PatchOutput:
        logit = 10 * x[:, 0].mean((1, 2))
        n = len(x)
        return PatchOutput(logit, torch.full((n, 4), 0.25), torch.zeros(n, 10), logit[:, None].repeat(1, 2), logit)


def patches(*levels: int) -> NDArray[np.uint8]:
    return np.stack([np.full((48, 48, 3), level, np.uint8) for level in levels])


def faces(labels: list[list[float]], sides_px: list[float], incorrect: list[bool], levels: list[int]) -> Annotated:
    n = len(levels)
    landmarks = np.full((n, 10), np.nan, np.float32)
    return Annotated(
        patches(*levels), np.array(labels, np.float32), landmarks, np.array(sides_px, np.float32), np.array(incorrect)
    )


def test_dev_figures_by_band_and_kind() -> None:
    nan = math.nan
    annotated = faces(
        [[1, nan, 1], [0, 1, 0], [1, 0, nan], [0, nan, nan], [nan, nan, nan]], [40, 40, 20, 20, 40],
        [False, False, False, False, True], [200, 50, 50, 50, 200],
    )  # fmt: skip
    probe = FaceProbe(annotated, (), (), ("mask", "sunglasses"))
    figures = probe.figures(Says())
    assert figures["mask_over_32"] == 1
    assert figures["mask_16_to_32"] == 0.5
    assert figures["mask_incorrect_as_worn"] == 1
    assert figures["sunglasses_balanced"] == 0.5
    assert figures["quality_auc"] == 1
    assert "nme_percent" not in figures
    assert set(probe.thresholds(Says())) == {"mask", "sunglasses", "quality"}


def test_refined_scores_are_means_and_boxes_move() -> None:
    found = np.array([[20, 20, 60, 60, 0.8], [100, 100, 140, 140, 0.9]], np.float32)
    squares = np.array([[16, 16, 48], [96, 96, 48]], np.int64)
    refined = refine(Says(), Refinable(picture(), squares, found, patches(255, 0)))
    assert np.allclose(refined.scores, [(0.8 + 1) / 2, 0.9 / 2], atol=1e-3)
    assert np.allclose(refined.boxes[0], [28, 28, 76, 76])


@pytest.mark.parametrize(
    ("scores", "truth", "low", "high"),
    [
        ([0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1], 0.5, 0.5),
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 0.2, 0.3),
        ([0.1, 0.9, 0.8, 0.95], [0, 0, 1, 1], 0.1, 0.95),
    ],
)
def test_the_threshold_is_where_the_balanced_accuracy_is_best(
    scores: list[float], truth: list[int], low: float, high: float
) -> None:
    threshold = best_threshold(np.array(scores, np.float32), np.array(truth, np.float32))
    assert low <= threshold <= high
