"""MaskFace's network: what is deployed equals what is trained, its keypoint loss, and both engines in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edgeface.convert import convert
from torch import Tensor
from torch.nn import functional as F

import edgeface
from edgeface.bundle import DenseStage, FaceStage, Heatmaps, Regions, inconsistency, read_bundle
from edgeface.cli import main
from edgeface.errors import OptionError
from edgeface.faces import Faces
from edgeface.images import write_image
from edgeface.int8.modules import Point, points
from edgeface.matching import match
from edgeface.models.backbones.mobilenetv2 import MobileNetV2
from edgeface.models.deploy import deploy
from edgeface.models.family import families
from edgeface.models.keypoints import KeypointHead, as_convolution, fine_heatmaps, keypoint_loss
from edgeface.models.maskface import FORMS, MaskFace, maskface
from edgeface.models.maskface_export import dense_outputs, heatmaps_of
from edgeface.runtime.decode.heatmaps import heatmap_points
from edgeface.runtime.engines import RawMap
from lively_maskface import SMALL, lively_maskface, pictures, regions, save_int8_maskface, save_lively_maskface
from lively_mos import scenes

FORMS_TO_TRY: list[dict[str, Any]] = [
    {}, {"pyramid": "published", "upsampling": "deconvolution", "points": 5, "margin": 1.0},
]


@pytest.mark.parametrize("options", FORMS_TO_TRY)
def test_the_deployed_network_gives_what_the_trained_one_gives(options: dict[str, Any]) -> None:
    net, x = lively_maskface(**options), pictures()
    deployed = deploy(net).eval()
    assert isinstance(deployed, MaskFace)
    assert deployed.channels == net.channels == 8
    with torch.no_grad():
        (own, own_maps), (other, other_maps) = net.all_maps(x), deployed.all_maps(x)
        assert len(own_maps) == len(other_maps) == len(net.form.region_strides)
        for one, two in zip([*own_maps, *(m[k] for m in own for k in m)],
                            [*other_maps, *(m[k] for m in other for k in m)], strict=True):
            torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-4)
        inside = regions(net, x)
        torch.testing.assert_close(deployed.keypoints(inside), net.keypoints(inside), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_the_maps_have_the_strides_and_channels_that_the_stages_say(name: str) -> None:
    net, x = lively_maskface(pyramid=name), pictures()
    form, (height, width) = FORMS[name], x.shape[2:]
    with torch.no_grad():
        levels, maps = net.all_maps(x)
        out = net(x)
    anchors = len(form.sides[0])
    for level, stride, score in zip(levels, form.strides, out.score, strict=True):
        assert level["score"].shape[1:] == (anchors, height // stride, width // stride)
        assert level["box"].shape[1:] == (4 * anchors, height // stride, width // stride)
        torch.testing.assert_close(score[:, 1::2] - score[:, ::2], level["score"])
    assert [tuple(each.shape[1:]) for each in maps] == [
        (8, height // stride, width // stride) for stride in form.region_strides
    ]
    stages = families.get("maskface").stages(lambda stem: [stem], {**SMALL, "pyramid": name}, {})
    assert isinstance(stages[0], DenseStage)
    assert [each.name for each in stages[0].features] == list(dense_outputs(form))[-len(maps) :]
    assert all(each.channels == 8 for each in stages[0].features)


def test_the_anchors_are_the_paper_s() -> None:
    sides = [side for level in FORMS["published"].sides for side in level]
    assert len(sides) == 15
    np.testing.assert_allclose(sides, [16 * 2 ** (i / 3) for i in range(15)], atol=0.01)
    # The light pyramid has the same ones on three levels, and an octave more.
    assert [side for level in FORMS["light"].sides for side in level][:15] == sides


def test_the_finest_features_are_the_sum_of_what_can_be_kept() -> None:
    net, x = lively_maskface(), pictures()
    assert net.detail is not None
    with torch.no_grad():
        _, maps = net.all_maps(x)
        (coarse, trunk), *others = net.parts_of_regions(x)
        torch.testing.assert_close(coarse + net.detail(trunk), maps[0])
    assert [len(each) for each in others] == [1, 1, 1]


def test_a_deconvolution_is_a_convolution_to_four_channels_a_point() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(3, 5, 4, 4), torch.randn(2, 3, 14, 14)
    expected = F.conv_transpose2d(x, weight, stride=2, padding=1)
    found = F.pixel_shuffle(F.conv2d(x, as_convolution(weight), padding=1), 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_board_finds_the_peak_that_the_loss_was_trained_with() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 20, 14, 14) * 4
    fine = fine_heatmaps(maps)
    assert fine.shape == (1, 5, 56, 56)
    best = fine[0].flatten(1).argmax(1)
    cells = torch.stack((best % 56, best // 56), 1).float() + 0.5
    found = heatmap_points(RawMap(maps[0].numpy()), heatmaps_of(5))
    # The sub-pixel peak is within the cells about the highest one.
    assert np.abs(found * 56 - cells.numpy()).max() < 4


def test_the_loss_is_the_cross_entropy_over_the_cells() -> None:
    maps = torch.zeros(2, 20, 14, 14)
    points = torch.full((2, 5, 2), torch.nan)
    points[0, 0] = torch.tensor([0.5, 0.25])
    points[1, 3] = torch.tensor([1.2, 0.5])         # outside of the region: no cell is its
    assert keypoint_loss(maps, points).item() == pytest.approx(np.log(56 * 56), rel=1e-5)
    assert keypoint_loss(maps, points * torch.nan).item() == 0.0
    sharp: Tensor = torch.zeros(2, 5, 28, 28)
    sharp[0, 0, 7, 14] = 60.0
    # A cell of 28 x 28 is four of 56 x 56.
    assert keypoint_loss(F.pixel_unshuffle(sharp, 2), points).item() == pytest.approx(np.log(4), rel=1e-3)


def test_a_head_learns_where_its_points_are() -> None:
    torch.manual_seed(0)
    head = KeypointHead(2, 8, 2, 5, "shuffle")
    regions = torch.zeros(24, 2, 14, 14)
    places = torch.rand(24, 2) * 0.7 + 0.15
    rows, columns = (places[:, i] * 14 - 0.5 for i in (1, 0))
    y, x = torch.arange(14.0)[:, None], torch.arange(14.0)[None]
    regions[:, 0] = torch.exp(-((y - rows[:, None, None]) ** 2 + (x - columns[:, None, None]) ** 2) / 2)
    points = places[:, None].expand(24, 5, 2)
    optimiser = torch.optim.Adam(head.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = keypoint_loss(head(regions), points)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 3
    with torch.no_grad():
        found = np.stack([heatmap_points(RawMap(maps.numpy()), heatmaps_of(5)) for maps in head.eval()(regions)])
    assert np.abs(found - points.numpy()).mean() < 0.05


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pyramid": "p2"}, "no pyramid 'p2': choose light or published"),
        ({"points": 19}, "19 points"),
        ({"channels": 10}, "channels multiples of 4"),
        ({"margin": 0.0}, "margin"),
        ({"head_depth": 0}, "a head of 0 layers"),
        ({"upsampling": "nearest"}, "no upsampling 'nearest': choose shuffle or deconvolution"),
        ({"width": -1.0}, "no MobileNetV2 of width -1.0"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        maskface(**options)


def test_a_trunk_with_a_finer_map_has_the_same_weights() -> None:
    torch.manual_seed(0)
    plain, finer = MobileNetV2(0.35).eval(), MobileNetV2(0.35, finest=4).eval()
    finer.load_state_dict(plain.state_dict())
    assert finer.channels[1:] == plain.channels
    with torch.no_grad():
        first, *others = finer(pictures())
        assert first.shape[1:] == (finer.channels[0], 32, 48)
        for one, two in zip(others, plain(pictures()), strict=True):
            torch.testing.assert_close(one, two)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float and a quantised checkpoint, and two pictures."""
    where = tmp_path_factory.mktemp("maskface")
    save_lively_maskface(where / "float.pt")
    save_int8_maskface(where / "int8.pt")
    for i, scene in enumerate(scenes(2)):
        (where / "pictures").mkdir(exist_ok=True)
        write_image(where / "pictures" / f"{i}.png", scene)
    return where


