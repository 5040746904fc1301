"""The report on int8, layer by layer, and the choice of layers that stay in float."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from edgeface.quantize.calibrated import Calibrated, calibrated
from edgeface.quantize.report import Report, clipped_share, make_report
from edgeface.quantize.report_files import write_report
from edgeface.quantize.sensitivity import (
    Losses,
    auto_keep,
    dev_batches,
    input_points,
    task_loss,
    undisturbed,
)
from numpy.typing import NDArray

from edgeface.errors import DataError, MissingExtraError, OptionError, OutputError
from edgeface.int8.clipping import BINS, Seen
from edgeface.int8.fake import fake_quantise_weight
from edgeface.int8.modules import convolutions, layer_scales, points, set_mode
from edgeface.int8.network import keep_in_float
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.mos import MOS
from edgeface.training.config import Config, default_config_path, load_config
from tiny_data import write_tiny_data


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(default_config_path("mos_s"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


@pytest.fixture(scope="module")
def start(tiny_checkpoint: Path, data: Path) -> Calibrated:
    return calibrated(load_checkpoint(tiny_checkpoint), data, "mse", ["backbone.stem"], pictures=4)


@pytest.fixture(scope="module")
def losses(start: Calibrated, data: Path, config: Config) -> Losses:
    return Losses(start.net, task_loss(start.net, config, dev_batches(data, config, crops=3, size_px=64)))


@pytest.fixture(scope="module")
def report(start: Calibrated, losses: Losses) -> Report:
    return make_report(start, losses)


def test_crops_are_the_same_each_time_and_of_the_dev_parts(data: Path, config: Config) -> None:
    one, two = dev_batches(data, config, 9, 64), dev_batches(data, config, 9, 64)
    assert [len(batch) for batch in one] == [8, 1]
    for a, b in zip(one, two, strict=True):
        assert a.images.shape[1:] == (3, 64, 64)
        assert torch.equal(a.images, b.images)
        assert (a.counts, a.complete) == (b.counts, b.complete)
        for known in ("boxes", "landmarks", "pose", "ignore", "regress"):
            x, y = getattr(a.faces, known), getattr(b.faces, known)
            assert torch.equal(x.nan_to_num(9), y.nan_to_num(9)), known
    assert len(one[0].faces) == sum(one[0].counts) > 0


def test_data_that_detectors_labelled_are_no_dev_part(
    tmp_path: Path, astronaut: NDArray[np.uint8], config: Config
) -> None:
    with pytest.raises(DataError, match="no set in it"):
        dev_batches(tmp_path, config)
    folder = write_tiny_data(tmp_path / "data", astronaut)
    for name in ("wider", "landmarks68"):
        (folder / name / "set.toml").write_text("measure = false")
    with pytest.raises(DataError, match="dev"):
        dev_batches(folder, config)


def test_the_loss_is_the_same_each_time(losses: Losses) -> None:
    torch.manual_seed(1)
    first = losses.quantised("all", ())
    torch.manual_seed(2)
    assert losses.quantised("all", ()) == first
    assert first != losses.float_loss
    assert losses.quantised("inputs", set(losses.layers)) == losses.float_loss


def test_measuring_leaves_the_network_as_it_was(start: Calibrated, losses: Losses) -> None:
    losses.quantised("float", ())
    assert {point.mode for _, point in points(start.net)} == {"all"}
    assert [name for name, conv in convolutions(start.net) if not conv.int8] == ["backbone.stem"]

    def fail() -> None:
        with undisturbed(start.net):
            set_mode(start.net, "float")
            keep_in_float(start.net, ["*"])
            raise OutputError("full")

    with pytest.raises(OutputError):
        fail()
    assert {point.mode for _, point in points(start.net)} == {"all"}
    assert [name for name, conv in convolutions(start.net) if not conv.int8] == ["backbone.stem"]


def test_a_layer_alone_is_in_int8_as_the_hand_would_do_it(start: Calibrated, losses: Losses) -> None:
    name = "fpn.smooth.0"
    convs, named = dict(convolutions(start.net)), dict(points(start.net))
    scale = torch.tensor(named[input_points(start.net)[name]].scale)
    conv = convs[name]
    weight = conv.weight.detach().clone()
    with undisturbed(start.net):
        set_mode(start.net, "float")
        handle = conv.register_forward_pre_hook(
            lambda _module, inputs: (
                inputs[0].mapped(lambda x: (x / scale).round().clamp(-127, 127) * scale), *inputs[1:]
            )
        )
        with torch.no_grad():
            conv.weight.copy_(fake_quantise_weight(weight))
        try:
            expected = losses._measure()
        finally:
            handle.remove()
            with torch.no_grad():
                conv.weight.copy_(weight)
    assert losses.layers[name] == pytest.approx(expected, rel=1e-4)
    assert losses.layers[name] != losses.float_loss


def test_every_layer_is_in_the_report_with_its_own_figures(start: Calibrated, report: Report) -> None:
    names = [name for name, _ in convolutions(start.net)]
    assert sorted(row.name for row in report.layers) == sorted(names)
    assert len(names) == 93
    assert [row.name for row in report.layers if not row.int8] == ["backbone.stem"]
    by_name = {row.name: row for row in report.layers}
    assert by_name["backbone.stem"].kind == "3x3"
    assert by_name["backbone.stem"].input.name == "data"
    assert by_name["backbone.stages.1.branches.2.depthwise"].kind == "depthwise 3x3"
    assert by_name["heads.0.score"].kind == "1x1"
    assert by_name["heads.0.score"].input == by_name["pose_heads.0.patch"].input

    def run() -> None:
        start.net.maps(torch.zeros(1, 3, 64, 64))

    for layer in layer_scales(start.net, run):
        row = by_name[layer.name]
        assert row.input.scale == pytest.approx(layer.input_scale)
        assert row.smallest_weight_scale <= row.largest_weight_scale == pytest.approx(
            float(layer.weight_scale[np.abs(layer.weight).max((1, 2, 3)) > 0].max())
        )
        assert row.weight_sqnr_db is not None
        assert 30 < row.weight_sqnr_db < 60
        assert row.input.sqnr_db is not None
        assert row.input.sqnr_db > 15
        assert 0 <= row.input.clipped_share < 0.05


def test_the_rest_is_what_only_tflite_rounds(report: Report, start: Calibrated) -> None:
    read = {row.input.name for row in report.layers}
    rest = {row.tensor.name for row in report.tflite_only}
    assert not read & rest
    assert read | rest == {name for name, _ in points(start.net)}
    assert {"heads.0.score_out", "fpn.lateral_out.0", "pose_heads.2.logits"} <= rest


def test_a_worse_scale_shows(start: Calibrated, losses: Losses, report: Report) -> None:
    point = dict(points(start.net))["fpn.sum_out.0"]
    good = point.scale
    try:
        point.set_scale(good / 20)
        fresh = Losses(start.net, losses._measure)
        (worse,) = (row for row in make_report(start, fresh).layers if row.name == "fpn.smooth.0")
    finally:
        point.set_scale(good)
    (before,) = (row for row in report.layers if row.name == "fpn.smooth.0")
    assert worse.input.clipped_share > before.input.clipped_share + 0.1
    assert worse.input.sqnr_db is not None
    assert before.input.sqnr_db is not None
    assert worse.input.sqnr_db < before.input.sqnr_db - 10
    assert abs(worse.loss_percent) > abs(before.loss_percent)


def test_the_share_beyond_a_scale() -> None:
    seen = Seen(2.0, np.ones(BINS))
    assert clipped_share(seen, 2 / 127) == pytest.approx(0)
    assert clipped_share(seen, 0.5 / 127) == pytest.approx(0.75)
    assert clipped_share(Seen(0.0, np.zeros(BINS)), 1.0) == 0


def test_the_report_as_files(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "report")
    folder = tmp_path / "new" / "report"
    assert sorted(p.name for p in folder.iterdir()) == ["layers.json", "layers.md", "layers.png"]
    assert msgspec.json.decode((folder / "layers.json").read_bytes(), type=Report) == report
    table = (folder / "layers.md").read_text().splitlines()
    rows = [line for line in table if line.startswith("| ")]
    assert len(rows) == 93 + len(report.tflite_only) + 4
    (stem,) = (line for line in rows if "| backbone.stem " in line)
    assert " float " in stem
    assert f"{report.layers[0].loss_percent:+.3f}" in stem
    picture = cv2.imread(str(folder / "layers.png"))
    assert picture is not None
    assert picture.shape[0] > 93 * 12       # a row a layer that can be read


def test_a_report_that_cannot_be_written(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_report(report, tmp_path / "file")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        write_report(report, tmp_path / "other")


class Costs(Losses):
    """The losses of a real network's layers, made up: 100, and for each layer in int8 its cost."""

    def __init__(self, net: MOS, costs: dict[str, float], joint: float = 0.0) -> None:
        def measure() -> float:
            mode = net.data.mode
            on = {name for name, conv in convolutions(net) if conv.int8 and name in costs and mode != "float"}
            both = joint if set(costs) <= on else 0.0
            return 100 + sum(costs[name] for name in on) + both + (7.0 if mode == "all" else 0.0)

        super().__init__(net, measure)



