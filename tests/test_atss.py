"""ATSS against hand-made cases, its losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgeface.models.mos import ANCHOR_SIZES, STRIDES, VARIANCES
from edgeface.training.assign import BACKGROUND, IGNORED, anchor_grid, decode_boxes, encode, pairwise_overlap
from edgeface.training.atss import NEAR_COVER, NEAR_IOU, assign_atss
from edgeface.training.losses import box_iou, distance_iou, quality_focal

GRID = anchor_grid(256, 256, STRIDES, ANCHOR_SIZES)


def assigned(boxes: list[list[float]], ignore: list[bool] | None = None, complete: bool = True) -> Tensor:
    flags = torch.tensor(ignore if ignore is not None else [False] * len(boxes), dtype=torch.bool)
    return assign_atss(
        GRID.anchors, GRID.level_sizes, torch.tensor(boxes).view(-1, 4), flags, complete, candidates=18
    )


def test_the_anchors_of_a_face_are_those_above_mean_plus_deviation_of_its_candidates() -> None:
    face = torch.tensor([[100.0, 100.0, 130.0, 134.0]])
    found = assigned(face.tolist())
    iou, _ = pairwise_overlap(GRID.anchors, face)
    distance = torch.cdist(GRID.anchors[:, :2], (face[:, :2] + face[:, 2:]) / 2)[:, 0]
    candidates, start = [], 0
    for size in GRID.level_sizes:
        candidates += sorted(range(start, start + size), key=lambda k: float(distance[k]))[:18]
        start += size
    values = iou[candidates, 0]
    threshold = float(values.mean() + values.std())
    taken = torch.nonzero(found == 0).flatten().tolist()
    assert taken
    assert float(iou[taken].min()) >= threshold
    assert all(int(k) in candidates for k in taken)
    assert set(found.tolist()) == {0, BACKGROUND}


def test_a_face_of_any_size_has_an_anchor() -> None:
    for side in (3, 5, 8, 16, 40, 100, 200, 330):
        box = [128.0 - side / 2, 128.0 - 0.6 * side, 128.0 + side / 2, 128.0 + 0.6 * side]
        assert (assigned([box]) == 0).any(), side


def test_of_two_faces_an_anchor_takes_the_one_it_overlaps_more() -> None:
    boxes = torch.tensor([[60.0, 60.0, 92.0, 92.0], [80.0, 60.0, 112.0, 92.0]])
    found = assigned(boxes.tolist())
    iou, _ = pairwise_overlap(GRID.anchors, boxes)
    for face in (0, 1):
        mine = torch.nonzero(found == face).flatten()
        assert len(mine)
        assert bool((iou[mine, face] >= iou[mine, 1 - face]).all())


def test_a_close_up_is_background_about_its_face_and_nothing_elsewhere() -> None:
    face = torch.tensor([[70.0, 60.0, 180.0, 200.0]])
    found = assigned(face.tolist(), complete=False)
    iou, cover = pairwise_overlap(GRID.anchors, face)
    near = (iou[:, 0] >= NEAR_IOU) | (cover[:, 0] >= NEAR_COVER)
    assert (found == 0).any()
    assert set(found[near].tolist()) == {0, BACKGROUND}
    assert set(found[~near].tolist()) == {IGNORED}


def test_ignored_faces_are_neither() -> None:
    found = assigned([[60, 60, 100, 100]], ignore=[True])
    assert set(found.tolist()) == {BACKGROUND, IGNORED}
    _, cover = pairwise_overlap(GRID.anchors, torch.tensor([[60.0, 60, 100, 100]]))
    assert bool((found[cover[:, 0] > 0.9] == IGNORED).all())
    assert (assigned([]) == BACKGROUND).all()
    assert (assigned([], complete=False) == IGNORED).all()


def test_decoding_undoes_encoding() -> None:
    anchors = GRID.anchors[[10, 700, 2600]]
    boxes = torch.tensor([[10.0, 5, 40, 50], [80, 90, 140, 170], [-20, -30, 270, 300]])
    box, _ = encode(anchors, boxes, torch.zeros(3, 10), VARIANCES)
    assert torch.allclose(decode_boxes(anchors, box, VARIANCES), boxes, atol=1e-3)


def test_distance_iou_of_boxes_side_by_side() -> None:
    boxes, faces = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[10.0, 0, 20, 10]])
    assert box_iou(boxes, faces).item() == 0
    assert distance_iou(boxes, faces).item() == pytest.approx(1 + 100 / (400 + 100))
    assert distance_iou(boxes, boxes).item() == pytest.approx(0, abs=1e-6)


def test_quality_focal_loss_is_none_at_the_iou_and_passes_over_what_is_ignored() -> None:
    logit = torch.tensor([0.0, 2.0, -1.0])
    quality = torch.tensor([0.5, 0.0, 0.0])
    counted = torch.tensor([True, True, False])
    share = 1 / (1 + math.exp(-2.0))
    expected = share**2 * math.log(1 + math.exp(2.0))           # the first is at its target
    assert quality_focal(logit, quality, counted, 1, 2.0).item() == pytest.approx(expected, rel=1e-5)
