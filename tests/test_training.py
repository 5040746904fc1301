"""Training end to end on a few pictures: the loop, its log, resume after a kill, feedback, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import nn

from edgeface.cli import main
from edgeface.data.annotations import Picture
from edgeface.data.detection import Batch, DetectionSet, Draw, FeedbackState, collate, read_sources
from edgeface.data.targets import TEACHER_PITCH_OFFSET_DEG
from edgeface.errors import DataError, OptionError, TrainingError
from edgeface.faces import Faces
from edgeface.models.checkpoint import load_checkpoint
from edgeface.training.config import Config, default_config_path, load_config
from edgeface.training.crop_batches import CropBatches, StepBatches
from edgeface.training.detector import detector_trainer
from edgeface.training.loop import Trainer
from edgeface.training.plots import read_log
from edgeface.training.probe import DetectionProbe, is_hard
from edgeface.training.schedule import done_share, learning_rate
from edgeface.training.trainers import DetectorTraining
from tiny_data import write_tiny_data

TINY = (
    "options.width=0.5x", "canvases=[{size_px=128, batch=2, share=1.0}]", "data.workers=0",
    "data.weights={wider=0.6, landmarks68=0.3, backgrounds=0.1}", "run.epoch_steps=2", "run.dev_pictures=1",
    "run.dev_size_px=128", "feedback.every_epochs=1", "feedback.pictures=2", "run.precision=fp32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


def config(*overrides: str) -> Config:
    return load_config(default_config_path("mos_s"), [*TINY, *overrides])


def trainer(data: Path, out: Path, *overrides: str) -> Trainer[Batch]:
    return detector_trainer(config(*overrides), data, out, out / "cache", "test", overrides, lambda it, _l, _t: it)


def test_a_run_leaves_weights_log_and_plots(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main,
        ["train", "mos_s", *TINY, "run.steps=4", "--data", str(data), "--out", str(tmp_path / "run"), "--cache",
         str(tmp_path / "cache"), "--licence", "public domain"],
    )
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "mos_s.last.pt")
    assert checkpoint.options == {"width": "0.5x"}
    assert checkpoint.licence == "public domain"
    assert checkpoint.made["step"] == 4
    assert set(checkpoint.made["data_sha256"]) == {"wider", "landmarks68", "backgrounds"}
    assert checkpoint.build()(torch.zeros(1, 3, 64, 64)).score[0].shape == (1, 4, 8, 8)
    kinds = [e["kind"] for e in read_log(tmp_path / "run" / "log.jsonl")]
    assert kinds.count("dev") == 2         # after each epoch of two steps, the last of which is the end
    assert kinds[0] == "start"
    assert "hard" in kinds


def test_resume_goes_on_where_the_state_was_saved(data: Path, tmp_path: Path) -> None:
    first = trainer(data, tmp_path / "run", "run.steps=2")
    first.run()
    second = trainer(data, tmp_path / "run", "run.steps=4")
    assert second.progress.step == 2
    for name, tensor in first.objective.state_dict().items():
        assert torch.equal(tensor, second.objective.state_dict()[name]), name
    assert second.average.updates == first.average.updates
    second.run()
    assert second.progress.step == 4


def test_a_request_to_stop_saves_after_the_step_at_hand(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "run.steps=9")

    def stop(_report: object) -> None:
        run.stop_requested = True

    run.run(stop)
    assert run.progress.step == 1
    assert list(DetectorTraining(run).result()) == ["stopped at step 1: the same command goes on"]
    assert trainer(data, tmp_path / "run", "run.steps=9").progress.step == 1


def test_a_run_ends_at_its_time_with_all_that_belongs_to_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: reading took 20 s, a step takes 10 s, and a dev picture 2 s."""
    clock_s = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock_s[0])
    run = trainer(data, tmp_path / "run", "run.steps=1000", "run.epoch_steps=2", "run.budget_minutes=2")
    clock_s[0] += 20
    step, detect = run._step, DetectionProbe._detect

    def slow_step(*arguments: Any) -> Any:
        clock_s[0] += 10
        return step(*arguments)

    def slow_detect(probe: DetectionProbe, net: nn.Module, pictures: Sequence[Picture], size_px: int) -> list[Faces]:
        clock_s[0] += 2 * len(pictures)
        return detect(probe, net, pictures, size_px)

    monkeypatch.setattr(run, "_step", slow_step)
    monkeypatch.setattr(DetectionProbe, "_detect", slow_detect)
    run.run()
    assert 105 <= clock_s[0] <= 130
    assert run.progress.step >= 2
    assert "choose" in run.dev


