"""Anchor assignment and regression targets against hand-made cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeface.models.mos import ANCHOR_SIZES, STRIDES
from edgeface.training.assign import BACKGROUND, IGNORED, anchor_grid, assign, encode, pairwise_overlap


def matched(
    boxes: list[list[float]], ignore: list[bool] | None = None, complete: bool = True, min_anchors: int = 0
) -> tuple[Tensor, Tensor]:
    anchors = anchor_grid(128, 128, STRIDES, ANCHOR_SIZES).anchors
    flags = torch.tensor(ignore if ignore is not None else [False] * len(boxes), dtype=torch.bool)
    found = assign(
        anchors, torch.tensor(boxes).view(-1, 4), flags, complete,
        positive_iou=0.35, negative_iou=0.3, min_anchors=min_anchors,
    )
    return anchors, found


def test_overlap_of_an_anchor_with_itself_and_a_quarter() -> None:
    anchors = torch.tensor([[16.0, 16.0, 32.0]])
    iou, cover = pairwise_overlap(anchors, torch.tensor([[0.0, 0, 32, 32], [0, 0, 16, 16], [40, 40, 50, 50]]))
    assert iou[0].tolist() == pytest.approx([1, 0.25, 0])
    assert cover[0].tolist() == pytest.approx([1, 0.25, 0])


def test_an_anchor_on_a_face_takes_it_and_far_ones_are_background() -> None:
    anchors, found = matched([[4, 4, 20, 20]])          # exactly the 16 px anchor centred at (12, 12)
    exact = ((anchors == torch.tensor([12.0, 12.0, 16.0])).all(1)).nonzero().item()
    assert found[int(exact)] == 0
    assert found[-1] != 0
    far = ((anchors[:, 0] > 60) & (anchors[:, 2] == 16)).nonzero()
    assert (found[far] == BACKGROUND).all()


def test_no_face_means_background_or_nothing() -> None:
    assert (matched([])[1] == BACKGROUND).all()
    assert (matched([], complete=False)[1] == IGNORED).all()


def test_an_incomplete_picture_has_no_background() -> None:
    _, found = matched([[4, 4, 20, 20]], complete=False)
    assert set(found.tolist()) == {IGNORED, 0}


def test_ignored_faces_are_neither() -> None:
    anchors, found = matched([[4, 4, 20, 20]], ignore=[True])
    assert (found != 0).all()
    inside = ((anchors == torch.tensor([12.0, 12.0, 16.0])).all(1)).nonzero().item()
    assert found[int(inside)] == IGNORED


def test_a_tiny_face_gets_its_anchors_by_scale_compensation() -> None:
    # 6x6 px: its best IoU with a 16 px anchor is 36 / 256.
    assert (matched([[57, 57, 63, 63]])[1] != 0).all()
    anchors, found = matched([[57, 57, 63, 63]], min_anchors=3)
    taken = anchors[found == 0]
    assert len(taken) == 3
    assert [60.0, 60.0, 16.0] in taken.tolist()         # the nearest centre
    assert (taken[:, 2] == 16).all()


def test_every_face_of_a_dense_row_keeps_its_nearest_anchor() -> None:
    boxes = [[float(x), 56, float(x) + 7, 63] for x in range(8, 104, 8)]
    _, found = matched(boxes, min_anchors=3)
    assert set(range(len(boxes))) <= set(found.tolist())


def test_encoding_is_what_decoding_inverts() -> None:
    anchors = torch.tensor([[20.0, 30.0, 16.0]])
    boxes = torch.tensor([[10.0, 20.0, 42.0, 28.0]])
    landmarks = torch.tensor([[20.0, 30, 28, 30, 20, 38, 12, 30, 20, 22]])
    box, points = encode(anchors, boxes, landmarks, (0.1, 0.2))
    # Centre (26, 24): offsets (6, -6) / 1.6; sides 32 and 8: log(2) / .2 and log(.5) / .2.
    assert box[0].tolist() == pytest.approx([3.75, -3.75, 3.4657, -3.4657], abs=1e-3)
    assert points[0].tolist() == pytest.approx([0, 0, 5, 0, 0, 5, -5, 0, 0, -5])
