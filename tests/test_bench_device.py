"""``edgeface bench --device``: measured by a worker, or estimated where the board is only emulated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from edgeface.convert import convert
from edgeface.devices import boards
from edgeface.devices.estimate import estimates
from edgeface.devices.estimate.calibration import KindError
from edgeface.devices.estimate.costing import find_tools
from edgeface.devices.estimate.estimates import (
    BundleEstimate,
    CropsEstimate,
    EstimateReport,
    LayerEstimate,
    StageEstimate,
)
from edgeface.devices.estimate.inputs import face_boxes
from edgeface.devices.estimate.plots import layer_bars
from edgeface.devices.links import open_link
from edgeface.devices.links.local import LocalLink
from edgeface.devices.timing import time_on_board

from arm_code import llvm_or_skip, without_programs
from edgeface.bundle import read_bundle
from edgeface.cli import main
from edgeface.cli.bench_estimate import estimate_lines
from edgeface.cli.bench_measured import text_lines
from edgeface.errors import InstallError, OptionError
from edgeface.images import write_image
from edgeface.runtime.benchmark import Condition, Pictures, synthetic_scene
from edgeface.runtime.loading import load
from edgeface.runtime.stages.kinds import kind_of
from edgeface.torch_engine import checkpoint_bundle
from lively_patches import save_int8, save_lively
from loopback_ssh import LoopbackSsh

# A first run makes the emulated root.
ROOT_TIMEOUT_S = 1500


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def a_bundle() -> BundleEstimate:
    stages = [
        StageEstimate("preprocessing", 1.0, 0.75, 1e6, 2_000_000, 0.997, 0),
        StageEstimate("network", 20.0, 0.0, 3.6e7, 90_000_000, 0.999, 0),
        StageEstimate("decoding", 0.5, 0.25, 5e5, 1_000_000, 0.98, 20),
    ]
    layers = [LayerEstimate(f"conv_{i}", "Convolution", "3x3 / 2, 3 to 24", 3.0 + i, 1000) for i in range(8)]
    layers.append(LayerEstimate("cat", "Concat", "", 4.0, 1000))
    return BundleEstimate(
        "given", "net-int8-ncnn", "mos_s", "ncnn", "int8", 1_500_000, 2, 21.5, 32.0, 33.6, stages, layers
    )


def a_report(*bundles: BundleEstimate) -> EstimateReport:
    return EstimateReport(
        "estimate", "rk3399", "cortex-a72", 1800, 2, 1.5, 0.09, KindError(5, 0.1, -0.05), None, 25, 1.6, 0.05,
        {"llvm": "19.1.7", "ncnn": "1.0"}, (320, 256), "a picture", (640, 480), list(bundles),
    )


def test_every_line_calls_an_estimate_what_it_is() -> None:
    lines = list(estimate_lines(a_report(a_bundle()), 3))
    assert lines[0] == "Estimate for rk3399, cortex-a72 at 1800 MHz, 2 threads: no time was measured"
    assert "x 1.500; off by 9.0% on average over 25 published networks" in lines[1]
    assert lines[2] == "Of these 5 networks in int8: off by 10.0%, on average 5.0% too fast"
    assert "1.60 times as fast as by one, as published for ncnn (off by 5.0% on average)" in lines[3]
    row = next(line for line in lines if line.startswith("net-int8-ncnn  "))
    assert " ".join(row.split()) == "net-int8-ncnn ncnn int8 1.50 20.00 1.00 0.75 0.50 0.25 0.00 21.50 2"
    # Where too little was costed, it says so.
    assert "net-int8-ncnn, decoding: 98.0% of the instructions were costed, 20 of those without a model" in lines
    assert not any("network: 99.9%" in line for line in lines)


def test_nets_on_crops_stand_below_by_the_face() -> None:
    crops = [CropsEstimate(2, 48, count, 2.0 * count, 0.5 * count, 0.5, 2.0 * count, []) for count in (1, 10)]
    cascade = msgspec.structs.replace(
        a_bundle(), name="cascade", crops=crops, stages=[*a_bundle().stages, StageEstimate("crops", 4.0, 0, 1, 1, 1, 0)]
    )
    lines = list(estimate_lines(a_report(cascade), 0))
    row = next(line for line in lines if line.startswith("cascade  "))
    assert row.split()[9:] == ["4.00", "21.50", "2"]        # the nets on faces that were found, the total, the faces
    rows = [line.split() for line in lines if line.startswith("cascade  ") and "48 px" in line]
    assert [row[5:] for row in rows] == [
        ["1", "2.00", "0.50", "0.50", "3.00", "3.00"], ["10", "20.00", "5.00", "0.50", "25.50", "2.55"]
    ]
    # A refinement finds no faces, so there is nothing to say of a whole picture.
    refinement = msgspec.structs.replace(cascade, stages=[], faces=0)
    alone = list(estimate_lines(a_report(refinement), 0))
    assert not any(line.startswith("BUNDLE") or "No face was found" in line for line in alone)
    assert sum("48 px" in line for line in alone) == 2
    report = a_report(cascade, refinement)
    assert msgspec.json.decode(report.to_json(), type=EstimateReport) == report


def test_layers_are_summed_by_kind_and_the_slowest_shown() -> None:
    lines = list(estimate_lines(a_report(a_bundle()), 2))
    assert "net-int8-ncnn, 9 layers by one thread: 33.60 ms, +5.0% from the network as a whole" in lines
    kinds = lines.index(next(line for line in lines if line.startswith("KIND")))
    assert [line.split()[:3] for line in lines[kinds + 1 : kinds + 3]] == [
        ["Convolution", "8", "52.00"], ["Concat", "1", "4.00"]
    ]
    slowest = lines.index(next(line for line in lines if line.startswith("SLOWEST")))
    assert [line.split()[0] for line in lines[slowest + 1 :]] == ["conv_7", "conv_6"]
    assert not any("SLOWEST" in line for line in estimate_lines(a_report(a_bundle()), 0))


def test_the_json_has_all_layers_and_reads_back() -> None:
    report = a_report(a_bundle())
    assert msgspec.json.decode(report.to_json(), type=EstimateReport) == report
    content = json.loads(report.to_json())
    assert content["place"] == "estimate"
    assert len(content["bundles"][0]["layers"]) == 9
    # No key could be taken for a time that was measured.
    assert not {"p50", "p95", "p99", "samples"} & set(report.to_json().decode().split('"'))


def test_the_plot_has_a_bar_a_layer() -> None:
    pytest.importorskip("matplotlib")
    bundle = a_bundle()
    plot = cv2.imdecode(np.frombuffer(layer_bars(a_report(bundle)), np.uint8), cv2.IMREAD_COLOR)
    longer = msgspec.structs.replace(bundle, layers=bundle.layers * 3)
    taller = cv2.imdecode(np.frombuffer(layer_bars(a_report(longer)), np.uint8), cv2.IMREAD_COLOR)
    assert taller.shape[0] > plot.shape[0]
    blue = (plot == (0xB4, 0x77, 0x1F)).all(-1)     # matplotlib's first colour, BGR, is that of the first kind
    assert 0.02 < blue.mean() < 0.9
    with pytest.raises(OptionError, match="nothing to plot"):
        layer_bars(a_report(msgspec.structs.replace(bundle, layers=[])))


def test_a_worker_times_bundles_that_are_brought_to_it(tiny_bundle: Path) -> None:
    board = boards.find("host")
    pictures = Pictures("two scenes", [synthetic_scene(), synthetic_scene(320, 240)])
    report = time_on_board(
        LocalLink(board), [str(tiny_bundle)] * 2, pictures, threads=1, size_px=(160, 128), rounds=3
    )
    assert report.place == "board"
    assert (report.rounds, report.picture_count, report.threads, report.size_px) == (3, 2, 1, (160, 128))
    name = read_bundle(tiny_bundle).name
    assert [(measured.name, measured.samples) for measured in report.bundles] == [(name, 3)] * 2
    for measured in report.bundles:
        parts = measured.preprocess_ms.max + measured.network_ms.max + measured.decode_ms.max
        assert 0 < measured.network_ms.min <= measured.total_ms.max <= parts * 1.001
    assert len(report.conditions) == 2
    assert next(text_lines(report)).startswith("Time on the board: host, this machine")


def test_a_board_by_ssh_times_a_bundle_and_keeps_nothing_of_it(ssh: LoopbackSsh) -> None:
    board = ssh.board()
    report = time_on_board(
        open_link(board), ["mos_s"], Pictures("a scene", [synthetic_scene()]), threads=1, size_px=(160, 128), rounds=2,
        engine="tflite",
    )
    assert report.cpu.startswith(f"{board.name}, board at ")
    (measured,) = report.bundles
    assert (measured.given, measured.engine, measured.samples) == ("mos_s", "tflite", 2)
    assert not [path for path in ssh.home.rglob("*") if path.name == "bundle.json"]


def test_a_board_is_given_no_checkpoint(tiny_checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="a checkpoint runs on no board"):
        time_on_board(
            LocalLink(boards.find("host")), [str(tiny_checkpoint)], Pictures("a scene", [synthetic_scene()]),
            threads=1, size_px=160, rounds=1,
        )
    result = bench(tiny_checkpoint, "--device", "rk3399")
    assert result.exit_code == OptionError.exit_code
    assert "edgeface convert" in result.stderr


def test_heat_clocks_and_what_slows_a_board_stand_beside_its_times(tiny_bundle: Path) -> None:
    said: list[str] = []
    report = time_on_board(
        LocalLink(boards.find("host")), [str(tiny_bundle)], Pictures("a scene", [synthetic_scene()]),
        threads=1, size_px=160, rounds=1, progress=said.append,
    )
    assert said[1].startswith("1 bundle, ")
    hot = msgspec.structs.replace(report, conditions=[
        Condition(51.25, {"0,1": 1800}, []), Condition(80.0, {"0,1": 1200}, ["CPU 0, 1 may run at 1200 MHz at most"])
    ])
    lines = list(text_lines(hot))
    assert lines[1] == "Before: 51.2 degrees C at the hottest sensor, CPU 0,1 at 1800 MHz"
    assert lines[2].startswith("After: 80.0 degrees C at the hottest sensor, CPU 0,1 at 1200 MHz, CPU 0, 1 may run")


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "Missing argument 'BUNDLE...'"),
    (["mos_s", "--plot", "layers.png"], "--plot draws the layers of an estimate"),
    (["mos_s", "--core", "cortex-a53"], "--core is for estimates"),
    (["mos_s", "--calibrate", "rk3399"], "--calibrate takes no BUNDLE"),
    (["mos_s", "--frame", "640"], "write 640x480"),
    (["mos_s", "--device", "rk3398"], "Did you mean 'rk3399'?"),
    (["mos_s", "--device", "rpi5", "--threads", "5"], "no estimate of 5 threads on cortex-a76"),
    (["mos_s", "--device", "rk3399", "--core", "cortex-a76"], "cortex-a72"),
    (["mos_s", "--device", "rk3399", "--threads", "3"], "no estimate of 3 threads on cortex-a72"),
])
def test_what_cannot_be_asked_for_is_refused_in_one_line(here: Path, arguments: list[str], said: str) -> None:
    result = bench(*arguments)
    assert result.exit_code
    assert said in result.stderr.splitlines()[-1]


def test_what_must_be_installed_first_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    tools = find_tools()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    without_programs(monkeypatch, tmp_path / "bin")
    without_llvm = bench(tiny_bundle, "--device", "rk3399")
    for tool in (tools.mca, tools.mc):
        (tmp_path / "bin" / tool.name).symlink_to(tool)
    without_qemu = bench(tiny_bundle, "--device", "rk3399")
    for result, package in ((without_llvm, "llvm-19"), (without_qemu, "qemu-user")):
        assert result.exit_code == InstallError.exit_code
        assert f"sudo apt-get install {package}" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_what_nets_are_given_alone_is_what_they_see_in_a_picture(tmp_path: Path) -> None:
    picture = synthetic_scene(200, 120)
    for name, shapes in (("mtcnn", [None, (24, 24, 3), (48, 48, 3)]), ("tcnn", [(48, 48, 3)])):
        save_lively(tmp_path / f"{name}.pt", name)
        bundle = checkpoint_bundle(tmp_path / f"{name}.pt")
        for number, shape in enumerate(shapes):
            pixels = kind_of(bundle.stages[number]).pixels(bundle.stages[number], picture, 160)
            assert pixels is not None
            assert pixels.dtype == np.uint8
            assert pixels.std() > 1
            assert shape is None or pixels.shape == shape
    detector = load(tmp_path / "mtcnn.pt", size=160)
    maps = detector.raw(picture)["0.score"].shape[1:]
    (first, *_) = detector.bundle.stages
    pixels = kind_of(first).pixels(first, picture, 160)
    assert pixels is not None
    assert maps == tuple((side - 12) // 2 + 1 for side in pixels.shape[:2])
    boxes = face_boxes(picture, 10)
    assert boxes.shape == (10, 4)
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [200, 120]).all()
    assert len(np.unique(boxes, axis=0)) == 10


@pytest.mark.timeout(ROOT_TIMEOUT_S)
def test_an_emulated_board_gets_an_estimate_of_nets_on_crops(tmp_path: Path) -> None:
    llvm_or_skip()
    for program in ("qemu-aarch64", "apt-get"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: sudo apt-get install qemu-user")
    write_image(tmp_path / "scene.png", synthetic_scene(200, 160))
    convert(save_int8(tmp_path / "tcnn.pt", "tcnn"), "ncnn", out=tmp_path / "tcnn", pictures=tmp_path)
    result = bench(
        tmp_path / "tcnn", "--device", "rk3399", "--pictures", tmp_path, "--json", tmp_path / "report.json"
    )
    assert result.exit_code == 0, result.stderr
    (bundle,) = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=EstimateReport).bundles
    one, ten = bundle.crops
    assert (one.crops, ten.crops, one.size_px) == (1, 10, 48)
    assert min(one.network_ms, one.preprocessing_ms, one.decoding_ms) > 0
    # The net takes as long for each, what is around it does not.
    assert ten.network_ms == pytest.approx(10 * one.network_ms, rel=0.25)
    assert ten.total_ms < 10 * one.total_ms
    assert bundle.layers == one.layers
    assert bundle.layers_ms == pytest.approx(one.network_1_thread_ms, rel=0.15)
    assert not bundle.stages
    assert any(line.startswith(f"{bundle.name}  ") for line in result.stdout.splitlines())


@pytest.mark.timeout(ROOT_TIMEOUT_S)
def test_an_emulated_board_gets_an_estimate_of_each_stage_and_layer(
    tiny_bundle: Path, tmp_path: Path, astronaut: object
) -> None:
    llvm_or_skip()
    for program in ("qemu-aarch64", "apt-get"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: sudo apt-get install qemu-user")
    file, plot = tmp_path / "report.json", tmp_path / "layers.png"
    result = bench(
        tiny_bundle, "--device", "rk3399", "--size", "160x128", "--frame", "640x480", "--json", file, "--plot", plot
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Estimate for rk3399, cortex-a72 at 1800 MHz, 1 thread: no time was measured")
    report = msgspec.json.decode(file.read_bytes(), type=EstimateReport)
    assert report.place == estimates.PLACE
    assert report.picture_px == (640, 480)
    (bundle,) = report.bundles
    network, preprocessing = bundle.stage("network"), bundle.stage("preprocessing")
    assert network.ms == bundle.network_1_thread_ms > preprocessing.ms > preprocessing.kernels_ms > 0
    assert bundle.stage("decoding").ms > bundle.stage("decoding").kernels_ms > 0
    for stage in bundle.stages:
        assert stage.covered >= 0.995
        assert stage.unknown <= 0.001 * stage.instructions
    # The layers, each alone, are the network.
    assert bundle.layers_ms == pytest.approx(network.ms, rel=0.1)
    assert len(bundle.layers) > 50
    slowest = max(bundle.layers, key=lambda layer: layer.ms)
    assert slowest.kind == "Convolution"
    assert " to " in slowest.detail
    assert cv2.imread(str(plot)) is not None