def test_nothing_is_kept_where_the_loss_is_within_the_bound(start: Calibrated) -> None:
    chosen = auto_keep(Costs(start.net, {"fpn.smooth.0": 5.0}), 0.05)
    assert (chosen.kept, chosen.before, chosen.after) == ([], 105, 105)
    assert "nothing to keep" in chosen.to_text(())


def test_the_costliest_layers_are_kept_and_no_more(start: Calibrated) -> None:
    costs = {"fpn.smooth.0": 5.0, "heads.0.box": 3.0, "heads.1.box": 2.0, "heads.2.box": 1.0}
    chosen = auto_keep(Costs(start.net, costs), 0.03)
    assert chosen.kept == ["fpn.smooth.0", "heads.0.box"]
    assert (chosen.float_loss, chosen.before, chosen.after) == (100, 111, 103)
    text = chosen.to_text(())
    assert "2 left in float" in text
    assert "from +11.00 to +3.00 %" in text
    assert "+10.00 % with all tensors rounded" in text
    assert "  heads.0.box" in text


def test_layers_that_turn_out_not_to_be_needed_go_back(start: Calibrated) -> None:
    costs = {"fpn.smooth.0": 4.0, "heads.0.box": 3.9, "heads.1.box": 0.5}
    assert auto_keep(Costs(start.net, costs), 0.045).kept == ["fpn.smooth.0"]
    # A cost of all three together goes with any one of them.
    assert auto_keep(Costs(start.net, {**costs, "heads.1.box": 4.1}, joint=20), 0.085).kept == ["heads.1.box"]
    costs = {"fpn.smooth.0": 1.0, "heads.0.box": 0.9, "heads.1.box": -0.5}
    chosen = auto_keep(Costs(start.net, costs), 0.0)
    assert chosen.kept == ["fpn.smooth.0", "heads.0.box"]
    assert chosen.after <= 100


def test_what_the_user_keeps_stays_and_is_not_counted(start: Calibrated) -> None:
    costs = {"fpn.smooth.0": 5.0, "heads.0.box": 3.0}
    chosen = auto_keep(Costs(start.net, costs), 0.01, ["heads.0.box", "heads.1.box"])
    assert chosen.kept == ["fpn.smooth.0", "heads.0.box", "heads.1.box"]
    assert chosen.before == 105
    assert "1 left in float" in chosen.to_text(["heads.0.box", "heads.1.box"])


def test_bounds_that_cannot_be_kept_are_refused(start: Calibrated) -> None:
    for bound in (-0.1, float("nan")):
        with pytest.raises(OptionError, match="0 or more"):
            auto_keep(Costs(start.net, {}), bound)
