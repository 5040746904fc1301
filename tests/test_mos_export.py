"""MOS's export graphs compute what the network computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeface.bundle import Bins, DenseStage, FaceStage
from edgeface.errors import ConversionError
from edgeface.models.mos import MOS, POSE_BINS, STRIDES, gather_patches, pose_degrees
from edgeface.models.mos_export import dense_outputs, graphs, stages
from edgeface.models.multitask import MultiTaskHead
from edgeface.runtime.decode import bins
from edgeface.runtime.stages.dense import map_names
from lively_mos import lively_mos


@pytest.fixture(scope="module")
def net() -> MOS:
    net = lively_mos()
    with torch.no_grad():
        for head in net.heads:
            assert isinstance(head, MultiTaskHead)
            # At its start value the stitch treats all channels alike, which would hide a fold over the wrong axis.
            head.stitch.add_(torch.randn_like(head.stitch) * 0.1)
    return net


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal to 1e-5 of the largest value."""
    return actual.shape == expected.shape and float((actual - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_dense_graph_equals_the_paper_s_heads(net: MOS) -> None:
    x = torch.rand(2, 3, 96, 160) * 2 - 1
    with torch.inference_mode():
        expected = net(x)
        actual = dict(zip(dense_outputs(), graphs(net)[0].module(x), strict=True))
        for level, stride in enumerate(STRIDES):
            head = net.heads[level]
            assert isinstance(head, MultiTaskHead)
            features = expected.features[level]
            assert close(actual[f"features{stride}"], features)
            pairs = head.unfolded(features, "score")
            assert close(actual[f"score{stride}"], pairs[:, 1::2] - pairs[:, 0::2])
            assert close(actual[f"box{stride}"], head.unfolded(features, "box"))
            assert close(actual[f"landmarks{stride}"], head.unfolded(features, "landmarks"))


@pytest.mark.parametrize("level", range(len(STRIDES)))
@pytest.mark.parametrize("faces", [1, 3, 17])
def test_pose_graph_equals_the_unfolded_pose_head(net: MOS, level: int, faces: int) -> None:
    patches = torch.randn(1, net.channels, 3, 3 * faces)
    head = net.heads[level]
    assert isinstance(head, MultiTaskHead)
    with torch.inference_mode():
        actual = graphs(net)[1 + level].module(patches)
        expected = net.pose_head(head.unfolded(patches, "pose"))
    assert actual.shape == (1, 3 * POSE_BINS, 1, faces)
    assert close(actual, expected)


def test_pose_at_gathered_points_equals_the_pose_of_every_position(net: MOS) -> None:
    """The paper's pose head convolves the whole map with padding; here it sees patches, also over the map's edge."""
    height, width = 4, 5
    features = torch.randn(1, net.channels, height, width)
    head = net.heads[1]
    assert isinstance(head, MultiTaskHead)
    pose = net.pose_head
    with torch.inference_mode():
        first = nn.functional.conv2d(head.unfolded(features, "pose"), pose.patch.weight, pose.patch.bias, padding=1)
        everywhere = pose.bins(torch.relu(pose.mix(torch.relu(first))))
        row, column = (v.flatten() for v in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
        gathered = graphs(net)[2].module(gather_patches(features, torch.zeros_like(row), row, column))
        assert close(gathered[0, :, 0].reshape(-1, height, width), everywhere[0])
        assert close(net.pose(features, 1, torch.zeros_like(row), row, column).flatten(1), gathered[0, :, 0].t())


def test_stages_say_what_the_graphs_are(net: MOS) -> None:
    dense, pose = stages(lambda stem: [f"{stem}.net"])
    assert isinstance(dense, DenseStage)
    assert isinstance(pose, FaceStage)
    whole, *per_level = graphs(net)
    named = map_names(dense)
    assert dense.files == [f"{whole.stem}.net"]
    assert pose.files == [[f"{graph.stem}.net"] for graph in per_level]
    assert tuple(named) == whole.outputs
    assert (whole.input, per_level[0].input) == (dense.input, pose.input)
    assert list(per_level[0].outputs) == pose.output_names
    for graph in (whole, *per_level):
        with torch.inference_mode():
            outputs = graph.module(torch.zeros(graph.shapes[1]))
        assert len(outputs if isinstance(outputs, tuple) else (outputs,)) == len(graph.outputs)
        # A converter learns from the two shapes which dimensions are free.
        assert {i for i, (a, b) in enumerate(zip(*graph.shapes, strict=True)) if a != b} == set(graph.free)


def test_the_runtime_reads_pose_as_training_does() -> None:
    _, stage = stages(lambda stem: [stem])
    assert isinstance(stage, FaceStage)
    (output,) = stage.all_of(Bins)
    logits = torch.randn(7, 3, POSE_BINS)
    maps = np.ascontiguousarray(logits.reshape(7, -1).t().numpy()[:, None, :])
    assert np.allclose(bins.pose_degrees(maps, output), pose_degrees(logits).numpy(), atol=1e-3)


def test_another_network_has_no_graphs() -> None:
    with pytest.raises(ConversionError, match="Linear has no export graphs"):
        graphs(nn.Linear(1, 1))
