"""``edgeface quantize`` as a user runs it: calibrated, trained, stopped and gone on with, and all errors."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from edgeface.quantize.training import qat_config, qat_trainer
from msgspec.structs import replace
from numpy.typing import NDArray

import edgeface
from edgeface.bundle import sha256_of
from edgeface.cli import main
from edgeface.errors import OptionError
from edgeface.int8.modules import points
from edgeface.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeface.models.mos import MOS
from edgeface.training.config import default_config_path, load_config, plain
from edgeface.training.loop import Trainer
from edgeface.training.plots import read_log
from tiny_data import write_tiny_data

TINY = (
    "canvases=[{size_px=128, batch=2, share=1.0}]", "data.workers=0",
    "data.weights={wider=0.6, landmarks68=0.3, backgrounds=0.1}", "run.epoch_steps=2", "run.dev_pictures=1",
    "run.dev_size_px=128", "run.precision=fp32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


def quantize(model: Path | str, data: Path, out: Path, *arguments: str) -> Result:
    fixed = ["quantize", str(model), "--data", str(data), "--out", str(out), "--pictures", "2"]
    return CliRunner().invoke(main, [*fixed, "--cache", str(out.parent / "cache"), *arguments])


@pytest.fixture(scope="module")
def ptq(tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ptq") / "tiny_ptq.pt"
    result = quantize(tiny_checkpoint, data, out, "--calibrate-only", "--keep-float", "heads.*.score")
    assert result.exit_code == 0, result.output
    assert "calibrated by mse on 2 pictures: 90 of 93 convolutions in int8" in result.output
    assert f"weights: {out}" in result.output
    assert "scales from 2 pictures may cut off what others have: give --data 20 and more" in result.stderr
    return out


def test_fewer_pictures_than_were_asked_for_are_counted_as_they_are(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wider").symlink_to(data / "wider")
    out = tmp_path / "few.pt"
    result = quantize(tiny_checkpoint, tmp_path / "data", out, "--calibrate-only", "--pictures", "64")
    assert result.exit_code == 0, result.output
    assert "calibrated by mse on 4 pictures: " in result.output
    assert load_checkpoint(out).made["calibration_pictures"] == 4


def test_a_calibrated_checkpoint_says_how_it_was_made(ptq: Path, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(ptq)
    assert checkpoint.quantisation is not None
    assert not checkpoint.quantisation.trained
    assert checkpoint.quantisation.keep_float == ["heads.0.score", "heads.1.score", "heads.2.score"]
    assert checkpoint.licence == "tests only"
    assert checkpoint.metrics == {}
    assert checkpoint.made["quantised_from"]["sha256"] == sha256_of(tiny_checkpoint)
    assert checkpoint.made["command"] == (
        "edgeface quantize tiny.pt --method mse --pictures 2 --calibrate-only --keep-float 'heads.*.score'"
    )
    assert "torch" in checkpoint.made["versions"]


def test_a_calibrated_checkpoint_runs_and_evaluates(
    ptq: Path, tiny_checkpoint: Path, data: Path, astronaut: NDArray[np.uint8]
) -> None:
    net = load_checkpoint(ptq).build()
    assert net.is_deployed
    assert {point.mode for _, point in points(net)} == {"all"}
    found, expected = (edgeface.load(path, size=160, score=0.5)(astronaut) for path in (ptq, tiny_checkpoint))
    assert abs(len(found) - len(expected)) <= 0.3 * len(expected)
    result = CliRunner().invoke(main, ["evaluate", str(ptq), "--data", str(data / "wider"), "--size", "64"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("method", ["absmax", "percentile"])
def test_methods_differ(method: str, tiny_checkpoint: Path, data: Path, ptq: Path, tmp_path: Path) -> None:
    out = tmp_path / "other.pt"
    assert quantize(tiny_checkpoint, data, out, "--calibrate-only", "--method", method).exit_code == 0
    first, second = load_checkpoint(out).state, load_checkpoint(ptq).state
    assert torch.equal(first["data.log_scale"], second["data.log_scale"])
    assert not torch.equal(first["backbone.stem_out.log_scale"], second["backbone.stem_out.log_scale"])


def test_report_and_automatic_choice(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a loss that two layers make 5 % worse each, whatever the crops."""

    def task_loss(net: MOS, _config: object, _batches: object) -> Callable[[], float]:
        worse = [net.fpn.smooth[0], net.context[1].direct]
        return lambda: 100 + 5 * sum(conv.int8 and conv.mode != "float" for conv in worse)

    monkeypatch.setattr("edgeface.quantize.sensitivity.task_loss", task_loss)
    report = tmp_path / "report"
    result = quantize(
        tiny_checkpoint, data, tmp_path / "out.pt", "--calibrate-only", "--report", str(report), "--auto-keep", "0.05",
        "--keep-float", "heads.0.box",
    )
    assert result.exit_code == 0, result.output
    assert "auto-keep: 1 left in float: loss from +10.00 to +5.00 % above float's" in result.output
    assert "91 of 93 convolutions in int8" in result.output
    assert "most from: " in result.output
    quantisation = load_checkpoint(tmp_path / "out.pt").quantisation
    assert quantisation is not None
    assert quantisation.keep_float in (["fpn.smooth.0", "heads.0.box"], ["context.1.direct", "heads.0.box"])
    assert sorted(p.name for p in report.iterdir()) == ["layers.json", "layers.md", "layers.png"]
    layers = json.loads((report / "layers.json").read_bytes())["layers"]
    assert sorted(row["name"] for row in layers if not row["int8"]) == quantisation.keep_float
    assert [row["name"] for row in layers if row["loss_percent"] > 4] == ["fpn.smooth.0", "context.1.direct"]


