"""TFN trained end to end on a few pictures: the dense stage, then its nets on regions that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.data.annotations import Face
from edgeface.data.apparent import ethnicity_of, gender_of, years_of
from edgeface.data.detection import DetectionSet, Draw, FeedbackState, read_sources
from edgeface.data.sets import open_data
from edgeface.errors import DataError
from edgeface.models.checkpoint import load_checkpoint, save_checkpoint
from edgeface.models.tfn import TFN, Task
from edgeface.runtime.engines import RawMap
from edgeface.runtime.roi import roi_align
from edgeface.torch_engine import network_detector
from edgeface.training.config import default_config_path, load_config
from edgeface.training.joint_samples import JointSet, TaskFaces, TiledCrop
from edgeface.training.region_samples import RegionSamples
from edgeface.training.region_sources import apparent, pointed
from edgeface.training.roi import aligned_regions
from edgeface.training.tfn import TFNConfig
from lively_maskface import save_lively_maskface
from lively_tfn import SMALL, lively_tfn
from tiny_data import FACE_BOX, write_set

OVERRIDES = (
    *(f"options.{name}={value}" for name, value in SMALL.items() if name != "scales"),
    "regions.steps=3", "regions.batch=8", "regions.dev_every_steps=2", "regions.landmarks.samples=6",
    "regions.attributes.samples=6", "regions.landmarks.dev_faces=2", "regions.attributes.dev_faces=2",
    "regions.proposals.pictures=2", "regions.proposals.dev_pictures=1", "regions.proposals.crop_px=128",
    "regions.proposals.sets={wider=1.0}", "joint.steps=2", "joint.epoch_steps=2", "joint.tile_px=[32, 64]",
    "canvases=[{size_px=128, batch=4, share=1.0}]", "run.dev_pictures=1", "run.dev_size_px=128", "data.workers=0",
)
NETS = 'parts=["detection", "landmarks", "attributes"]'


def train(data: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, [
        "train", "tfn", "--data", str(data), "--out", str(out), "--cache", str(out.parent / "cache"),
        "--licence", "public domain", *OVERRIDES, *more,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    """``wider``, ``landmarks68`` and ``attributes``, two training pictures and one dev picture each."""
    folder = tmp_path_factory.mktemp("tfn_data") / "data"
    scenes, crops, people = [], [], []
    crop = np.ascontiguousarray(astronaut[30:230, 120:320])
    angle = np.linspace(0, np.pi, 68)
    points = np.stack((100 + 45 * np.cos(angle), 60 + 70 * np.sin(angle)), 1).round(1).tolist()
    known: list[dict[str, Any]] = [
        {"age": 40, "gender": "female"}, {"age_bin": "30-39", "gender": "male", "race": "East Asian"},
        {"age": 33, "gender": "female", "race": "Black"},
    ]
    for i, face in enumerate(known):
        split = "dev" if i == 2 else "train"
        scene = cv2.resize(astronaut, (192, 192), interpolation=cv2.INTER_AREA).astype(np.uint8)
        box = [value * 192 / 512 for value in FACE_BOX]
        scenes.append((f"s{i}", scene, {"split": split, "complete": 1, "faces": [{"box": box, "subset": "easy"}]}))
        crops.append((f"c{i}", crop, {"split": split, "complete": 0, "faces": [{"landmarks68": points}]}))
        people.append((f"p{i}", cv2.resize(crop, (128, 128)), {"split": split, "complete": 0, "faces": [face]}))
    for name, rows in (("wider", scenes), ("landmarks68", crops), ("attributes", people)):
        write_set(folder / name, rows)  # type: ignore[arg-type]  # rows of three shapes of list
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MaskFace whose detector finds a face about everywhere, the middle of a picture too."""
    path = save_lively_maskface(tmp_path_factory.mktemp("tfn_start") / "maskface.pt", channels=8)
    checkpoint = load_checkpoint(path)
    checkpoint.state["heads.0.score.bias"].fill_(1.0)
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="module")
def run(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    out = tmp_path_factory.mktemp("tfn_run") / "run"
    result = train(data, out, "--start-from", str(start), NETS)
    assert result.exit_code == 0, result.output
    assert "gender_accuracy" in result.output
    return out


def test_the_trunk_learns_from_all_tasks_together(data: Path, start: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path / "run", "--start-from", str(start), 'parts=["joint"]')
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "run" / "tfn.best.pt")
    changed = {name for name, tensor in before.state.items() if not torch.equal(tensor, after.state.get(name, tensor))}
    assert {"backbone", "heads", "context"} <= {name.split(".")[0] for name in changed}
    assert not any(name.startswith(f"backbone.features.{number}.") for name in changed for number in range(4))
    assert {"ap_easy", "nme68_percent", "gender_accuracy", "age_error_years"} <= set(after.metrics)
    joint = load_checkpoint(tmp_path / "run" / "joint.pt")
    assert all(torch.equal(tensor, after.state[name]) for name, tensor in joint.state.items())
    log = [json.loads(line) for line in (tmp_path / "run" / "joint" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if entry["kind"] == "dev"] == [2]
    assert {"score", "box", "landmarks", "gender"} <= set(log[-1]["losses"])
    again = train(data, tmp_path / "run", "--start-from", str(start), 'parts=["joint"]')
    assert again.exit_code == 0, again.output
    assert len((tmp_path / "run" / "joint" / "log.jsonl").read_text().splitlines()) == len(log)


def test_a_run_from_a_maskface_trains_the_nets_on_regions_alone(data: Path, start: Path, run: Path) -> None:
    checkpoint, given = load_checkpoint(run / "tfn.best.pt"), load_checkpoint(start)
    net = checkpoint.build()
    assert isinstance(net, TFN)
    same = {name for name, tensor in given.state.items() if name in checkpoint.state}
    assert all(torch.equal(given.state[name], checkpoint.state[name]) for name in same)
    assert {name.split(".")[0] for name in set(checkpoint.state) - same} == {"regions"}
    assert {"nme68_percent", "age_error_years", "gender_accuracy", "ethnicity_accuracy"} <= set(checkpoint.metrics)
    assert len(checkpoint.options["scales"]) == 4
    assert all(0 < scale < 1e3 for scale in checkpoint.options["scales"])
    assert checkpoint.made["started_from"]["model"] == "maskface"
    assert not (run / "detector").exists()
    samples = RegionSamples.open(run / "attributes" / "train")
    (group,) = (each for each in net.design.groups if each.name == "attributes")
    assert samples.regions.shape == (6, net.region_channels(group), 7, 7)
    assert np.isfinite(samples.labels.gender).all()
    assert np.isnan(samples.labels.score).all()
    judged = RegionSamples.open(run / "detection" / "train").labels
    assert set(judged.score.tolist()) <= {0.0, 1.0}
    log = [json.loads(line) for line in (run / "landmarks" / "log.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in log].count("dev") == 3


def test_a_run_that_has_ended_is_gone_on_with_to_the_same_weights(data: Path, start: Path, run: Path) -> None:
    before = load_checkpoint(run / "tfn.best.pt").state
    result = train(data, run, "--start-from", str(start), NETS)
    assert result.exit_code == 0, result.output
    after = load_checkpoint(run / "tfn.best.pt").state
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_one_net_is_trained_of_a_tfn_and_the_others_stay(data: Path, run: Path, tmp_path: Path) -> None:
    worse = load_checkpoint(run / "tfn.best.pt")
    for name, tensor in worse.state.items():
        if name.startswith("regions.attributes.") and tensor.ndim > 1:
            tensor.mul_(10)         # so that a few steps are better than none
    save_checkpoint(tmp_path / "worse.pt", worse)
    result = train(data, tmp_path / "run", "--start-from", str(tmp_path / "worse.pt"), 'parts=["attributes"]',
                   "regions.seed=2")
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(tmp_path / "worse.pt"), load_checkpoint(tmp_path / "run" / "tfn.best.pt")
    changed = {name for name, tensor in before.state.items() if not torch.equal(tensor, after.state[name])}
    assert {".".join(name.split(".")[:2]) for name in changed} == {"regions.attributes"}
    assert after.options["scales"] == before.options["scales"]
    assert after.metrics["nme68_percent"] == before.metrics["nme68_percent"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (['parts=["attributes"]'], "--start-from is needed, a TFN or MaskFace that finds faces"),
        (["parts=[]"], "parts must be some of detector, joint, detection, landmarks and attributes"),
        (["joint.faces_share=1.0"], "joint.faces_share: Expected `float` < 1"),
        (["joint.frozen=[\"layer9\"]"], "joint.frozen: the trunk mobilenetv2 has no layer9"),
        (["joint.tasks={}"], "joint.tasks must give landmarks or attributes a share above 0"),
        (["joint.optimiser.learning_rate=1e30", 'parts=["joint"]'], "lower joint.optimiser.learning_rate and resume"),
        (["regions.batches=3"], "has no key 'batches'. Did you mean 'batch'"),
        (["options.channels=16"], "whose detector is not this network's"),
        (['regions.attributes.sets={faces=1.0}', 'parts=["attributes"]'], "none of the sets faces for attributes"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    data: Path, start: Path, tmp_path: Path, more: list[str], reason: str
) -> None:
    begun = [] if "--start-from is needed" in reason else ["--start-from", str(start)]
    result = train(data, tmp_path / "run", *begun, *more)
    assert result.exit_code != 0
    assert reason in result.output
    assert not (tmp_path / "run" / "tfn.best.pt").exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["joint.tasks={landmarks=0.0, attributes=0}"], "joint.tasks must give landmarks or attributes a share"),
        (["joint.tasks={mouths=1.0}"], "joint.tasks has no value 'mouths'. Its values are attributes, detection"),
        (["joint.steps=0"], "joint.steps: Expected `int` >= 1"),
        (['joint.frozen=["layer9"]'], "joint.frozen: the trunk mobilenetv2 has no layer9"),
        (["options.variant=trmm", "joint.tasks={landmarks=1.0}"], "give each a share in joint.tasks"),
        (["regions.attributes.sets={faces=1.0}"], "none of the sets faces for attributes"),
        (["regions.proposals.sets={}"], "for detection: set regions.proposals.sets"),
        (["regions.dev_every_steps=0"], "regions.dev_every_steps: Expected `int` >= 1"),
    ],
)
def test_what_later_parts_cannot_do_is_said_before_the_first(
    data: Path, tmp_path: Path, wrong: list[str], reason: str
) -> None:
    result = train(data, tmp_path / "run", *wrong)
    assert result.exit_code != 0
    assert reason in result.output
    assert not (tmp_path / "run" / "detector").exists()


def test_a_task_without_a_share_is_no_part_of_the_joint_stage(data: Path, start: Path, tmp_path: Path) -> None:
    more = ("joint.tasks={landmarks=1.0, attributes=0}", "regions.attributes.sets={nowhere=1.0}")
    result = train(data, tmp_path / "run", "--start-from", str(start), 'parts=["joint"]', *more)
    assert result.exit_code == 0, result.output
    log = [json.loads(line) for line in (tmp_path / "run" / "joint" / "log.jsonl").read_text().splitlines()]
    assert "landmarks" in log[-1]["losses"]
    assert "gender" not in log[-1]["losses"]
    assert "gender_accuracy" not in load_checkpoint(tmp_path / "run" / "tfn.best.pt").metrics


def test_faces_are_read_with_what_is_known_of_them(data: Path, tmp_path: Path) -> None:
    def quiet(items: Any, _label: str, _total: int) -> Any:
        return items

    folder, net = open_data(data), lively_tfn(tasks=["attributes"])
    head: Any = net.heads[0]
    with torch.no_grad():
        head.score.bias.fill_(1.0)
    found = apparent(folder, "attributes", "train", tmp_path, quiet, net, tmp_path / "faces")
    assert found.labels.age.tolist() == [[40, 40], [30, 39]]
    assert found.labels.gender.tolist() == [0, 1]
    assert np.isnan(found.labels.ethnicity[0])
    assert found.labels.ethnicity[1] == 2
    assert (found.box[:, :2] <= 64).all()
    assert (found.box[:, 2:] >= 64).all()
    assert len(pointed(folder, "landmarks68", "train", tmp_path, quiet)) == 2
    with torch.no_grad():
        head.score.bias.fill_(-20.0)
    again = apparent(folder, "attributes", "train", tmp_path, quiet, net, tmp_path / "faces")
    assert np.array_equal(again.box, found.box)
    with pytest.raises(DataError, match="finds none of its 2 train faces with an apparent age, gender or ethnicity"):
        apparent(folder, "attributes", "train", tmp_path, quiet, net, tmp_path / "others")
    # That none was found is not kept.
    with torch.no_grad():
        head.score.bias.fill_(1.0)
    assert len(apparent(folder, "attributes", "train", tmp_path, quiet, net, tmp_path / "others")) == 2


def test_training_is_looked_at_by_the_dense_stage_alone() -> None:
    net = lively_tfn(tasks=["attributes"], attribute_maps=[4, 16])
    detector = network_detector(net, size_px=128, score=0.5, nms_iou=0.4)
    assert len(detector.bundle.stages) == 1
    assert detector(np.zeros((128, 128, 3), np.uint8)).classes == {}


def test_labels_in_words() -> None:
    assert years_of(Face(age_years=31.0)) == (31, 31)
    assert [years_of(Face(age_bin=each)) for each in ("3-9", "70+", "old", None)] == [(3, 9), (70, 100), None, None]
    assert ethnicity_of(Face(race="Latino_Hispanic")) == "latino hispanic"
    assert (gender_of(Face(gender="Female")), gender_of(Face())) == ("female", None)


def test_the_configuration_is_whole() -> None:
    config = load_config(default_config_path("tfn"), ["model=tfn"], TFNConfig)
    assert config.regions.attributes.sets == {"attributes": 0.65, "landmarks5": 0.35}
    assert config.parts == ("detector", "joint", "detection", "landmarks", "attributes")


def test_regions_are_cut_in_training_as_on_the_board() -> None:
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(2, 5, 9, 12)).astype(np.float32)
    boxes = rng.uniform(-40, 110, (8, 2, 2)).astype(np.float32)
    boxes = np.concatenate((boxes.min(1), boxes.max(1)), 1)
    picture = np.array([0, 1] * 4)
    found = aligned_regions(torch.from_numpy(maps), torch.from_numpy(picture), torch.from_numpy(boxes), 7, 8, 2)
    expected = [roi_align(RawMap(maps[at]), box[None], 7, 1 / 8, 2)[0] for at, box in zip(picture, boxes, strict=True)]
    assert np.allclose(found, np.stack(expected), atol=1e-5)


