"""Calibration: the three methods on distributions whose answer is known, what is observed, and what is refused."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeface.quantize.calibrated import Calibrated, calibrated
from edgeface.quantize.calibration import calibrate, histogram, observe
from edgeface.quantize.pictures import calibration_batches, calibration_pictures
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.errors import CheckpointError, DataError, OptionError
from edgeface.int8.clipping import (
    BINS,
    Seen,
    UnknownCalibrationError,
    absmax,
    method,
    mse,
    percentile,
    squared_error,
)
from edgeface.int8.modules import Point, points
from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tiny_data import write_set, write_tiny_data


def seen(values: NDArray[np.float64]) -> Seen:
    largest = float(np.abs(values).max())
    return Seen(largest, np.histogram(np.abs(values), BINS, (0, largest))[0].astype(np.float64))


def normal(count: int = 200_000) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, 1, count)


class Twice(nn.Module):
    """One point in the middle, which holds twice the input."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.twice = Point(1.0, fixed=True), Point()

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(2 * self.data(x).value).value


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


@pytest.fixture(scope="module")
def done(tiny_checkpoint: Path, data: Path) -> Calibrated:
    return calibrated(load_checkpoint(tiny_checkpoint), data, "mse", ["heads.0.*"], pictures=4)


def test_labels_of_a_detector_are_not_calibrated_on_and_it_says_why(
    tmp_path: Path, astronaut: NDArray[np.uint8]
) -> None:
    write_set(tmp_path / "shop", [("a", astronaut, {"split": "train", "complete": 1, "faces": []})])
    (tmp_path / "shop" / "set.toml").write_text("measure = false\n")
    with pytest.raises(DataError, match=r"a detector labelled shop: .* write measure = true into its set\.toml"):
        calibration_pictures(tmp_path, 4)


def test_the_methods_by_name() -> None:
    assert method.names() == ["absmax", "mse", "percentile"]
    with pytest.raises(UnknownCalibrationError, match="Did you mean 'percentile'"):
        method.get("percentil")


def test_absmax_clips_nothing() -> None:
    assert absmax(seen(np.array([-3.5, 1.0, 2.0]))) == 3.5


def test_percentile_leaves_out_the_largest_ones() -> None:
    values = np.linspace(0, 1, 1_000_000)
    assert percentile(seen(np.append(values, 2.0))) == pytest.approx(0.9999, abs=2 / BINS)
    assert percentile(seen(values[:100])) <= values[99]


def test_mse_finds_the_clip_that_a_search_over_the_values_finds() -> None:
    values = np.append(normal(), 12.0)

    def error(clip: float) -> float:
        scale = clip / 127
        return float(((np.rint(values / scale).clip(-127, 127) * scale - values) ** 2).sum())

    clips = np.linspace(2, 12, 101)
    best = clips[int(np.argmin([error(c) for c in clips]))]
    assert mse(seen(values)) == pytest.approx(best, rel=0.1)
    assert error(mse(seen(values))) < min(error(12.0), error(2.0))


def test_mse_clips_nothing_where_everything_is_large() -> None:
    assert mse(seen(np.array([1.0, -1.0, 1.0]))) == pytest.approx(1.0, rel=0.02)


def test_squared_error_is_that_of_the_values() -> None:
    values = normal()
    for scale in (0.01, 0.03, 0.2):
        rounded = np.rint(values / scale).clip(-127, 127) * scale
        share = float(((rounded - values) ** 2).sum() / (values**2).sum())
        assert squared_error(seen(values), scale) == pytest.approx(share, rel=0.03)
    assert squared_error(Seen(0.0, np.zeros(BINS)), 1.0) == 0


def test_points_see_all_batches() -> None:
    net = Twice()
    batches = [torch.full((1, 1, 2, 2), v) for v in (0.25, -1.0, 0.5)]
    found = observe(net, batches, net)
    assert found["twice"].largest == 2
    assert found["twice"].counts.sum() == 12
    assert sorted(found["twice"].centres[found["twice"].counts > 0].round(2)) == [0.5, 1, 2]
    assert net.twice.observer is None
    calibrate(net, found, "absmax")
    assert net.twice.scale == pytest.approx(2 / 127)
    assert net.data.scale == 1          # fixed