def test_training_writes_the_best_weights_and_keeps_its_run(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "qat.pt"
    # A loader process of its own, forked after calibration used OpenCV.
    overrides = [*TINY, "run.steps=4", "data.workers=1"]
    result = quantize(tiny_checkpoint, data, out, *overrides, "--keep-float", "backbone.stem")
    assert result.exit_code == 0, result.output
    assert f"weights: {out}" in result.output
    checkpoint = load_checkpoint(out)
    assert checkpoint.quantisation is not None
    assert checkpoint.quantisation.trained
    assert checkpoint.quantisation.keep_float == ["backbone.stem"]
    assert checkpoint.licence == "tests only"
    assert checkpoint.made["quantised_from"]["file"] == "tiny.pt"
    assert checkpoint.made["command"].startswith("edgeface quantize tiny.pt --method mse")
    assert set(checkpoint.made["data_sha256"]) == {"wider", "landmarks68", "backgrounds"}
    assert checkpoint.build().is_deployed
    assert {"state.pt", "log.jsonl", "mos_s.last.pt"} <= {p.name for p in (tmp_path / "qat.run").iterdir()}


def test_a_stopped_training_goes_on(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "qat.pt"
    step = Trainer._step

    def interrupted(self: Trainer, *arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)  # type: ignore[arg-type]  # passed on as they came

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        stopped = quantize(tiny_checkpoint, data, out, *TINY, "run.steps=3")
    assert stopped.exit_code == 130, stopped.output
    assert "stopped at step 1: the same command goes on" in stopped.output
    assert not out.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = load_checkpoint(tmp_path / "qat.run" / "mos_s.last.pt")
    assert before.made["step"] == 1

    other = quantize(tiny_checkpoint, data, out, *TINY, "run.steps=3", "--keep-float", "backbone.stem")
    assert other.exit_code == 9
    assert "began with another --method or other layers in float" in other.output

    resumed = quantize(tiny_checkpoint, data, out, *TINY, "run.steps=3")
    assert resumed.exit_code == 0, resumed.output
    assert "going on from step 1" in resumed.output
    assert load_checkpoint(tmp_path / "qat.run" / "mos_s.last.pt").made["step"] == 3
    assert out.exists()
    starts = [entry["step"] for entry in read_log(tmp_path / "qat.run" / "log.jsonl") if entry["kind"] == "start"]
    assert starts == [0, 1]


def test_training_goes_on_with_the_float_runs_objective_and_data(tiny_checkpoint: Path) -> None:
    source = load_checkpoint(tiny_checkpoint)
    shipped = load_config(default_config_path("mos_s"))
    told = plain(replace(
        shipped, model="another", data=replace(shipped.data, largest=1.1),
        loss=replace(shipped.loss, box="smooth_l1"), run=replace(shipped.run, channels_last=True, budget_minutes=300),
    ))
    for made, largest, box, channels_last in (({}, 1.3, "diou", False), ({"config": told}, 1.1, "smooth_l1", True)):
        config = qat_config(dataclasses.replace(source, made=made), tiny_checkpoint, ["run.steps=3"])
        assert (config.model, config.options) == (source.model, source.options)
        assert (config.data.largest, config.loss.box) == (largest, box)
        assert config.loss.classification == "quality_focal"
        assert config.canvases == shipped.canvases
        assert (config.run.channels_last, config.run.budget_minutes, config.run.steps) == (channels_last, 0, 3)
        assert config.optimiser.learning_rate < shipped.optimiser.learning_rate / 100


def test_a_float_runs_configuration_that_no_longer_fits_is_named(tiny_checkpoint: Path) -> None:
    told = plain(load_config(default_config_path("mos_s")))
    del told["canvases"]
    source = dataclasses.replace(load_checkpoint(tiny_checkpoint), made={"config": told})
    with pytest.raises(OptionError, match=r"tiny\.pt: the configuration in it: .*canvases"):
        qat_config(source, tiny_checkpoint, [])


def test_training_moves_weights_and_scales(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, ptq: Path
) -> None:
    from edgeface.quantize.calibrated import calibrated

    source = load_checkpoint(tiny_checkpoint)
    start = calibrated(source, data, "mse", pictures=2)
    before = {name: tensor.clone() for name, tensor in start.net.state_dict().items()}
    config = qat_config(source, tiny_checkpoint, [*TINY, "run.steps=3", "optimiser.warmup_steps=1"])
    trainer = qat_trainer(
        source, "", start, config, data, tmp_path / "run", tmp_path / "cache", [], lambda items, _l, _t: items
    )
    trainer.run()
    after = trainer.net.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert "data.log_scale" in still
    moved = set(before) - set(still)
    assert {"backbone.stem.weight", "backbone.stem_out.log_scale", "heads.0.score.bias"} <= moved
    for name, point in points(start.net):
        assert 0.5 < point.scale / float(before[f"{name}.log_scale"].exp()) < 2, name


def fails(result: Result, code: int, *texts: str) -> None:
    assert result.exit_code == code, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("edgeface: ")
    for text in texts:
        assert text in lines[0], lines[0]


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (["--method", "mes"], 2, ["no calibration 'mes'", "Did you mean 'mse'", "absmax, mse, percentile"]),
        (["--keep-float", "head.score"], 2, ["no layer 'head.score'", "pose_heads.2.bins"]),
        (["run.stpes=3"], 2, ["stpes"]),
        (["options.width=1.0x"], 2, ["options.width", "the checkpoint's"]),
        (["--config", "nowhere.toml"], 2, ["nowhere.toml"]),
    ],
)
def test_wrong_options_are_one_line(
    arguments: Sequence[str], code: int, texts: Sequence[str], tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    fails(quantize(tiny_checkpoint, data, tmp_path / "out.pt", "--calibrate-only", *arguments), code, *texts)
    assert not (tmp_path / "out.pt").exists()


def test_wrong_checkpoints_are_one_line(
    tiny_checkpoint: Path, data: Path, ptq: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.pt"
    fails(quantize(ptq, data, out, "--calibrate-only"), 5, str(ptq), "quantised already")
    fails(quantize(tmp_path / "no.pt", data, out), 2, "no such bundle or checkpoint")
    fails(quantize("mos_x", data, out), 2, "no model 'mos_x'")
    fails(quantize("mos_s-fp16-ncnn", data, out), 5, "is a bundle")
    (tmp_path / "broken.pt").write_bytes(tiny_checkpoint.read_bytes()[:1000])
    fails(quantize(tmp_path / "broken.pt", data, out), 5, "broken.pt", "damaged")
    source = load_checkpoint(tiny_checkpoint)
    nan = {name: tensor * float("nan") if name == "fpn.smooth.0.0.weight" else tensor for name, tensor in
           source.state.items()}
    save_checkpoint(tmp_path / "nan.pt", dataclasses.replace(source, state=nan))
    fails(quantize(tmp_path / "nan.pt", data, out, "--calibrate-only"), 4, "not numbers")
    save_checkpoint(tmp_path / "other.pt", Checkpoint("mos_z", {}, {}))
    fails(quantize(tmp_path / "other.pt", data, out, "--calibrate-only"), 2, "mos_z")
    assert not out.exists()


def test_wrong_data_are_one_line(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    fails(quantize(tiny_checkpoint, tmp_path / "no", out, "--calibrate-only"), 4, str(tmp_path / "no"))
    (tmp_path / "empty").mkdir()
    fails(quantize(tiny_checkpoint, tmp_path / "empty", out, "--calibrate-only"), 4, "no set in it")
    shutil.copytree(data, tmp_path / "bad")
    lines = tmp_path / "bad" / "wider" / "annotations.jsonl"
    good = lines.read_text()
    lines.write_text(good.replace("box", "bax\nbox", 1))
    fails(quantize(tiny_checkpoint, tmp_path / "bad", out, "--calibrate-only"), 4, "annotations.jsonl, line 1")
    lines.write_text("")
    fails(quantize(tiny_checkpoint, tmp_path / "bad", out, "--calibrate-only"), 4, str(lines))
    lines.write_text(good)
    for picture in (tmp_path / "bad" / "wider" / "images").iterdir():
        picture.write_bytes(b"GIF89a")
    fails(quantize(tiny_checkpoint, tmp_path / "bad", out, "--calibrate-only"), 4, "scene0.png", "OpenCV can decode")
    assert not out.exists()


def test_places_that_cannot_be_written_are_one_line_before_any_work(
    tiny_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object) -> None:
        raise AssertionError("calibrated, though nothing could be written")

    monkeypatch.setattr("edgeface.quantize.calibrated.calibrated", never)
    (tmp_path / "file").write_text("")
    fails(quantize(tiny_checkpoint, data, tmp_path / "file" / "out.pt"), 10, "out.pt", "cannot be written")
    fails(quantize(tiny_checkpoint, data, tmp_path), 10, "is a folder")
    report = ["--report", str(tmp_path / "file")]
    fails(quantize(tiny_checkpoint, data, tmp_path / "out.pt", *report), 10, "cannot be written")
    copy = tmp_path / "mine.pt"
    shutil.copy(tiny_checkpoint, copy)
    fails(quantize(copy, data, copy), 2, "mine.pt", "choose another name")
    assert copy.read_bytes() == tiny_checkpoint.read_bytes()


@pytest.mark.parametrize(("package", "arguments"), [("torch", []), ("matplotlib", ["--report", "report"])])
def test_a_missing_extra_is_named(
    package: str, arguments: Sequence[str], tiny_checkpoint: Path, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    result = quantize(tiny_checkpoint, data, tmp_path / "out.pt", "--calibrate-only", *arguments)
    fails(result, 11, package, 'pip install "edgeface[train]"')


def test_the_command_can_be_given_again(ptq: Path) -> None:
    """What the checkpoint says it was made with is a command line that parses."""
    import shlex

    words = shlex.split(load_checkpoint(ptq).made["command"])
    command = main.get_command(click.Context(main), words[1])
    assert command is not None
    context = command.make_context("quantize", [*words[2:], "--data", "d", "--out", "o"])
    assert context.params["keep_float"] == ("heads.*.score",)
    assert context.params["pictures"] == 2
