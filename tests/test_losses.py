"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from edgeface.models.mos import POSE_BINS
from edgeface.training.losses import UncertaintyWeights, mined_classification, pose_bin, pose_loss


def test_mining_keeps_three_negatives_a_positive_and_the_hardest() -> None:
    # Softmax losses of a background anchor with face logit x (background 0): log(1 + e^x).
    face_logits = [2.0, 3.0, 1.0, 0.0, -1.0, -5.0]
    logits = torch.tensor([[0.0, 4.0]] + [[0.0, x] for x in face_logits])
    positive = torch.tensor([True] + [False] * 6)
    expected = math.log(1 + math.exp(-4)) + sum(math.log(1 + math.exp(x)) for x in (3.0, 2.0, 1.0))
    assert mined_classification(logits, positive, ~positive, 3.0).item() == pytest.approx(expected, rel=1e-5)


def test_mining_passes_over_what_is_ignored() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 9.0], [0.0, 0.0]])
    positive, negative = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    assert mined_classification(logits, positive, negative, 3.0).item() == pytest.approx(2 * math.log(2), rel=1e-5)


def test_a_batch_without_faces_still_learns_background() -> None:
    logits = torch.zeros(10, 2)
    none = torch.zeros(10, dtype=torch.bool)
    assert mined_classification(logits, none, ~none, 3.0).item() == pytest.approx(3 * math.log(2), rel=1e-5)


def test_pose_bins_are_three_degrees_from_minus_99() -> None:
    angles = torch.tensor([-99.0, -96.1, -96.0, 0.0, 98.9, 150.0, -170.0])
    assert pose_bin(angles).tolist() == [0, 0, 1, 33, 65, 65, 0]


def test_pose_loss_is_cross_entropy_plus_a_thousandth_of_the_squared_error() -> None:
    # Uniform logits: cross-entropy log(66), expectation 0 degrees.
    logits = torch.zeros(1, 3, POSE_BINS)
    angles = torch.tensor([[10.0, -20.0, float("nan")]])
    expected = 2 * math.log(66) + 0.001 * (100 + 400)
    assert pose_loss(logits, angles, 0.001).item() == pytest.approx(expected, rel=1e-4)


def test_pose_loss_without_known_angles_is_nothing_with_a_gradient() -> None:
    logits = torch.zeros(2, 3, POSE_BINS, requires_grad=True)
    loss = pose_loss(logits, torch.full((2, 3), float("nan")), 0.001)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0


def test_uncertainty_weights_start_where_they_are_told() -> None:
    weights = UncertaintyWeights((2.0, 1.0, 1.0, 0.25), learn=True)
    assert weights.weights().tolist() == pytest.approx([2.0, 1.0, 1.0, 0.25])


def test_total_is_equation_7() -> None:
    weights = UncertaintyWeights((2.0, 1.0, 1.0, 0.25), learn=True)
    # 1/T^2 = 2, so T = 2^-.5; 1/(2 s^2) = 1, so s = 2^-.5; 1/(2 s^2) = .25, so s = 2^.5.
    logs = math.log(2**-0.5) * 3 + math.log(2**0.5)
    total = weights(torch.tensor([0.5, 1.0, 2.0, 4.0]))
    assert total.item() == pytest.approx(1.0 + 1.0 + 2.0 + 1.0 + logs, rel=1e-5)


def test_temperatures_settle_where_the_equation_has_its_minimum() -> None:
    weights = UncertaintyWeights((2.0, 1.0, 1.0, 0.25), learn=True)
    losses = torch.tensor([0.4, 2.0, 3.0, 8.0])
    optimiser = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(600):
        optimiser.zero_grad()
        weights(losses).backward()
        optimiser.step()
    # d/dT of L/T^2 + log T: T^2 = 2L; d/ds of L/(2 s^2) + log s: s^2 = L.
    assert weights.weights().tolist() == pytest.approx([1 / 0.8, 0.25, 1 / 6, 1 / 16], rel=0.02)


def test_a_share_is_what_a_task_counts_at_the_optimum() -> None:
    weights = UncertaintyWeights((2.0, 1.0, 1.0, 0.25), learn=True, shares=(1.0, 1.0, 3.0, 1.0))
    losses = torch.tensor([0.4, 2.0, 3.0, 8.0])
    optimiser = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(600):
        optimiser.zero_grad()
        weights(losses).backward()
        optimiser.step()
    assert (weights.weights() * losses).tolist() == pytest.approx([0.5, 0.5, 1.5, 0.5], rel=0.02)


def test_fixed_weights_do_not_train() -> None:
    weights = UncertaintyWeights((2.0, 1.0, 1.0, 0.25), learn=False)
    assert weights(torch.tensor([1.0, 1.0, 1.0, 4.0])).item() == pytest.approx(5.0)
    assert not any(p.requires_grad for p in weights.parameters())
