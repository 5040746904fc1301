"""S3FD's matching on hand-made cases, its losses, its schedule, and a run on a few pictures that is gone on with."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.cli import main
from edgeface.data.detection import Batch, Draw, collate
from edgeface.errors import CheckpointError, OptionError, UnknownModelError
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.dense import DenseOutput
from edgeface.models.s3fd import S3FD
from edgeface.training.assign import BACKGROUND, IGNORED, match_compensated, pairwise_overlap
from edgeface.training.config import Config, Loss, default_config_path, load_config
from edgeface.training.crop_batches import CropBatches
from edgeface.training.detector import detector_family, detector_trainer
from edgeface.training.loop import Trainer
from edgeface.training.plots import read_log
from edgeface.training.s3fd import S3FDObjective
from edgeface.training.schedule import learning_rate
from test_s3fd import vgg16
from tiny_data import one_face, write_tiny_data

# A row of 16 px anchors, 4 px apart, as those of the finest level lie; the first one's centre is at (8, 8).
ROW = torch.tensor([[8.0 + 4 * i, 8.0, 16.0] for i in range(40)])


def matched(
    pictures: Sequence[Sequence[Sequence[float]]], ignore: Sequence[Sequence[bool]] | None = None,
    complete: Sequence[bool] | None = None, anchors: Tensor = ROW,
) -> list[list[int]]:
    faces = [
        (torch.tensor(boxes).view(-1, 4), torch.tensor(flags, dtype=torch.bool))
        for boxes, flags in zip(pictures, ignore or [[False] * len(boxes) for boxes in pictures], strict=True)
    ]
    found = match_compensated(
        anchors, faces, complete or [True] * len(pictures), positive_iou=0.35, least_iou=0.1
    )
    return [numbers.tolist() for numbers in found]


def anchors_of(numbers: Sequence[int], face: int) -> list[int]:
    return [i for i, number in enumerate(numbers) if number == face]


def test_a_face_takes_the_anchors_from_an_iou_of_35_percent_on() -> None:
    # Exactly anchor 10: its neighbours' IoUs are 12 / 20 = .6 and 8 / 24 = .33.
    (numbers,) = matched([[[40, 0, 56, 16]]])
    assert anchors_of(numbers, 0) == [9, 10, 11]
    assert all(number == BACKGROUND for i, number in enumerate(numbers) if i not in (9, 10, 11))


def test_a_face_that_reaches_no_anchor_takes_its_best_one() -> None:
    # 6 px: 36 / 256 = .14 with the anchors that hold it, under .35.
    (numbers,) = matched([[[45, 5, 51, 11]]])
    assert anchors_of(numbers, 0) == [10]


def test_a_face_with_few_anchors_gets_as_many_as_the_mean_of_the_batch() -> None:
    # The second picture's faces have 3 and 3 in stage one, the first one's 1: the mean is 7 / 3, rounded 2.
    numbers, others = matched([[[45, 5, 51, 11]], [[40, 0, 56, 16], [100, 0, 116, 16]]])
    taken = anchors_of(numbers, 0)
    assert len(taken) == 2
    assert 10 in taken
    iou, _ = pairwise_overlap(ROW[taken], torch.tensor([[45.0, 5, 51, 11]]))
    assert float(iou.min()) > 0.1
    assert [len(anchors_of(others, face)) for face in (0, 1)] == [3, 3]


def test_anchors_are_not_given_below_ten_percent() -> None:
    # 4 px: 16 / 256 = .06 with every anchor round it, so that it keeps the one of stage one.
    numbers, _ = matched([[[46, 6, 50, 10]], [[40, 0, 56, 16], [100, 0, 116, 16]]])
    assert len(anchors_of(numbers, 0)) == 1


def test_what_stage_one_gave_is_not_taken_away() -> None:
    # The small face's best anchors, 10 and 11, are the large one's; 12 is the next one that it has over .1 with.
    (numbers,) = matched([[[40, 0, 56, 16], [46, 4, 54, 12], [100, 0, 116, 16], [120, 0, 136, 16]]])
    assert [anchors_of(numbers, face) for face in range(4)] == [[9, 10, 11], [12], [24, 25, 26], [29, 30, 31]]


def test_an_anchor_that_two_small_faces_want_goes_to_the_better_fit() -> None:
    # Each has one of the outer anchors, IoU .25, and wants the one between, .14 and .16. The large face's three make
    # the mean 5 / 3, rounded 2.
    anchors = torch.tensor([[x, 8.0, 16.0] for x in (8.0, 16.0, 24.0, 100.0, 104.0, 108.0)])
    (numbers,) = matched([[[5, 4, 13, 12], [18.5, 4, 26.5, 12], [96, 0, 112, 16]]], anchors=anchors)
    assert numbers == [0, 1, 1, 2, 2, 2]


def test_two_faces_on_one_best_anchor_leave_it_to_the_better_fit() -> None:
    sparse = torch.tensor([[8.0, 8.0, 16.0], [80.0, 8.0, 16.0]])
    (numbers,) = matched([[[4, 4, 10, 10], [0, 0, 15, 16]]], anchors=sparse)
    assert numbers == [1, BACKGROUND]


def test_ignored_regions_and_incomplete_pictures_give_no_background() -> None:
    ignored, incomplete, empty, nothing = matched(
        [[[40, 0, 56, 16]], [[40, 0, 56, 16]], [], []], [[True], [False], [], []], [True, False, True, False]
    )
    assert anchors_of(ignored, 0) == []
    assert ignored[10] == IGNORED
    assert ignored[30] == BACKGROUND
    assert set(incomplete) == {0, IGNORED}
    assert set(empty) == {BACKGROUND}
    assert set(nothing) == {IGNORED}


class Fixed(nn.Module):
    """A network that gives the same maps whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        sides = [128 // stride for stride in (4, 8, 16, 32, 64, 128)]
        self.score = nn.ParameterList(torch.zeros(1, 2, side, side) for side in sides)
        self.box = nn.ParameterList(torch.zeros(1, 4, side, side) for side in sides)

    def forward(self, _x: Tensor) -> DenseOutput:
        return DenseOutput(list(self.score), list(self.box), [], [])


def test_the_losses_are_what_the_paper_s_formulas_give() -> None:
    loss = load_config(default_config_path("s3fd")).loss
    net = Fixed()
    # The one anchor of the last level, 512 px round (64, 64), and a face that is it, moved by a fifth of its side.
    box = torch.tensor([[64 - 256 + 102.4, 64 - 256, 64 + 256 + 102.4, 64 + 256]])
    with torch.no_grad():
        net.score[5][0, 1] = 2.0
        net.score[0][0, 1, :2, :2] = 1.0        # four false faces, of which three are mined
    objective = S3FDObjective(net, loss, 25.0)
    total, losses, told = objective(one_face(box))
    positive, negative = math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))
    # dx is .2 sides over the variance .1: 2, whose smooth L1 with beta 1 is 1.5.
    assert losses == pytest.approx({"score": positive + 3 * negative, "box": 1.5}, rel=1e-5)
    assert total.item() == pytest.approx(positive + 3 * negative + 1.5, rel=1e-5)
    assert told == pytest.approx({"small_boxes": 0, "boxes": 1.5}, rel=1e-5)


