"""TFN's network: what is deployed equals what is trained, its forms, its losses, and both engines in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgeface.convert import convert

import edgeface
from edgeface.bundle import DenseStage, FaceStage, Joined, inconsistency, read_bundle
from edgeface.cli.model_lines import predicts
from edgeface.errors import ConversionError, OptionError
from edgeface.images import write_image
from edgeface.int8.network import Quantisation
from edgeface.matching import match
from edgeface.models.deploy import deploy
from edgeface.models.family import families
from edgeface.models.maskface import maskface
from edgeface.models.quantised import quantised
from edgeface.models.tfn import TFN, tfn
from edgeface.models.tfn_export import design_of, gather_of
from edgeface.training.region_losses import expected_years, region_losses
from edgeface.training.region_samples import Labels, regions_of
from lively_maskface import pictures
from lively_mos import scenes
from lively_tfn import SMALL, lively_tfn, regions, save_int8_tfn, save_lively_tfn

FORMS: list[dict[str, Any]] = [
    {}, {"landmarks": "heatmaps", "tasks": ["landmarks"]}, {"variant": "ormm"},
    {"trunk": "shufflenetv2", "width": 0.5, "attention": True},
]


@pytest.mark.parametrize("options", FORMS)
def test_the_deployed_network_gives_what_the_trained_one_gives(options: dict[str, Any]) -> None:
    net, x = lively_tfn(**options), pictures()
    deployed: Any = deploy(net).eval()
    # A deployed trunk may have its channels in another order, which its nets on regions know.
    layouts = dict(zip(net.trunk_strides, deployed.backbone.layouts, strict=True))
    with torch.no_grad():
        (own, own_maps), (other, other_maps) = net.all_maps(x), deployed.all_maps(x)
        assert list(own_maps) == list(other_maps) == list(net.design.strides)
        ordered = [each[:, layouts[stride]] for stride, each in own_maps.items()]
        for one, two in zip([*ordered, *(m[k] for m in own for k in m)],
                            [*other_maps.values(), *(m[k] for m in other for k in m)], strict=True):
            torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-4)
        own_regions, other_regions = regions(net, x), regions(deployed, x)
        for name in own_regions:
            one, two = net.regions[name](own_regions[name]), deployed.regions[name](other_regions[name])
            assert list(one) == list(two)
            for output in one:
                torch.testing.assert_close(two[output], one[output], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("variant", "groups"),
    [
        ("tfn", [("detection", (8, 16, 32), 7), ("landmarks", (8, 16), 14), ("attributes", (8, 16, 32), 7)]),
        ("srmm", [("detection", (16,), 7), ("landmarks", (16,), 14), ("attributes", (16,), 7)]),
        ("trmm", [("detection", (16,), 7), ("faces", (16,), 14)]),
        ("ormm", [("faces", (16,), 14)]),
    ],
)
def test_variants_share_nets_as_in_figure_5(variant: Any, groups: list[tuple[str, tuple[int, ...], int]]) -> None:
    net = tfn(**SMALL, variant=variant)
    assert [(group.name, group.strides, group.size) for group in net.design.groups] == groups
    # To mypy all that a ModuleDict holds is a Module.
    assert sum("score" in each.heads for each in net.regions.values()) == 1  # type: ignore[operator]  # Modules
    stages = families.get("tfn").stages(lambda stem: [stem], {**SMALL, "variant": variant}, {})
    assert isinstance(stages[0], DenseStage)
    assert [each.name for each in stages[0].features] == [f"trunk{stride}" for stride in net.design.strides]
    assert [each.channels for each in stages[0].features] == [net.trunk_channels[s] for s in net.design.strides]
    assert len(stages) == 1 + len(groups)


def test_every_map_of_a_region_has_the_scale_of_its_stride() -> None:
    form = design_of({**SMALL, "attribute_maps": [4, 32]})
    assert gather_of(form.groups[2]) == Joined(["trunk4", "trunk32"], [0.5, 1.5], 7, 2, 1.2)


def test_its_dense_stage_is_the_light_maskface_s_name_for_name() -> None:
    own = {name: each.shape for name, each in tfn(**SMALL).state_dict().items() if not name.startswith("regions.")}
    theirs = maskface(0.35, 8, head_channels=8, head_depth=1).state_dict()
    assert own == {name: theirs[name].shape for name in own}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"trunk": "resnet"}, "no trunk 'resnet': choose mobilenetv2, shufflenetv2, vgg16"),
        ({"trunk": "shufflenetv2", "width": 0.5, "landmark_maps": [4]}, r"\[4\]: choose some of 8, 16, 32"),
        ({"trunk": "shufflenetv2", "width": 0.35}, "no ShuffleNetV2 width '0.35x'"),
        ({"trunk": "vgg16", "width": 0.35}, "no VGG16 of width 0.35"),
        ({"variant": "fpn"}, "no variant 'fpn': choose tfn, srmm, trmm, ormm"),
        ({"landmarks": "points"}, "no landmarks 'points'"),
        ({"tasks": []}, "tasks .none.: choose some of detection, landmarks, attributes"),
        ({"tasks": ["pose"]}, "tasks pose"),
        ({"attribute_maps": [8, 64]}, r"attributes fuses maps of strides \[8, 64\]"),
        ({"scales": [1.0, 1.0]}, "scales are 4 numbers above 0"),
        ({"variant": "trmm", "landmarks": "heatmaps"}, "heatmaps need a net of their own, which trmm has not"),
        ({"share_before": 1.0}, "share_before is from 0 to below 1"),
        ({"channels": 10}, "channels are a multiple of 4"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        tfn(**options)


def test_the_paper_s_trunk_fuses_the_paper_s_maps_and_is_deployed() -> None:
    torch.manual_seed(0)
    net = tfn(**{**SMALL, "width": 1.0}, trunk="vgg16", tasks=["attributes"]).eval()
    assert [group.strides for group in net.design.groups] == [(4, 8, 16)]
    deployed, x = deploy(net), pictures()[:1, :, :64, :64]
    assert isinstance(deployed, TFN)
    with torch.no_grad():
        (own, own_maps), (other, other_maps) = net.all_maps(x), deployed.eval().all_maps(x)
    assert [each["score"].shape[2] for each in own] == [8, 4, 2]
    for one, two in zip([*own_maps.values(), own[2]["box"]], [*other_maps.values(), other[2]["box"]], strict=True):
        torch.testing.assert_close(two, one, atol=1e-3, rtol=1e-3)


def test_attention_weighs_the_joined_channels_and_has_no_int8_form() -> None:
    net, x = lively_tfn(attention=True, tasks=["attributes"]), pictures()
    (inside,) = regions(net, x).values()
    own: Any = net.regions["attributes"]
    with torch.no_grad():
        weighed = own.attention(inside)
    assert weighed.shape == inside.shape
    share = (weighed / inside)[inside.abs() > 1e-3]
    assert 0 < share.min() < share.max() < 1
    with pytest.raises(ConversionError, match=r"options\.attention=false"):
        quantised(net, Quantisation("absmax", trained=False, channel_multiple=1))


def test_what_is_not_known_of_a_face_costs_nothing() -> None:
    found = {
        "score": torch.zeros(3, 1, 1, 1), "box": torch.zeros(3, 4, 1, 1), "landmarks": torch.zeros(3, 136, 1, 1),
        "age": torch.zeros(3, 101, 1, 1), "gender": torch.zeros(3, 2, 1, 1), "ethnicity": torch.zeros(3, 7, 1, 1),
    }
    labels = Labels.unknown(3)
    assert {name: float(loss) for name, loss in region_losses(found, labels.rows(np.arange(3))).items()} == (
        dict.fromkeys(found, 0.0)
    )
    labels.gender[1], labels.ethnicity[2], labels.score[0] = 1, 6, 1
    labels.points[0] = 0.5
    losses = region_losses(found, labels.rows(np.arange(3)))
    assert float(losses["gender"]) == pytest.approx(np.log(2))
    assert float(losses["ethnicity"]) == pytest.approx(np.log(7))
    assert float(losses["score"]) == pytest.approx(np.log(2))
    assert float(losses["landmarks"]) == 0.0      # the middle of the region, which zeros are


def test_an_age_is_learned_from_years_and_from_bins() -> None:
    labels = Labels.unknown(2)
    labels.age[:] = (30, 30), (60, 69)
    logits = torch.zeros(2, 101, requires_grad=True)
    optimiser = torch.optim.Adam([logits], 0.5)
    for _ in range(80):
        loss = region_losses({"age": logits[:, :, None, None]}, labels.rows(np.arange(2)))["age"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    one, several = expected_years(logits.detach()).tolist()
    assert one == pytest.approx(30, abs=0.5)
    assert 60 <= several <= 69


def test_regions_are_cut_as_the_board_cuts_them() -> None:
    net = lively_tfn(tasks=["attributes"])
    (group,) = net.design.groups
    with torch.no_grad():
        maps = net.trunk_maps(pictures()[:1])
    found = regions_of(maps, group, np.array([[10, 10, 90, 100]], np.float32))
    assert found.shape == (1, net.region_channels(group), 7, 7)
    assert np.isfinite(found).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float and a quantised checkpoint, and two pictures."""
    where = tmp_path_factory.mktemp("tfn")
    save_lively_tfn(where / "float.pt")
    save_int8_tfn(where / "int8.pt")
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
    assert [each.sqnr_db for each in size.maps] == [None] * (9 + 6)      # equal
    faces = size.faces
    assert faces is not None
    assert faces.reference > 0
    assert faces.matched == faces.reference
    assert (faces.landmark_difference, faces.attribute_difference, faces.score_difference) == (0.0, 0.0, 0.0)
    bundle = read_bundle(out)
    assert inconsistency(bundle) is None
    assert [len(stage.outputs) for stage in bundle.stages if isinstance(stage, FaceStage)] == [2, 1, 3]
    assert "gender: female or male" in list(predicts(bundle))


def test_float_bundles_find_the_network_s_faces(folder: Path) -> None:
    pytest.importorskip("ncnn")
    out = folder / "float-ncnn"
    convert(folder / "float.pt", "ncnn", precision="fp32", out=out, pictures=folder / "pictures", size_px=160)
    own, other = (edgeface.load(each, size=160, score=0.5) for each in (folder / "float.pt", out))
    for scene in scenes(2):
        found = [own(scene), other(scene)]
        pairs = match(found[0].boxes, found[1].boxes, 0.95)
        assert len(pairs) == len(found[0]) > 0
        ages = [faces.classes["age"].expectation() for faces in found]
        for one, two, _ in pairs:       # an age has an expectation, which other classes may not have
            assert abs(float(ages[0][one] - ages[1][two])) < 0.05        # type: ignore[index]  # an age has one
    assert edgeface.load(out, classes=False)(scenes(1)[0]).classes == {}