def test_two_runs_do_not_share_a_folder(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "run.steps=1")
    run.directory.claim()
    with pytest.raises(TrainingError, match="another run"):
        trainer(data, tmp_path / "run", "run.steps=1").run()


def test_a_resumed_run_draws_what_an_unbroken_one_would(data: Path, tmp_path: Path) -> None:
    whole = iter(StepBatches(config(), 0, 0, 1))
    later = iter(StepBatches(config(), 3, 0, 1))
    drawn = [next(whole) for _ in range(5)]
    assert drawn[3:] == [next(later), next(later)]
    halves = [next(iter(StepBatches(config(), 3, rank, 2))) for rank in (0, 1)]
    assert sorted(d.number for half in halves for d in half) == [d.number for d in drawn[3]]


def test_training_overfits_one_scene(data: Path, tmp_path: Path) -> None:
    run = trainer(
        data, tmp_path / "run", "run.steps=48", "run.epoch_steps=100", "data.weights={wider=1.0}", "data.paste=0.0",
        "optimiser.warmup_steps=2",
    )
    losses: list[dict[str, float]] = []
    run.run(lambda report: losses.append(dict(report.losses)))
    # The window is a running mean, so its last value is above the last step's.
    assert losses[-1]["score"] < 0.8 * losses[0]["score"]
    assert losses[-1]["landmarks"] < 0.9 * losses[0]["landmarks"]


def test_stitching_follows_the_small_faces_share(data: Path, tmp_path: Path) -> None:
    source = trainer(data, tmp_path / "run", "run.steps=2").source
    assert isinstance(source, CropBatches)
    source.feed_back({"small_boxes": torch.tensor(1.0), "boxes": torch.tensor(10.0)})
    assert int(source.dataset.feedback.stitch[0]) == 1
    stitched = source.dataset[Draw(0, 128)]
    assert stitched.image.shape == (128, 128, 3)
    source.feed_back({"small_boxes": torch.tensor(4.0), "boxes": torch.tensor(10.0)})
    assert int(source.dataset.feedback.stitch[0]) == 0
    assert source.stitched == 1


def test_hard_pictures_are_drawn_more_often(data: Path, tmp_path: Path) -> None:
    sources = read_sources(data, ["wider"], tmp_path)
    feedback = FeedbackState(sources)
    settings = config("data.weights={wider=1.0}").data
    dataset = DetectionSet(sources, settings, feedback, 1.0, 1)
    assert int(feedback.hard["wider"].sum()) == 4
    feedback.hard["wider"].copy_(torch.tensor([0, 0, 1, 0]))
    drawn = {dataset._pick(np.random.default_rng(i), scenes_only=False)[1] for i in range(20)}
    assert drawn == {2}


def test_the_same_draw_gives_the_same_crop(data: Path, tmp_path: Path) -> None:
    sources = read_sources(data, ["wider", "landmarks68", "backgrounds"], tmp_path)
    dataset = DetectionSet(sources, config().data, FeedbackState(sources), 0.5, 7)
    one, two = dataset[Draw(11, 128)], dataset[Draw(11, 128)]
    assert np.array_equal(one.image, two.image)
    batch = collate([one, dataset[Draw(12, 128)]])
    assert batch.images.shape == (2, 3, 128, 128)
    assert sum(batch.counts) == len(batch.faces)
    first, second = batch.faces.split(batch.counts)
    assert torch.equal(first.boxes, torch.from_numpy(one.targets.boxes))
    assert torch.equal(torch.cat((first.pose, second.pose)).nan_to_num(), batch.faces.pose.nan_to_num())


