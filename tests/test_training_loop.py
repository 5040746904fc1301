"""The loop that trains every network: what is frozen, states of earlier versions, the log and the curves of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeface.errors import OptionError, TrainingError
from edgeface.training.batches import RandomRows
from edgeface.training.config import Optimiser
from edgeface.training.freezing import Trained
from edgeface.training.loop import Schedule, Trainer
from edgeface.training.objective import Losses, Objective, summed
from edgeface.training.plots import plot_curves, read_log
from edgeface.training.probes import PlainProbe
from edgeface.training.state import RunDirectory

SAMPLES = torch.linspace(-1, 1, 8)[:, None]
OPTIMISER = Optimiser(learning_rate=0.05, warmup_steps=1)


class Doubles(Objective[Tensor]):
    """The network is to say twice what it is told."""

    def forward(self, batch: Tensor) -> Losses:
        return summed({"double": (self.net(batch) - 2 * batch).square().mean()})


def trainer(
    folder: Path, steps: int = 60, figures: PlainProbe | None = None, patterns: tuple[str, ...] = ("*",),
    optimiser: Optimiser = OPTIMISER,
) -> Trainer[Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    schedule = Schedule(steps, 0.0, 5.0, 10, optimiser, "doubles.")
    run = Trainer(
        Doubles(net), RandomRows(8, 0, 4, 1, lambda rows: SAMPLES[rows]), schedule, RunDirectory(folder),
        probe=figures, patterns=patterns,
    )
    run.resume()
    return run


def test_the_log_has_every_step_and_curves_are_drawn_of_it(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    assert run.run()
    train = [entry for entry in read_log(tmp_path / "log.jsonl") if entry["kind"] == "train"]
    assert [entry["step"] for entry in train] == [50, 60]
    assert train[1]["losses"]["double"] < train[0]["losses"]["double"]
    assert {"share", "minutes", "learning_rate", "loss", "weights", "faces_per_s"} <= set(train[0])
    assert plot_curves(tmp_path) == tmp_path / "curves.png"


def test_the_best_weights_are_kept_and_of_equal_ones_the_later(tmp_path: Path) -> None:
    chosen = iter([0.5, 0.9, 0.9, 0.1])
    run = trainer(tmp_path, 40, PlainProbe(lambda _net: {"choose": next(chosen)}))
    after: list[Tensor] = []
    run.run(lambda report: after.append(run.average.net.state_dict()["0.weight"].clone()))
    run.take_best()
    assert torch.equal(run.net.state_dict()["0.weight"], after[29])
    assert run.figures == {"choose": 0.9}
    assert run.dev == {"choose": 0.1}


def test_what_is_frozen_keeps_its_weights_and_its_statistics(tmp_path: Path) -> None:
    run = trainer(tmp_path, 3, patterns=("*", "!1", "!1.*"))
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    run.run()
    changed = {name for name, tensor in run.net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"0.weight", "0.bias", "2.weight", "2.bias"}
    run.take_best()
    assert all(parameter.requires_grad for parameter in run.net.parameters())


def test_modules_are_trained_by_their_own_names() -> None:
    net = nn.ModuleDict({"body": nn.BatchNorm1d(2), "quality": nn.Sequential(nn.BatchNorm1d(2))})
    Trained(net, ("quality*",)).training_mode()
    assert {name for name, module in net.named_modules() if module.training} == {"quality", "quality.0"}


def test_gradients_of_an_earlier_training_do_not_count_where_their_parameters_are_frozen() -> None:
    """They would be clipped with the others, and a run that is resumed has none of them."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net(torch.ones(1, 2)).sum().backward()
    Trained(net, ("1*",))
    assert {name for name, parameter in net.named_parameters() if parameter.grad is not None} == {"1.weight", "1.bias"}


def test_a_state_of_an_earlier_version_is_taken_up(tmp_path: Path) -> None:
    """Nets on regions had the network without its objective, and the least loss as their choice."""
    whole = trainer(tmp_path / "whole", 20, PlainProbe(lambda net: {"choose": -float(net(SAMPLES).abs().sum())}))
    whole.run(lambda report: whole.stop() if report.step == 12 else None)
    state = whole.directory.load_state()
    assert state is not None
    old = {name: state[name] for name in ("average", "average_updates", "optimiser", "best")}
    old["net"] = {name.removeprefix("net."): tensor for name, tensor in state["objective"].items()}
    old |= {"progress": {"step": 12, "spent_s": 1.0, "stitched": 0, "best": -1.0}, "done": False}
    old |= {"figures": {"face_accuracy": 0.5}, "least": -state["progress"]["best"]}
    RunDirectory(tmp_path / "old").make()
    RunDirectory(tmp_path / "old").save_state(old)
    again, resumed = trainer(tmp_path / "whole", 20), trainer(tmp_path / "old", 20)
    assert resumed.progress.step == 12
    assert resumed.progress.best == whole.progress.best
    again.run()
    resumed.run()
    for name, tensor in again.average.net.state_dict().items():
        assert torch.equal(tensor, resumed.average.net.state_dict()[name]), name


def test_a_loss_that_is_no_number_says_what_to_lower(tmp_path: Path) -> None:
    run = trainer(tmp_path, 3)
    with torch.no_grad():
        next(run.net.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 0: lower doubles\.optimiser\.learning_rate"):
        run.run()


def test_a_run_goes_on_with_its_own_optimiser_alone(tmp_path: Path) -> None:
    trainer(tmp_path, 2).run()
    for changed in ({"optimiser": Optimiser("sgd")}, {"patterns": ("*", "!1", "!1.*")}):
        with pytest.raises(TrainingError, match=r"another doubles\.optimiser\.name, or with other parts .* frozen"):
            trainer(tmp_path, 4, **changed)
    assert trainer(tmp_path, 4).progress.step == 2


@pytest.mark.parametrize(("steps", "every", "reason"), [(0, 10, "doubles.steps"), (3, 0, "doubles.dev_every_steps")])
def test_a_run_has_a_step(steps: int, every: int, reason: str) -> None:
    with pytest.raises(OptionError, match=f"^{reason} must be 1 or more, not 0$"):
        Schedule(steps, 0.0, 5.0, every, OPTIMISER, "doubles.")
