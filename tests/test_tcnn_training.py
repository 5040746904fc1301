"""T-CNN's training from end to end on a few pictures: its two steps, going on between them, tasks without labels."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.int8.whole_weights import rounded
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.patch_nets import O_NET, PatchNet, patch_net
from edgeface.runtime.logistic import logit
from edgeface.training.config import default_config_path, read_settings
from edgeface.training.patches.labels import LABELS
from edgeface.training.patches.samples import Samples
from edgeface.training.patches.training import predict
from edgeface.training.tcnn import TCNNConfig, TCNNTraining, centred, level_quality
from tiny_data import FACE_BOX, FACE_POINTS, write_set

Image = NDArray[np.uint8]
WIDER_CLEAR = {"blur": 0, "occlusion": 0, "atypical_pose": 0}
WIDER_HEAVY = {"blur": 2, "occlusion": 0, "atypical_pose": 0}
TINY = (
    "drawing.scenes={wider=[320], masks=[320], backgrounds=[320]}", 'drawing.faces=["landmarks68", "masks", "wider"]',
    *(f"{step}.{setting}" for step in ("faces", "quality") for setting in ("steps=4", "batch=16", "budget_minutes=0")),
)


def scenes(astronaut: Image, fields: list[dict[str, Any]]) -> list[tuple[str, Image, dict[str, Any]]]:
    """One training picture of the astronaut a field, and a dev picture of each as well."""
    rows = []
    for split in ("train", "dev"):
        for i, more in enumerate(fields):
            side = 200 + 20 * i
            image = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
            face = {
                "box": [v * side / 512 for v in FACE_BOX],
                "landmarks": [[x * side / 512 for x in point] for point in FACE_POINTS],
                **more,
            }
            line = {"split": split, "complete": 1, "faces": [face], "original": astronaut.shape[:2]}
            rows.append((f"{split}{i}", image, line))
    return rows


def write_data(folder: Path, astronaut: Image, masks: bool) -> Path:
    """Sets with every label, or without masks."""
    clear = [{"subset": "easy", **WIDER_CLEAR, "sunglasses": i % 2} for i in range(4)]
    heavy = [{"subset": "easy", **WIDER_HEAVY} for _ in range(2)]
    write_set(folder / "wider", scenes(astronaut, [*clear, *heavy]))
    if masks:
        write_set(folder / "masks", scenes(astronaut, [{"mask": "worn"}, {"mask": "none"}, {"mask": "incorrect"}]))
    crop = np.ascontiguousarray(astronaut[30:230, 120:320])
    face = {"landmarks": [[x - 120, y - 30] for x, y in FACE_POINTS], "pose": [-5.0, 8.0, 2.0]}
    write_set(folder / "landmarks68", [("crop", crop, {"split": "train", "complete": 0, "faces": [face]})])
    noise = np.random.default_rng(0).integers(0, 255, (120, 150, 3)).astype(np.uint8)
    grounds = [
        (f"ground{split}", cv2.GaussianBlur(noise, (0, 0), 2).astype(np.uint8),
         {"split": split, "complete": 1, "faces": []})
        for split in ("train", "dev")
    ]  # fmt: skip
    write_set(folder / "backgrounds", grounds)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: Image) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), astronaut, masks=True)


def train(data: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["train", "tcnn", *TINY, *arguments, "--data", str(data), "--out", str(out), "--cache",
               str(data / "cache")],
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "tcnn"
    result = train(data, out)
    assert result.exit_code == 0, result.output
    for name in ("mask over 32", "sunglasses balanced", "quality auc", "nme percent", "ap easy", "false faces"):
        assert name in result.output
    return out


def test_a_run_trains_both_steps_and_chooses_thresholds(run: Path) -> None:
    checkpoint = load_checkpoint(run / "tcnn.best.pt")
    assert checkpoint.metrics["thresholds"] == dict.fromkeys(LABELS, 0.5)
    assert "samples" not in {path.name for path in run.iterdir()}
    faces, quality = (Samples.open(run / step / "samples") for step in ("faces", "quality"))
    assert {name for name, count in faces.counts().items() if count} == {"negatives", "positives", "landmarks"}
    assert np.isnan(faces.labels[:, 2]).all()
    assert np.isnan(quality.labels[:, :2]).all()
    assert np.array_equal(quality.labels[:, 2] == 1, quality.kind == 2)


def test_the_second_step_changes_the_quality_branch_alone(run: Path) -> None:
    """Batch norms' statistics as well: the other tasks must not move."""
    first = torch.load(run / "faces" / "state.pt", weights_only=True)["best"]
    whole = load_checkpoint(run / "tcnn.best.pt").state
    bias = "heads.attributes.bias"      # which the thresholds moved
    assert (whole.pop(bias) - first.pop(bias)).abs().max() < 14
    for name, tensor in first.items():
        assert torch.equal(tensor, whole[name]) != ("quality" in name), name


@pytest.mark.parametrize("attributes", [["mask", "sunglasses"], ["sunglasses"]])
def test_a_threshold_becomes_a_half(attributes: list[str]) -> None:
    torch.manual_seed(0)
    net = patch_net(O_NET, "relu", attributes=len(attributes), quality=True).eval()
    patches = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        before = net(patches)
        assert centred(net, {"sunglasses": 0.2, "quality": 0.0}, attributes) == {"sunglasses": 0.5, "quality": 0.5}
        after = net(patches)
    moved = [getattr(after, head) - getattr(before, head) for head in ("attributes", "quality")]
    torch.testing.assert_close(moved[0][:, -1], torch.full((3,), math.log(4)))
    assert not moved[0][:, :-1].any()
    torch.testing.assert_close(moved[1], torch.full((3,), -logit(1e-6)))