def test_hardness_counts_false_and_missed_boxes(data: Path, tmp_path: Path) -> None:
    targets = read_sources(data, ["wider"], tmp_path)["wider"].targets[0]
    exact = Faces(targets.boxes, np.ones(1, np.float32))
    nothing = Faces(np.empty((0, 4), np.float32), np.empty(0, np.float32))
    extra = Faces(np.concatenate([targets.boxes, targets.boxes + 90]), np.ones(2, np.float32))
    assert not is_hard(exact, targets)
    assert is_hard(nothing, targets)
    assert is_hard(extra, targets)


def test_every_field_of_the_shared_sets_is_used(shared_data: Path, tmp_path: Path) -> None:
    sources = read_sources(shared_data, ["masks"], tmp_path)
    assert sources["masks"].complete
    from edgeface.data.annotations import read_annotations
    from edgeface.data.targets import targets_of

    wider = [targets_of(p, regress_boxes=True) for p in read_annotations(shared_data / "wider", "train")[:200]]
    assert any((~np.isnan(t.pose)).any() for t in wider)
    assert any((~np.isnan(t.landmarks)).any() for t in wider)
    crops = [targets_of(p, regress_boxes=False) for p in read_annotations(shared_data / "landmarks68", "dev")]
    assert all(not t.complete and not t.regress.any() and len(t) == 1 for t in crops)
    assert TEACHER_PITCH_OFFSET_DEG == 4.5


def test_schedule_warms_up_and_ends_low() -> None:
    settings = config().optimiser
    assert learning_rate(0, 0.0, settings) == pytest.approx(settings.learning_rate / settings.warmup_steps)
    assert learning_rate(10**6, 1.0, settings) == pytest.approx(settings.learning_rate * settings.final_share)
    run = config("run.steps=100", "run.budget_minutes=10").run
    assert done_share(50, 0, run) == 0.5
    assert done_share(10, 540, run) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.box=diuo", "loss.box has no value 'diuo'. Did you mean 'diou'. Its values are diou, smooth_l1"),
        ("run.stepz=3", r"\[run\] has no key 'stepz'. Did you mean 'steps'\? Its keys are steps, budget_minutes"),
        ("runs.steps=3", "no section or key 'runs'. Did you mean 'run'"),
        ("canvases=[{size=256}]", r"\[canvases\[0\]\] has no key 'size'. Did you mean 'size_px'"),
        ("run.steps=many", "steps"),
        ("steps", "section.key=value"),
        ("canvases=[{size_px=100, batch=2, share=1.0}]", "multiple of 64"),
        ("data.weights={wider=-1}", "negative"),
        ("run.steps.more=1", "not a section"),
    ],
)
def test_a_wrong_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        config(override)


def test_an_option_that_the_network_has_not_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\[options\] has no key 'widht'. Did you mean 'width'\? Its keys are width"):
        trainer(data, tmp_path / "run", "options.widht=0.5x")


def test_a_missing_set_and_an_unusable_one_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="masks"):
        trainer(data, tmp_path / "run", "data.weights={masks=1.0}")


def test_a_run_of_another_network_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    trainer(data, tmp_path / "run", "run.steps=1").run()
    with pytest.raises(TrainingError, match="choose another --out"):
        trainer(data, tmp_path / "run", "options.width=1.0x")


def test_a_loss_that_is_no_number_ends_the_run(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "run.steps=2")
    with torch.no_grad():
        next(run.net.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="learning_rate"):
        run.run()


def test_a_bad_line_is_named_by_file_and_number(data: Path, tmp_path: Path) -> None:
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(data, bad)
    path = bad / "wider" / "annotations.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace('"box": [', '"box": [9999, ')
    path.write_text("\n".join(lines) + "\n")
    arguments: list[Any] = ["train", "mos_s", *TINY, "--data", str(bad), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 4
    assert "annotations.jsonl" in result.output
    assert "2" in result.output
    assert "Traceback" not in result.output