@pytest.mark.parametrize("engine", ["ncnn", "tflite"])
def test_int8_is_the_same_to_the_last_bit(folder: Path, engine: str) -> None:
    pytest.importorskip({"ncnn": "ncnn", "tflite": "ai_edge_litert"}[engine])
    out = folder / f"int8-{engine}"
    done = convert(folder / "int8.pt", engine, out=out, pictures=folder / "pictures", size_px=160)
    assert done.report.passed
    (size,) = done.report.sizes
    assert [each.sqnr_db for each in size.maps] == [None] * 11      # equal
    faces = size.faces
    assert faces is not None
    assert faces.reference > 0
    assert faces.matched == faces.reference
    assert faces.landmark_difference == 0.0
    bundle = read_bundle(out)
    assert inconsistency(bundle) is None
    stage = bundle.stages[1]
    assert isinstance(stage, FaceStage)
    assert isinstance(stage.gather, Regions)
    assert isinstance(stage.outputs[0], Heatmaps)


@pytest.mark.parametrize("engine", ["ncnn", "tflite"])
def test_float_bundles_find_the_network_s_points(folder: Path, engine: str) -> None:
    pytest.importorskip({"ncnn": "ncnn", "tflite": "ai_edge_litert"}[engine])
    out = folder / f"float-{engine}"
    convert(folder / "float.pt", engine, precision="fp32", out=out, pictures=folder / "pictures", size_px=160)
    own, other = (edgeface.load(each, size=160, score=0.5) for each in (folder / "float.pt", out))
    for scene in scenes(2):
        found: list[Faces] = [own(scene), other(scene)]
        pairs = match(found[0].boxes, found[1].boxes, 0.95)
        assert len(pairs) == len(found[0]) > 0
        ones, others = (np.asarray(faces.landmarks68) for faces in found)
        apart = [np.abs(ones[pair.one] - others[pair.other]).max(1) for pair in pairs]
        # An untrained heatmap has peaks of one height, which rounding decides between.
        assert np.quantile(np.concatenate(apart), 0.98) < 0.2


def test_it_is_quantised_by_calibration_alone(folder: Path, tmp_path: Path) -> None:
    command = ["quantize", str(folder / "float.pt"), "--data", str(tmp_path), "--out", str(tmp_path / "out.pt")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert result.output.endswith("maskface is only calibrated here: add --calibrate-only\n")


def test_levels_that_share_a_head_share_the_scale_of_what_it_reads(folder: Path) -> None:
    deployed = deploy(lively_maskface())
    names = [name for name, each in points(deployed) if name.endswith("features") and isinstance(each, Point)]
    assert names == ["context.0.features"]
