"""MTCNN's training from end to end on a few pictures: its rounds, going on between and within them, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.patch_nets import MTCNN, mtcnn
from edgeface.training.config import default_config_path, read_settings
from edgeface.training.mtcnn import ROUNDS, MTCNNConfig, MTCNNTraining
from edgeface.training.patches.samples import Samples
from edgeface.training.state import RunDirectory
from tiny_data import write_tiny_data

TINY = (
    'sampling.scenes=["wider", "backgrounds"]', 'sampling.faces=["landmarks68"]', "sampling.mined_windows=40",
    "sampling.mining_thresholds=[0.05, 0.05]", "sampling.mining_face_px=20",
    *(f"{name}.{setting}" for name in ROUNDS for setting in ("steps=3", "batch=16", "budget_minutes=0")),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


def train(data: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main,
        ["train", "mtcnn", *TINY, *arguments, "--data", str(data), "--out", str(out), "--cache", str(data / "cache"),
         "--licence", "public domain"],
    )


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mtcnn"
    result = train(data, out)
    assert result.exit_code == 0, result.output
    assert "weights: " in result.output
    assert all(f"{name} average_precision" in result.output for name in ROUNDS)
    return out


def test_a_run_trains_every_round(run: Path) -> None:
    checkpoint = load_checkpoint(run / "mtcnn.best.pt")
    assert checkpoint.options == {"activation": "prelu"}
    assert checkpoint.licence == "public domain"
    net = checkpoint.build()
    assert isinstance(net, MTCNN)
    for name in ROUNDS:
        samples = Samples.open(run / name / "samples-train")
        assert all(samples.counts().values()), (name, samples.counts())
        assert samples.pixels.shape[1] == net.nets()[ROUNDS[name]].architecture.size_px


def test_each_net_is_trained_on_what_the_newest_one_before_it_lets_through(run: Path) -> None:
    passed = [
        RunDirectory(run / name / "proposals-train").load_state()["proposals"]["wider"]["boxes"]
        for name in ("pnet", "pnet_hard")
    ]
    assert passed[0].shape != passed[1].shape or not torch.equal(*passed)


def test_a_finished_run_has_nothing_more_to_do(run: Path, data: Path) -> None:
    before = load_checkpoint(run / "mtcnn.best.pt").state
    result = train(data, run)
    assert result.exit_code == 0, result.output
    after = load_checkpoint(run / "mtcnn.best.pt").state
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def training(data: Path, out: Path, *overrides: str) -> MTCNNTraining:
    config = read_settings(default_config_path("mtcnn"), [*TINY, *overrides], MTCNNConfig)
    torch.manual_seed(config.seed)
    return MTCNNTraining(mtcnn(), config, data, out, data / "cache", {}, "test", lambda items, _l, _t: items)


def test_a_run_stopped_between_two_rounds_goes_on(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    first = training(data, tmp_path)
    inner = first._train_round

    def stops(name: str, show: Callable[[str], None]) -> bool:
        done = inner(name, show)
        if name == "pnet_hard":
            first.stop()
        return done

    monkeypatch.setattr(first, "_train_round", stops)
    first.run()
    assert not first.weights.exists()
    assert list(first.result()) == ["stopped: the same command goes on"]
    again = training(data, tmp_path)
    assert again.going_on() == "pnet, pnet_hard"
    again.run()
    whole = load_checkpoint(run / "mtcnn.best.pt").state
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_checkpoint(again.weights).state.items())


def test_relu_starts_from_prelu_weights_with_the_same_samples(run: Path, data: Path, tmp_path: Path) -> None:
    result = train(
        data, tmp_path, "options.activation=relu", f"samples_of={run}", 'rounds=["pnet_hard", "rnet", "onet"]',
        "thresholds.rnet=0.25",
        "--start-from", str(run / "mtcnn.best.pt"),
    )
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "mtcnn.best.pt")
    assert checkpoint.options == {"activation": "relu"}
    assert checkpoint.metrics["thresholds"] == {"pnet": 0.5, "rnet": 0.25}
    assert "started_from" in checkpoint.made
    assert not (tmp_path / "onet" / "samples-train").exists()


def test_a_calibrated_net_is_trained_on_in_int8(run: Path, data: Path, tmp_path: Path) -> None:
    relu, calibrated = tmp_path / "relu", tmp_path / "calibrated.pt"
    rounds = ("options.activation=relu", f"samples_of={run}", 'rounds=["rnet", "onet"]')
    assert train(data, relu, *rounds, "--start-from", str(run / "mtcnn.best.pt")).exit_code == 0
    quantised = CliRunner().invoke(
        main,
        ["quantize", str(relu / "mtcnn.best.pt"), "--data", str(data), "--out", str(calibrated), "--calibrate-only",
         "--pictures", "4"],
    )
    assert quantised.exit_code == 0, quantised.output
    result = train(data, tmp_path / "int8", *rounds, "--start-from", str(calibrated))
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(calibrated), load_checkpoint(tmp_path / "int8" / "mtcnn.best.pt")
    assert before.quantisation is not None
    assert after.quantisation is not None
    assert (before.quantisation.trained, after.quantisation.trained) == (False, True)
    moved = {name.split(".")[0] for name, tensor in after.state.items() if not torch.equal(tensor, before.state[name])}
    assert moved == {"rnet", "onet"}
    scales = [name for name in after.state if name.startswith("onet") and name.endswith("log_scale")]
    assert any(not torch.equal(after.state[name], before.state[name]) for name in scales)


def test_training_in_int8_needs_samples(run: Path, data: Path, tmp_path: Path) -> None:
    relu, calibrated = tmp_path / "relu", tmp_path / "calibrated.pt"
    options = ("options.activation=relu", f"samples_of={run}", 'rounds=["rnet"]')
    assert train(data, relu, *options, "--start-from", str(run / "mtcnn.best.pt")).exit_code == 0
    arguments = ["--data", str(data), "--out", str(calibrated), "--calibrate-only", "--pictures", "4"]
    CliRunner().invoke(main, ["quantize", str(relu / "mtcnn.best.pt"), *arguments])
    result = train(data, tmp_path / "int8", "options.activation=relu", "--start-from", str(calibrated))
    assert result.exit_code == 9
    assert "needs samples_of: give it the folder of the run in float" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (['rounds=["pnett"]'], "no round 'pnett': choose rounds from pnet"),
        (["samples_of=/nowhere"], "no samples there: give samples_of the folder of a finished run"),
        (["options.activation=gelu"], "activation 'gelu' cannot work: choose prelu or relu"),
        (["rnet.stepps=3"], "stepps"),
        (["onet.steps=0"], "onet.steps: Expected `int` >= 1"),
        (["onet.optimiser.learning_rate=-1"], "onet.optimiser.learning_rate: Expected `float` > 0.0"),
        (["onet.optimiser.clip_norm=-1"], "onet.optimiser.clip_norm: Expected `float` > 0.0"),
        (["onet.weights={fase=1.0}"], "onet.weights has no value 'fase'. Did you mean 'face'?"),
        (["rnet.shares={faces=1.0}"], "rnet.shares has no value 'faces'. Its values are landmarks, negatives"),
        (["thresholds.rnett=0.2"], "rnett"),
        (["thresholds.rnet=2"], "thresholds.rnet"),
        (['sampling.scenes=["wider", "nowhere"]'], "nowhere: no such folder"),
    ],
)
def test_a_wrong_setting_is_one_line(data: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = train(data, tmp_path, *arguments)
    assert result.exit_code not in (0, None)
    assert message in str(result.exception) + result.output


def test_the_shipped_configuration_is_whole() -> None:
    config = read_settings(default_config_path("mtcnn"), [], MTCNNConfig)
    assert config.onet.weights == {"face": 1.0, "box": 0.5, "landmarks": 1.0}
    assert config.pnet.hard_share == 0.7
    assert config.rnet.shares == {"negatives": 3.0, "positives": 1.0, "parts": 1.0, "landmarks": 2.0}