def test_points_are_let_go_of_when_a_run_fails() -> None:
    net = Twice()

    def fail(_x: Tensor) -> None:
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        observe(net, [torch.zeros(1)], fail)
    assert net.twice.observer is None


def test_nothing_to_look_at_is_refused() -> None:
    with pytest.raises(DataError, match="no calibration pictures"):
        observe(Twice(), [], lambda _x: None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    net = Twice()
    batches = [torch.tensor([1.0, value])]
    with pytest.raises(DataError, match="holds values that are not numbers"):
        calibrate(net, observe(net, batches, net), "mse")


def test_batches_are_spread_over_the_sets_and_normalised(data: Path) -> None:
    batches = calibration_batches(data, 4)
    assert len(batches) == 4
    assert all(b.shape[2] % 32 == 0 and b.shape[3] % 32 == 0 for b in batches)
    assert {max(b.shape[2:]) for b in batches} == {480, 320, 256}     # small pictures are enlarged twofold at most
    assert all(float(b.min()) >= -1 and float(b.max()) < 1 for b in batches)
    assert len(calibration_batches(data, 500)) == 8     # all that there are


def test_a_folder_without_pictures_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no set in it"):
        calibration_batches(tmp_path, 4)
    write_tiny_data(tmp_path / "broken", np.zeros((512, 512, 3), np.uint8))
    for picture in (tmp_path / "broken" / "wider" / "images").iterdir():
        picture.write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a picture that OpenCV can decode"):
        calibration_batches(tmp_path / "broken", 4)


def test_a_calibrated_network_has_scales_that_fit_and_names_what_stays(done: Calibrated) -> None:
    assert done.quantisation == Quantisation(
        "mse", False, ["heads.0.score", "heads.0.box", "heads.0.landmarks"], done.quantisation.channel_multiple
    )
    assert set(done.seen) == {name for name, _ in points(done.net)}
    for name, point in points(done.net):
        if name != "data":
            assert 0.04 * done.seen[name].largest <= 127 * point.scale <= 1.001 * done.seen[name].largest, name
            assert squared_error(done.seen[name], point.scale) < 0.01, name


def test_other_layers_can_stay_in_float(done: Calibrated) -> None:
    before = done.quantisation.keep_float
    other = done.keeping(["backbone.stem"])
    assert other.quantisation.keep_float == ["backbone.stem"]
    assert not other.net.backbone.stem.int8
    assert done.keeping(before).quantisation == done.quantisation


def test_a_quantised_checkpoint_gives_the_same_network(done: Calibrated, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = load_checkpoint(tiny_checkpoint)
    save_checkpoint(
        tmp_path / "int8.pt",
        dataclasses.replace(source, state=done.net.state_dict(), quantisation=done.quantisation),
    )
    net = load_checkpoint(tmp_path / "int8.pt").build()
    assert net.is_deployed
    x = calibration_batches_of_noise()
    with torch.no_grad():
        for a, b in zip(net.maps(x), done.net.maps(x), strict=True):
            assert all(map(torch.equal, a.values(), b.values()))


def calibration_batches_of_noise() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(-127, 127, (1, 3, 64, 96)) / 128


def test_what_cannot_be_calibrated(done: Calibrated, tiny_checkpoint: Path, data: Path) -> None:
    source = load_checkpoint(tiny_checkpoint)
    run = partial(calibrated, data=data, pictures=2)
    with pytest.raises(UnknownCalibrationError, match="no calibration 'max'"):
        run(source, how="max")
    with pytest.raises(OptionError, match="no layer 'head'"):
        run(source, how="mse", keep_float=["head"])
    quantised = Checkpoint(source.model, source.options, done.net.state_dict(), quantisation=done.quantisation)
    with pytest.raises(CheckpointError, match="quantised already"):
        run(quantised, how="mse")


@pytest.mark.parametrize("scale", [1.0, 1.3, 1e-6])
def test_a_histogram_is_torch_s(scale: float) -> None:
    x = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(5)).abs() * scale
    largest = float(x.max())
    counts = histogram(x, largest)
    assert torch.equal(counts, torch.histc(x, BINS, 0, largest).long())
    assert int(counts.sum()) == x.numel()
    assert int(counts[-1]) >= 1
