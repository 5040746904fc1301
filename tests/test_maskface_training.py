"""MaskFace trained end to end on a few pictures: the detector, then its keypoint head on regions that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.data.sets import open_data
from edgeface.errors import DataError
from edgeface.mean_face import MIRRORED_68
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.maskface import FORMS, MaskFace
from edgeface.torch_engine import network_detector
from edgeface.training.config import Loss, default_config_path, load_config
from edgeface.training.dense import objective_of
from edgeface.training.keypoint_samples import Cutter, Drawing, KeypointSamples, _flipped, _target, read_faces
from edgeface.training.keypoints import HeadNet, errors
from edgeface.training.losses import focal
from edgeface.training.maskface import MaskFaceConfig
from edgeface.training.regions import region_features
from lively_maskface import SMALL, lively_maskface, pictures
from lively_mos import scenes
from tiny_data import one_face, write_tiny_data

OVERRIDES = (
    *(f"options.{name}={value}" for name, value in SMALL.items()), "options.points=5",
    "run.steps=2", "run.dev_pictures=1", "run.dev_size_px=128", "canvases=[{size_px=128, batch=2, share=1.0}]",
    "data.workers=0", "data.weights={wider=0.6, landmarks68=0.4}", "feedback.every_epochs=0",
    "keypoints.steps=3", "keypoints.batch=8", "keypoints.dev_every_steps=2", "keypoints.drawing.samples=12",
    "keypoints.drawing.sets={wider=0.5, landmarks68=0.5}",
)


def train(data: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, [
        "train", "maskface", "--data", str(data), "--out", str(out), "--cache", str(out.parent / "cache"),
        "--licence", "public domain", *OVERRIDES, *more,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("maskface_data") / "data", astronaut)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    out = tmp_path_factory.mktemp("maskface_run") / "run"
    result = train(data, out)
    assert result.exit_code == 0, result.output
    assert "keypoint_nme_percent" in result.output
    return out


def log_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_trains_the_detector_and_then_its_head(run: Path) -> None:
    checkpoint = load_checkpoint(run / "maskface.best.pt")
    assert checkpoint.metrics["keypoint_nme_percent"] > 0
    assert checkpoint.licence == "public domain"
    net, before = checkpoint.build(), load_checkpoint(run / "detector" / "maskface.best.pt").build()
    assert isinstance(net, MaskFace)
    trained = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])}
    assert {name.split(".")[0] for name in trained} == {"keypoints", "detail"}
    assert [entry["kind"] for entry in log_of(run / "keypoints")].count("dev") == 2
    samples = KeypointSamples.open(run / "keypoints" / "train")
    assert samples.trunk.shape == (12, 8, 14, 14)
    assert samples.points.shape == (12, 5, 2)


def test_a_run_that_has_ended_is_gone_on_with_to_the_same_weights(data: Path, run: Path) -> None:
    before = load_checkpoint(run / "maskface.best.pt").state
    result = train(data, run)
    assert result.exit_code == 0, result.output
    after = load_checkpoint(run / "maskface.best.pt").state
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_head_alone_begins_with_a_trained_detector(data: Path, run: Path, tmp_path: Path) -> None:
    detector = run / "detector" / "maskface.best.pt"
    result = train(data, tmp_path / "head", "--start-from", str(detector), 'parts=["keypoints"]')
    assert result.exit_code == 0, result.output
    own, other = (load_checkpoint(folder / "maskface.best.pt") for folder in (run, tmp_path / "head"))
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in own.state.items())
    assert "sha256" in other.made["started_from"]
    assert not (tmp_path / "head" / "detector").exists()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (['parts=["keypoints"]'], "needs --start-from, a MaskFace whose detector is trained"),
        (['parts=["nose"]'], "parts[0] has no value 'nose'. Its values are detector, keypoints"),
        (["parts=[]"], "parts must be detector, keypoints, or both"),
        (["loss.learn_weights=true"], "fixed weights"),
        (["keypoints.batches=3"], "has no key 'batches'. Did you mean 'batch'"),
        (["canvases=[{size_px=96, batch=2, share=1.0}]"], "multiple of 64"),
        (["keypoints.steps=0"], "keypoints.steps: Expected `int` >= 1"),
        (["keypoints.drawing.sets={nowhere=1.0}"], "has none of the sets nowhere: set keypoints.drawing.sets"),
    ],
)
def test_what_cannot_be_trained_is_refused(data: Path, tmp_path: Path, overrides: list[str], reason: str) -> None:
    result = train(data, tmp_path / "run", *overrides)
    assert result.exit_code != 0
    assert reason in result.output
    assert not (tmp_path / "run" / "detector" / "maskface.last.pt").exists()


def test_faces_without_so_many_points_are_refused_with_what_to_set(data: Path, tmp_path: Path) -> None:
    folder = open_data(data)
    with pytest.raises(DataError, match=r"no train face with 68 points: set keypoints\.drawing\.sets\.wider=0"):
        read_faces(folder, "wider", "train", 68, tmp_path, lambda items, _label, _total: items)
    faces = read_faces(folder, "wider", "train", 5, tmp_path, lambda items, _label, _total: items)
    assert len(faces.rows) == 4
    assert faces.rows[0][2].shape == (5, 2)


def test_a_cut_region_is_the_network_s_own_and_its_points_lie_in_it(data: Path, tmp_path: Path) -> None:
    faces = read_faces(open_data(data), "landmarks68", "train", 5, tmp_path, lambda items, _label, _total: items)
    net = lively_maskface(points=5)
    cutter = Cutter(net, Drawing({"landmarks68": 1.0}, samples=6))
    varied = cutter.varied({"landmarks68": faces}, lambda items, _label, _total: items)
    again = cutter.varied({"landmarks68": faces}, lambda items, _label, _total: items)
    np.testing.assert_array_equal(varied.trunk, again.trunk)
    assert len(varied) == 6
    assert ((varied.points > 0) & (varied.points < 1)).all()
    plain = cutter.plain(faces, 4, lambda items, _label, _total: items)
    assert len(plain) == 4
    assert (errors(HeadNet(net), plain, 5) > 0).all()
    # Of one face two regions that were moved apart have the points moved the other way.
    assert np.abs(varied.points[0] - varied.points[1]).max() > 1e-3


def test_regions_of_the_parts_are_those_of_the_finest_map() -> None:
    """What the head sees in training is what it sees on a board: RoIAlign and a linear 1x1 can be exchanged."""
    net, x = lively_maskface(points=5), pictures()[:1]
    gather = Cutter(net, Drawing({}))._gather
    boxes = np.array([[20, 10, 70, 80], [-20, -10, 30, 40], [10, 10, 180, 120]], np.float32)
    with torch.no_grad():
        _, maps = net.all_maps(x)
        (whole,) = region_features([[each] for each in maps], net.form.region_strides, boxes, gather)
        trunk, detail = region_features(net.parts_of_regions(x), net.form.region_strides, boxes, gather)
        assert net.detail is not None
        torch.testing.assert_close(trunk + net.detail(detail), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pyramid", FORMS)
def test_training_is_looked_at_by_the_detector_alone(pyramid: str) -> None:
    detector = network_detector(lively_maskface(pyramid=pyramid), size_px=192, score=0.5, nms_iou=0.4)
    found = detector(scenes(1)[0])
    assert len(found) > 0
    assert found.landmarks68 is None


def test_a_mirrored_face_has_its_points_where_they_belong() -> None:
    from edgeface.data.augment import Crop

    rng = np.random.default_rng(0)
    for order in ((1, 0, 2, 4, 3), MIRRORED_68):
        points = rng.uniform(0, 64, (len(order), 2)).astype(np.float32)
        crop = Crop(np.zeros((64, 64, 3), np.uint8), _target(np.array([8, 8, 40, 56], np.float32), points))
        flipped = _flipped(crop).targets
        np.testing.assert_allclose(flipped.boxes[0], [24, 8, 56, 56])
        np.testing.assert_allclose(flipped.landmarks[0], points[list(order)] * [-1, 1] + [64, 0])


def test_the_focal_loss_is_the_paper_s() -> None:
    logit, positive = torch.tensor([0.3, -1.0, 2.0, -4.0]), torch.tensor([True, True, False, False])
    p = torch.sigmoid(logit).double().numpy()
    expected = 0.25 * ((1 - p[:2]) ** 2 * -np.log(p[:2])).sum() + 0.75 * (p[2:] ** 2 * -np.log(1 - p[2:])).sum()
    assert focal(logit, positive).item() == pytest.approx(expected / 2, rel=1e-5)


def test_the_paper_s_objective_leaves_out_faces_that_no_anchor_comes_near() -> None:
    paper = Loss(
        "iou", "focal", "smooth_l1", positive_iou=0.5, negative_iou=0.3, min_anchors=1, learn_weights=False,
        start=(1.0, 1.0, 0.0, 0.0),
    )
    objective = objective_of(lively_maskface(points=5), paper, 25.0)
    total, losses, _ = objective(one_face(torch.tensor([[30.0, 30.0, 70.0, 80.0]])))
    assert total.item() == pytest.approx(float(losses["score"] + losses["box"]))
    assert min(losses.values()) > 0
    _, losses, _ = objective(one_face(torch.tensor([[30.0, 30.0, 36.0, 36.0]])))   # 36 px2 are under 0.4 of 16 x 16
    assert losses["box"].item() == 0.0


def test_the_configuration_is_whole() -> None:
    config = load_config(default_config_path("maskface"), (), MaskFaceConfig)
    assert config.parts == ("detector", "keypoints")
    assert config.keypoints.drawing.sets == {"landmarks68": 1.0}
    assert all(canvas.size_px % max(FORMS["published"].strides) == 0 for canvas in config.canvases)