def test_a_second_training_of_quality_starts_level(run: Path) -> None:
    checkpoint, samples = load_checkpoint(run / "tcnn.best.pt"), Samples.open(run / "quality" / "samples")
    net = patch_net(O_NET, "prelu", attributes=2, quality=True)
    net.load_state_dict(checkpoint.state)
    indices = np.nonzero(~np.isnan(samples.labels[:, -1]))[0]
    for off in (7.0, -9.0):
        with torch.no_grad():
            net.bias_of("quality").add_(off)
        level_quality(net, samples, indices)
        quality = predict(net, samples.pixels[indices]).quality
        assert quality is not None
        assert float(quality.sigmoid().mean()) == pytest.approx(samples.labels[indices, -1].mean(), abs=1e-3)


def test_a_calibrated_net_is_trained_on_in_int8(run: Path, data: Path, tmp_path: Path) -> None:
    relu, calibrated = tmp_path / "relu", tmp_path / "calibrated.pt"
    options = ("options.activation=relu", f"samples_of={run}")
    assert train(data, relu, *options, "--start-from", str(run / "tcnn.best.pt")).exit_code == 0
    quantised = CliRunner().invoke(
        main,
        ["quantize", str(relu / "tcnn.best.pt"), "--data", str(data), "--out", str(calibrated), "--calibrate-only",
         "--pictures", "4"],
    )
    assert quantised.exit_code == 0, quantised.output
    result = train(data, tmp_path / "int8", *options, "--start-from", str(calibrated))
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(calibrated), load_checkpoint(tmp_path / "int8" / "tcnn.best.pt")
    assert after.quantisation is not None
    assert after.quantisation.trained
    assert set(after.metrics["thresholds"]) == set(LABELS)
    moved = {name for name, tensor in after.state.items() if not torch.equal(tensor, before.state[name])}
    assert {"units.0.conv.weight", "units.0.out.log_scale", "quality_unit.conv.weight"} <= moved
    # The second step trains the quality branch alone, scales as well.
    first = torch.load(tmp_path / "int8" / "faces" / "state.pt", weights_only=True)["best"]
    saved = {name: rounded(tensor) if tensor.ndim > 1 else tensor for name, tensor in first.items()}
    later = {name for name, tensor in after.state.items() if not torch.equal(tensor, saved[name])}
    assert later
    assert all("quality" in name for name in later), later


def test_a_run_stopped_between_its_steps_goes_on(run: Path, data: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    first = training(data, tmp_path)
    inner = first._train

    def stops(trainer: Any, step: str, show: Any) -> bool:
        done = inner(trainer, step, show)
        first.stop()
        return done

    first._train = stops  # type: ignore[method-assign]  # in the method's place
    first.run()
    assert not first.weights.exists()
    assert list(first.result()) == ["stopped: the same command goes on"]
    again = training(data, tmp_path)
    assert again.going_on() == "faces"
    again.run()
    whole = load_checkpoint(run / "tcnn.best.pt").state
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_checkpoint(again.weights).state.items())


def training(data: Path, out: Path) -> TCNNTraining:
    config = read_settings(default_config_path("tcnn"), TINY, TCNNConfig)
    torch.manual_seed(config.seed)
    return TCNNTraining(net_of(config), config, data, out, data / "cache", {}, "test", lambda items, _l, _t: items)


def net_of(config: TCNNConfig) -> PatchNet:
    from edgeface.models import families

    net = families.get("tcnn").build(**config.options)
    assert isinstance(net, PatchNet)
    return net


def test_a_task_without_labels_is_left_out_and_said(
    astronaut: Image, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_data(tmp_path / "data", astronaut, masks=False)
    result = train(data, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "no training faces with and without mask: trains without that task" in caplog.messages
    assert any(message.endswith("masks: no training pictures: trains without this set") for message in caplog.messages)
    checkpoint = load_checkpoint(tmp_path / "run" / "tcnn.best.pt")
    assert checkpoint.options["attributes"] == ["sunglasses"]
    assert set(checkpoint.metrics["thresholds"]) == {"sunglasses", "quality"}
    net = checkpoint.build()
    assert isinstance(net, PatchNet)
    out = net(torch.zeros(2, 3, 48, 48))
    assert out.attributes is not None
    assert out.attributes.shape == (2, 1)


def test_without_quality_labels_there_is_no_quality_branch(astronaut: Image, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", astronaut, masks=True)
    annotations = data / "wider" / "annotations.jsonl"
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    for line in lines:
        line["faces"] = [{k: v for k, v in face.items() if k not in WIDER_CLEAR} for face in line["faces"]]
    annotations.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    result = train(data, tmp_path / "run")
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "tcnn.best.pt")
    assert checkpoint.options["quality"] is False
    assert not any(name.startswith("quality") for name in checkpoint.state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samples_of=/nowhere"], "no samples there: give samples_of the folder of a finished run"),
        (["options.activation=gelu"], "activation 'gelu' cannot work: choose prelu or relu"),
        (['options.attributes=["beard"]'], "T-CNN has no attribute 'beard': choose from mask, sunglasses"),
        (["faces.stepps=3"], "stepps"),
        (["drawing.scenes={}"], "no detected faces and false alarms to train on"),
    ],
)
def test_a_wrong_setting_is_one_line(data: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = train(data, tmp_path, *arguments)
    assert result.exit_code not in (0, None)
    assert message in str(result.exception) + result.output


def test_the_shipped_configuration_is_whole() -> None:
    config = read_settings(default_config_path("tcnn"), [], TCNNConfig)
    assert config.faces.weights == {"face": 1.0, "box": 0.5, "landmarks": 4.0, "attributes": 1.0}
    assert config.quality.weights["quality"] == 1.0
    assert not any(value for name, value in config.quality.weights.items() if name != "quality")
