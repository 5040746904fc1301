"""Patches that cascades train on: their kinds, their targets, the mixture of a batch, the losses, and the loop."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeface.data.targets import Targets
from edgeface.errors import TrainingError
from edgeface.models.patch_nets import P_NET, PatchOutput, patch_net
from edgeface.training.loop import Trainer
from edgeface.training.patches.losses import Weights, patch_losses
from edgeface.training.patches.samples import (
    LANDMARK,
    NEGATIVE,
    PART,
    POSITIVE,
    Batch,
    Mixture,
    SampleList,
    Samples,
    load_batch,
)
from edgeface.training.patches.training import Step, patch_trainer
from edgeface.training.patches.windows import (
    Known,
    box_offsets,
    judge,
    landmark_offsets,
    turned_landmarks,
    turned_patches,
)

SHARES = {"negatives": 3.0, "positives": 1.0, "parts": 1.0, "landmarks": 2.0}


def known(boxes: list[list[float]], ignored: list[list[float]] | None = None) -> Known:
    n = len(boxes)
    return Known(
        np.array(boxes, np.float32).reshape(n, 4), np.full((n, 5, 2), np.nan, np.float32), np.ones(n, bool),
        np.array(ignored or [], np.float32).reshape(-1, 4),
    )


def some_samples(count: int = 40, size_px: int = 12) -> Samples:
    """Bright patches are faces, dark ones are not."""
    rng = np.random.default_rng(0)
    out = SampleList(size_px)
    for kind, level in ((NEGATIVE, 40), (PART, 150), (POSITIVE, 210), (LANDMARK, 180)):
        pixels = rng.integers(level - 30, level + 30, (count, size_px, size_px, 3)).astype(np.uint8)
        box = rng.uniform(-0.1, 0.1, (count, 4)).astype(np.float32) if kind in (PART, POSITIVE) else None
        landmarks = rng.uniform(-0.3, 0.3, (count, 10)).astype(np.float32) if kind == LANDMARK else None
        out.add(pixels, kind, box, landmarks)
    return out.samples()


def step(**changes: object) -> Step:
    settings = {
        "steps": 6, "batch": 32, "shares": SHARES, "weights": {"face": 1.0, "box": 0.5, "landmarks": 0.5},
        "optimiser": {"learning_rate": 0.01, "warmup_steps": 1}, "dev_every_steps": 3, **changes,
    }
    return msgspec.convert(settings, Step)


def test_windows_are_kinds_by_their_overlap() -> None:
    squares = np.array([[100, 100, 50], [112, 100, 50], [130, 100, 50], [300, 300, 50], [400, 10, 40]])
    judged = judge(squares, known([[100, 100, 150, 150]], ignored=[[395, 5, 445, 55]]))
    # The second overlaps by 38 / 62, the third by 20 / 80, and the last lies in a face that is ignored.
    assert judged.kind.tolist() == [POSITIVE, PART, NEGATIVE, NEGATIVE, -1]
    assert judged.overlap[1] == pytest.approx(38 / 62)


def test_small_and_ignored_faces_are_neither_faces_nor_background() -> None:
    targets = Targets(
        np.array([[0, 0, 30, 40], [50, 50, 58, 70], [80, 80, 120, 120]], np.float32),
        np.full((3, 5, 2), np.nan, np.float32), np.full((3, 3), np.nan, np.float32),
        np.array([False, False, True]), np.ones(3, bool), True,
    )
    faces = Known.of(targets, 10)
    assert faces.boxes.tolist() == [[0, 0, 30, 40]]
    assert faces.ignored.tolist() == [[50, 50, 58, 70], [80, 80, 120, 120]]


def test_offsets_are_in_sides_of_the_window() -> None:
    squares = np.array([[100, 200, 40]])
    assert box_offsets(squares, np.array([[90, 200, 150, 260]], np.float32)).tolist() == [[-0.25, 0, 0.25, 0.5]]
    points = np.array([[[100, 200], [140, 240], [120, 220], [110, 230], [130, 230]]], np.float32)
    assert landmark_offsets(squares, points)[0, :6].tolist() == [-0.5, -0.5, 0.5, 0.5, 0, 0]


@pytest.mark.parametrize("side", [60, 300])
def test_turned_landmarks_lie_on_their_points(side: int) -> None:
    picture = np.zeros((500, 600, 3), np.uint8)
    shares = np.array([[0.3, 0.35], [0.7, 0.4], [0.5, 0.55], [0.35, 0.75], [0.65, 0.7]])
    points = (shares * side + 120).astype(np.float32)
    for x, y in points:
        cv2.circle(picture, (round(float(x)), round(float(y))), side // 20, (255, 255, 255), -1)
    squares, angles = np.array([[120, 120, side]]), np.array([20.0], np.float32)
    patch = turned_patches(picture, squares, angles, 48)[0]
    places = (turned_landmarks(squares, angles, points[None])[0].reshape(5, 2) + 0.5) * 48
    assert all(patch[int(y), int(x)].min() > 150 for x, y in places)
    assert patch[2, 2].max() == 0


def test_a_window_outside_its_picture_is_padding() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    patch = turned_patches(picture, np.array([[-300, -300, 20]]), np.zeros(1, np.float32), 12)
    assert (patch == 128).all()


def test_a_batch_has_its_mixture_and_every_sample_once_an_epoch() -> None:
    samples = some_samples(40)
    batches = Mixture(samples, SHARES, 70, seed=3)
    drawn = np.concatenate([batches.draw(i) for i in range(4)])
    counts = np.bincount(samples.kind[drawn], minlength=4)
    assert counts.tolist() == [120, 40, 40, 80]
    assert sorted(drawn[samples.kind[drawn] == POSITIVE].tolist()) == list(range(80, 120))
    assert np.array_equal(batches.draw(2), Mixture(samples, SHARES, 70, seed=3).draw(2))


def test_mirroring_swaps_edges_and_points() -> None:
    out = SampleList(12)
    pixels = np.zeros((64, 12, 12, 3), np.uint8)
    pixels[:, :, 0] = 255
    landmarks = np.tile(np.array([[-0.2, -0.1, 0.3, -0.1, 0.05, 0, -0.1, 0.2, 0.15, 0.2]], np.float32), (64, 1))
    box = np.tile(np.array([[-0.1, 0.02, 0.3, 0.04]], np.float32), (64, 1))
    out.add(pixels, POSITIVE, box, landmarks)
    batch = load_batch(out.samples(), np.arange(64), np.random.default_rng(1), 0.0)
    mirrored = batch.patches[:, 0, 11, 0] == 255
    assert 10 < int(mirrored.sum()) < 54
    assert torch.allclose(batch.box[mirrored][0], torch.tensor([-0.3, 0.02, 0.1, 0.04]))
    expected = torch.tensor([-0.3, -0.1, 0.2, -0.1, -0.05, 0, -0.15, 0.2, 0.1, 0.2])
    assert torch.allclose(batch.landmarks[mirrored][0], expected)
    assert torch.equal(batch.box[~mirrored][0], torch.from_numpy(box[0]))


def test_hard_samples_alone_count_and_each_task_has_its_samples() -> None:
    nan = float("nan")
    batch = Batch(
        torch.zeros(4, 12, 12, 3, dtype=torch.uint8), torch.tensor([NEGATIVE, POSITIVE, PART, LANDMARK]),
        torch.tensor([[nan] * 4, [0.1] * 4, [0.2] * 4, [nan] * 4]), torch.tensor([[nan] * 10] * 3 + [[0.3] * 10]),
        torch.zeros(4, 0),
    )
    output = PatchOutput(torch.tensor([-5.0, -2.0, 9.0, 9.0]), torch.zeros(4, 4), torch.zeros(4, 10))
    losses = patch_losses(output, batch, Weights(), hard_share=0.5)
    assert float(losses.tasks["face"]) == pytest.approx(2.1269, abs=1e-4)     # the missed face, not the easy negative
    assert float(losses.tasks["box"]) == pytest.approx((4 * 0.01 + 4 * 0.04) / 2)
    assert float(losses.tasks["landmarks"]) == pytest.approx(10 * 0.09)
    assert float(losses.total) == pytest.approx(2.1269 + 0.5 * 0.1 + 0.5 * 0.9, abs=1e-4)
    every = patch_losses(output, batch, Weights(), hard_share=1.0).tasks["face"]
    assert float(every) == pytest.approx((2.1269 + 0.0067) / 2, abs=1e-4)


def test_a_batch_without_a_task_gives_no_loss_and_no_nan() -> None:
    batch = Batch(
        torch.zeros(1, 12, 12, 3, dtype=torch.uint8), torch.tensor([LANDMARK]), torch.full((1, 4), torch.nan),
        torch.full((1, 10), torch.nan), torch.zeros(1, 0),
    )
    score = torch.zeros(1, requires_grad=True)
    losses = patch_losses(PatchOutput(score, torch.zeros(1, 4), torch.zeros(1, 10)), batch, Weights(), 0.7)
    losses.total.backward()
    assert float(losses.total.detach()) == 0
    assert score.grad is not None
    assert float(score.grad) == 0


def test_samples_are_written_whole_and_damaged_ones_are_named(tmp_path: Path) -> None:
    samples = some_samples(5)
    samples.write(tmp_path / "samples")
    again = Samples.open(tmp_path / "samples")
    assert all(np.array_equal(getattr(samples, f), getattr(again, f), equal_nan=f != "pixels")
               for f in ("pixels", "box", "landmarks"))
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]
    (tmp_path / "samples" / "box.npy").write_bytes(b"cut")
    with pytest.raises(TrainingError, match="cannot be read: remove the folder"):
        Samples.open(tmp_path / "samples")


def test_no_samples_are_refused() -> None:
    with pytest.raises(TrainingError, match="no samples"):
        Mixture(SampleList(12).samples(), SHARES, 8, 0)


def weights(trainer: Trainer[Batch]) -> NDArray[np.float32]:
    return np.concatenate([p.detach().numpy().ravel() for p in trainer.net.parameters()])


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trainer(folder: str) -> Trainer[Batch]:
        torch.manual_seed(0)
        return patch_trainer(patch_net(P_NET, "prelu"), some_samples(), step(), tmp_path / folder)

    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = trainer("whole")
    assert whole.run()
    broken = trainer("broken")
    look = broken._look

    def stop() -> None:
        look()
        broken.stop_requested = True

    monkeypatch.setattr(broken, "_look", stop)
    assert not broken.run()
    assert broken.progress.step == 3
    resumed = trainer("broken")
    assert resumed.progress.step == 3
    assert resumed.run()
    assert np.array_equal(weights(whole), weights(resumed))
    assert trainer("broken").done
    assert not patch_trainer(patch_net(P_NET, "prelu"), some_samples(), step(steps=9), tmp_path / "broken").done


def test_training_tells_bright_from_dark(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = patch_trainer(patch_net(P_NET, "relu"), some_samples(), step(steps=40, colour=0.0), tmp_path)
    means: list[float] = []         # over all steps so far
    trainer.run(lambda report: means.append(report.losses["face"]))
    assert 40 * means[-1] - 35 * means[-6] < 5 * 0.3 * means[0]


def test_another_networks_state_is_refused(tmp_path: Path) -> None:
    patch_trainer(patch_net(P_NET, "prelu"), some_samples(), step(steps=1), tmp_path).run()
    with pytest.raises(TrainingError, match="another network"):
        patch_trainer(patch_net(P_NET, "relu"), some_samples(), step(steps=1), tmp_path)