def test_the_weights_of_the_losses_are_not_learned() -> None:
    with pytest.raises(OptionError, match="learn_weights=false"):
        S3FDObjective(Fixed(), Loss(), 25.0)


def test_the_rate_falls_to_a_tenth_where_the_paper_s_does() -> None:
    config = load_config(default_config_path("s3fd"))
    steps = config.run.steps
    rates = [learning_rate(step, step / steps, config.optimiser) for step in (1000, 79_990, 80_000, 99_990, 100_000)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


TINY = (
    "canvases=[{size_px=128, batch=2, share=1.0}]", "data.workers=0", "data.weights={wider=0.8, backgrounds=0.2}",
    "run.epoch_steps=100", "run.dev_pictures=1", "run.dev_size_px=128", "run.precision=fp32",
    "optimiser.warmup_steps=2",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


def config(*overrides: str, name: str = "s3fd_light") -> Config:
    return load_config(default_config_path(name), [*TINY, *overrides])


def trainer(
    data: Path, out: Path, *overrides: str, name: str = "s3fd_light", start_from: Path | None = None
) -> Trainer[Batch]:
    return detector_trainer(
        config(*overrides, name=name), data, out, out / "cache", "test", overrides, lambda it, _l, _t: it, start_from
    )


def losses_on(run: Trainer[Batch], crops: Batch) -> NDArray[np.float32]:
    """Score and box loss on fixed crops, which leaves the network as it was."""
    state = copy.deepcopy(run.objective.state_dict())
    with torch.no_grad():
        losses = run.objective.train()(crops).tasks
    run.objective.load_state_dict(state)
    return np.array([float(losses[task]) for task in ("score", "box")], np.float32)


def test_a_run_learns_and_is_gone_on_with(data: Path, tmp_path: Path) -> None:
    first = trainer(data, tmp_path / "run", "data.weights={wider=1.0}", "run.steps=24")
    assert isinstance(first.source, CropBatches)
    crops = collate([first.source.dataset[Draw(number, 128)] for number in range(1000, 1008)])
    before = losses_on(first, crops)
    first.run()
    after = losses_on(first, crops)
    assert after[0] < 0.8 * before[0]       # so few steps tell faces from the rest, and hardly begin to place them
    assert after.sum() < before.sum()
    second = trainer(data, tmp_path / "run", "data.weights={wider=1.0}", "run.steps=26")
    assert second.progress.step == 24
    for name, tensor in first.objective.state_dict().items():
        assert torch.equal(tensor, second.objective.state_dict()[name]), name
    second.run()
    assert second.progress.step == 26
    assert load_checkpoint(tmp_path / "run" / "s3fd_light.last.pt").made["step"] == 26


def test_the_command_trains_it(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(
        main,
        ["train", "s3fd_light", *TINY, "run.steps=2", "run.epoch_steps=1", "--data", str(data), "--out", str(out),
         "--cache", str(tmp_path / "cache")],
    )
    assert result.exit_code == 0, result.output
    assert isinstance(load_checkpoint(out / "s3fd_light.last.pt").build(), S3FD)
    dev = [entry for entry in read_log(out / "log.jsonl") if entry["kind"] == "dev"]
    assert len(dev) == 2
    assert all("ap_easy" in entry and "nme_percent" not in entry for entry in dev)


def test_s3fd_starts_from_vgg16_s_weights(data: Path, tmp_path: Path) -> None:
    torch.save(vgg16(), tmp_path / "vgg16.pth")
    run = trainer(data, tmp_path / "run", name="s3fd", start_from=tmp_path / "vgg16.pth")
    assert isinstance(run.net, S3FD)
    fc6 = run.net.backbone[3].get_submodule("1")
    assert isinstance(fc6, nn.Conv2d)
    assert fc6.bias is not None
    assert fc6.bias.tolist() == list(range(0, 4096, 4))
    assert run.checkpoints is not None
    assert run.checkpoints.made["started_from"]["made"] == {"backbone": "vgg16.pth"}
    with pytest.raises(CheckpointError, match="not an edgeface checkpoint"):
        trainer(data, tmp_path / "light", start_from=tmp_path / "vgg16.pth")


def test_a_file_of_other_weights_is_named(data: Path, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: has no features\.0\.weight"):
        trainer(data, tmp_path / "run", name="s3fd", start_from=tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.pth: damaged"):
        trainer(data, tmp_path / "run", name="s3fd", start_from=tmp_path / "text.pth")


def test_canvases_that_the_last_level_cannot_have_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="s3fd_light need a size_px that is a multiple of 128"):
        trainer(data, tmp_path / "run", "canvases=[{size_px=192, batch=2, share=1.0}]")


def test_a_model_that_is_no_dense_detector_is_named() -> None:
    with pytest.raises(UnknownModelError, match=r"no dense detector 'tcnn'.*mos_s"):
        detector_family("tcnn")
    assert detector_family("s3fd").starts is not None
