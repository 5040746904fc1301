"""MOS-S in torch: shapes, anchors, the fold of the multi-task head, and the pose head at kept anchors."""

from __future__ import annotations

import pytest
import torch

from edgeface.errors import OptionError, UnknownModelError
from edgeface.models import families
from edgeface.models.backbones.shufflenetv2 import ShuffleNetV2, channel_shuffle
from edgeface.models.mos import ANCHOR_SIZES, MOS, POSE_BINS, STRIDES, gather_patches, pose_degrees
from edgeface.models.multitask import MultiTaskHead
from edgeface.training.assign import anchor_grid


@pytest.mark.parametrize(("width", "channels"), [("0.5x", (48, 96, 192)), ("1.0x", (116, 232, 464))])
def test_backbone_gives_strides_8_16_32(width: str, channels: tuple[int, ...]) -> None:
    net = ShuffleNetV2(width)
    maps = net(torch.zeros(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(channels, STRIDES, strict=True)
    ]
    assert net.channels == channels


def test_unknown_width_names_the_choices() -> None:
    with pytest.raises(OptionError, match=r"0\.5x, 1\.0x"):
        ShuffleNetV2("2x")


def test_channel_shuffle_interleaves_the_halves() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert channel_shuffle(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_raw_maps_have_the_papers_anchors() -> None:
    net = families.get("mos_s").build(width="0.5x").eval()
    assert isinstance(net, MOS)
    with torch.inference_mode():
        out = net(torch.zeros(1, 3, 640, 640))
    sides = [(m.shape[2], m.shape[3]) for m in out.score]
    assert sides == [(80, 80), (40, 40), (20, 20)]
    assert [m.shape[1] for m in (out.score[0], out.box[0], out.landmarks[0])] == [4, 8, 20]
    # mos.txt, section 4.1: 640x640 leads to 16,800 anchors.
    grid = anchor_grid(640, 640, STRIDES, ANCHOR_SIZES)
    assert len(grid.anchors) == 16800 == 2 * sum(h * w for h, w in sides)
    assert grid.level_sizes == (12800, 3200, 800)
    assert grid.anchors[0].tolist() == [4, 4, 16]
    assert grid.anchors[1].tolist() == [4, 4, 32]
    assert grid.anchors[2].tolist() == [12, 4, 16]
    assert grid.anchors[-1].tolist() == [624, 624, 512]


def test_multitask_head_folds_into_one_convolution_a_task() -> None:
    torch.manual_seed(0)
    head = MultiTaskHead(16, {"score": 4, "box": 8, "landmarks": 20, "pose": 0})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(2, 16, 5, 7)
    for task in head.tasks:
        drawn, folded = head.unfolded(x, task), head.task(x, task)
        assert drawn.shape == folded.shape
        scale = drawn.abs().max()
        assert (drawn - folded).abs().max() / scale < 1e-5


def test_cross_stitch_has_a_weight_a_task_pair_and_channel() -> None:
    head = MultiTaskHead(8, {"score": 4, "box": 8})
    assert head.stitch.shape == (2, 2, 8)
    x = torch.randn(1, 8, 3, 3)
    before = head.task(x, "score")
    with torch.no_grad():
        head.stitch[0, 1, 5] += 1.0
    assert not torch.allclose(before, head.task(x, "score"))


def test_patches_are_the_neighbourhood_with_zeros_outside() -> None:
    features = torch.arange(1.0, 13.0).view(1, 1, 3, 4)
    index = torch.zeros(2, dtype=torch.int64)
    patches = gather_patches(features, index, torch.tensor([1, 0]), torch.tensor([2, 0]))
    assert patches.shape == (1, 1, 3, 6)
    assert patches[0, 0, :, :3].tolist() == [[2, 3, 4], [6, 7, 8], [10, 11, 12]]
    assert patches[0, 0, :, 3:].tolist() == [[0, 0, 0], [0, 1, 2], [0, 5, 6]]


def test_pose_at_kept_anchors_equals_pose_on_the_whole_map() -> None:
    torch.manual_seed(1)
    net = families.get("mos_s").build(width="0.5x").eval()
    assert isinstance(net, MOS)
    features = torch.randn(2, 64, 6, 5)
    stitched = net.heads[1].task(features, "pose")
    first = net.pose_head.patch
    hidden = torch.relu(torch.nn.functional.conv2d(stitched, first.weight, first.bias, padding=1))
    dense = net.pose_head.bins(torch.relu(net.pose_head.mix(hidden)))
    image, row, col = torch.tensor([0, 1, 1]), torch.tensor([0, 5, 3]), torch.tensor([4, 0, 2])
    kept = net.pose(features, 1, image, row, col)
    assert kept.shape == (3, 3, POSE_BINS)
    expected = dense[image, :, row, col].view(3, 3, POSE_BINS)
    assert torch.allclose(kept, expected, atol=1e-4)


def test_a_certain_bin_gives_its_centre() -> None:
    logits = torch.full((2, POSE_BINS), -50.0)
    logits[0, 0] = logits[1, 33] = 50.0
    # Bins of 3 degrees from -99: the first is centred at -97.5, the 34th at 1.5.
    assert pose_degrees(logits).tolist() == pytest.approx([-97.5, 1.5], abs=1e-4)


def test_unknown_model_names_the_choices() -> None:
    with pytest.raises(UnknownModelError, match=r"Did you mean 'mos_s'\?"):
        families.get("mos-s")