def test_canvases_of_faces_come_last_in_a_batch(data: Path, tmp_path: Path) -> None:
    def quiet(items: Any, _label: str, _total: int) -> Any:
        return items

    folder = open_data(data)
    config = load_config(default_config_path("tfn"), ["model=tfn", "joint.tile_px=[64]"], TFNConfig)
    (group,) = (each for each in lively_tfn().design.groups if each.name == "landmarks")
    faces = pointed(folder, "landmarks68", "train", tmp_path, quiet)
    sources = read_sources(folder, ["wider"], tmp_path)
    scenes = DetectionSet(sources, config.data, FeedbackState(sources), 0.5, 1)
    drawn: dict[Task, TaskFaces] = {"landmarks": TaskFaces(group, config.regions.landmarks, {"landmarks68": faces})}
    joint = JointSet(scenes, drawn, config.joint)
    crops = [joint[Draw(number, 128)] for number in range(6)]
    batch = joint.collate(crops)
    tiled = sum(isinstance(crop, TiledCrop) for crop in crops)
    assert 0 < tiled < 6
    assert batch.known["picture"].tolist() == [number for number in range(6 - tiled, 6) for _ in range(4)]
    assert batch.counts[6 - tiled :] == [0] * tiled
    middle = batch.known["region"].view(tiled, 4, 2, 2).mean(2)
    assert torch.equal(middle > 64, torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]]).bool().expand(tiled, 4, 2))
    assert torch.isfinite(batch.known["points"]).all()
