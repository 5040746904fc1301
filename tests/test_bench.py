"""``edgeface bench``: who runs when, what becomes of the samples, and the command line; never a time itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgeface.bundle import read_bundle
from edgeface.cli import bench, bench_pictures, main
from edgeface.cli.bench_measured import text_lines
from edgeface.cli.bench_pictures import choose_pictures
from edgeface.errors import InputError, MissingExtraError, OptionError
from edgeface.faces import Faces
from edgeface.runtime.benchmark import (
    WARM_UP_ROUNDS,
    Measured,
    Pictures,
    Quantiles,
    Report,
    Samples,
    Timed,
    benchmark,
    cpu_model,
    interleave,
    open_subject,
    synthetic_scene,
)
from edgeface.runtime.clock import Timing


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Distinguishable by the value of their pixels, which is their index."""
    return [np.full((2, 2, 3), i, np.uint8) for i in range(count)]


class Recorder:
    """Detectors that write down who ran on which picture; the n-th run of one takes n ms in all."""

    def __init__(self, count: int) -> None:
        self.log: list[tuple[int, int]] = []
        self.timed = [self._detector(i) for i in range(count)]

    def _detector(self, number: int) -> Timed:
        runs = 0

        def timed(image: NDArray[np.uint8]) -> tuple[Faces, Timing]:
            nonlocal runs
            runs += 1
            picture = int(image[0, 0, 0])
            self.log.append((number, picture))
            faces = picture + number
            return Faces(np.zeros((faces, 4), np.float32), np.zeros(faces, np.float32)), Timing(0.0, 0.0, 0.0, runs)

        return timed

    def rounds(self) -> list[list[tuple[int, int]]]:
        size = len(self.timed)
        return [self.log[i : i + size] for i in range(0, len(self.log), size)]


def run(count: int, rounds: int, warm_up: int = 2, seed: int = 0, of: int = 3) -> tuple[Recorder, list[Samples]]:
    recorder = Recorder(count)
    return recorder, interleave(recorder.timed, pictures(of), rounds, warm_up, seed)


def test_every_round_runs_each_once_on_the_same_picture() -> None:
    recorder, _ = run(4, rounds=30)
    rounds = recorder.rounds()
    assert len(rounds) == 32
    for entry in rounds:
        assert sorted(number for number, _ in entry) == [0, 1, 2, 3]
        assert len({picture for _, picture in entry}) == 1


def test_pictures_take_turns_from_the_first() -> None:
    recorder, _ = run(2, rounds=7, warm_up=2)
    shown = [entry[0][1] for entry in recorder.rounds()]
    assert shown == [1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_the_order_changes_and_only_the_seed_decides_it() -> None:
    first, again, other = (run(3, rounds=40, seed=seed)[0] for seed in (0, 0, 1))
    orders = [tuple(number for number, _ in entry) for entry in first.rounds()]
    assert len(set(orders)) == 6
    assert {order[0] for order in orders} == {0, 1, 2}
    assert first.log == again.log
    assert first.log != other.log


def test_every_run_after_the_warm_up_is_kept() -> None:
    _, samples = run(2, rounds=9, warm_up=3)
    for taken in samples:
        assert [timing.total_ms for timing in taken.timings] == list(range(4, 13))


def test_no_warm_up_keeps_all_runs() -> None:
    recorder, samples = run(2, rounds=5, warm_up=0)
    assert sum(len(taken.timings) for taken in samples) == len(recorder.log) == 10


def test_faces_are_counted_once_a_picture() -> None:
    _, samples = run(2, rounds=10, of=3)
    assert samples[0].faces == {0: 0, 1: 1, 2: 2}
    assert samples[1].faces == {0: 1, 1: 2, 2: 3}


def test_pictures_beyond_the_rounds_are_not_counted() -> None:
    _, samples = run(1, rounds=2, of=3)
    assert samples[0].faces == {0: 0, 1: 1}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([7.0], Quantiles(7, 7, 7, 7, 7, 7, 7)),
        ([2.0, 1.0], Quantiles(1, 1, 2, 2, 2, 2, 1.5)),
        ([3.0, 1.0, 2.0], Quantiles(1, 2, 3, 3, 3, 3, 2)),
        (list(range(100, 0, -1)), Quantiles(1, 50, 90, 95, 99, 100, 50.5)),
        (list(range(1, 201)), Quantiles(1, 100, 180, 190, 198, 200, 100.5)),
        ([*[1.0] * 49, 1000.0], Quantiles(1, 1, 1, 1, 1000, 1000, 20.98)),
        ([0.123456, 0.123456], Quantiles(*[0.1235] * 7)),
    ],
)
def test_quantiles(samples: Sequence[float], expected: Quantiles) -> None:
    assert Quantiles.of(samples) == expected


def test_quantiles_leave_the_samples_in_their_order() -> None:
    samples = [3.0, 1.0, 2.0]
    Quantiles.of(samples)
    assert samples == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 3.0: GHz\nmodel\t: 17\n", "Some CPU @ 3.0: GHz"),
        ("processor\t: 0\nmodel\t\t: 17\n", None),
        ("model name\t:\n", None),
        ("", None),
    ],
)
def test_cpu_model(tmp_path: Path, text: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo") == (expected or "aarch64")
    assert cpu_model(tmp_path / "absent") == "aarch64"


def test_the_drawn_scene_is_always_the_same() -> None:
    scene = synthetic_scene(320, 200)
    assert scene.shape == (200, 320, 3)
    assert scene.dtype == np.uint8
    assert np.array_equal(scene, synthetic_scene(320, 200))
    assert scene.std() > 20


def test_a_frame_fixes_the_input(tiny_bundle: Path, astronaut: NDArray[np.uint8]) -> None:
    subject = open_subject(str(tiny_bundle), threads=1, size_px=(160, 96))
    level = subject.detector.bundle.dense.levels[0]
    maps = subject.detector.raw(astronaut)
    assert maps[level.score].shape[1:] == (96 // level.stride, 160 // level.stride)


@pytest.mark.parametrize("size_px", [1, 9000, (160, 1), (160, 9000), (9000, 160)])
def test_a_size_that_cannot_work(tiny_bundle: Path, size_px: int | tuple[int, int]) -> None:
    with pytest.raises(OptionError, match="cannot work"):
        open_subject(str(tiny_bundle), threads=1, size_px=size_px)


def test_the_resize_gets_the_threads_too_and_opencv_is_left_as_it_was(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = open_subject(str(tiny_bundle), threads=1, size_px=160)
    during = []
    timed = subject.detector.timed

    def watched(image: NDArray[np.uint8]) -> tuple[Faces, Timing]:
        during.append(cv2.getNumThreads())
        return timed(image)

    monkeypatch.setattr(subject.detector, "timed", watched)
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        benchmark([subject], Pictures("drawn", [synthetic_scene()]), threads=1, size_px=160, rounds=1)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
    assert set(during) == {1}
    assert len(during) == WARM_UP_ROUNDS + 1


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_two_bundles_in_one_table_and_as_json(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    result = command(tiny_bundle, tiny_checkpoint, "--size", "160x128", "--rounds", "3", "--json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_bytes())
    assert report["place"] == "host"
    assert report["cpu"]
    assert (report["threads"], report["rounds"], report["warm_up_rounds"]) == (1, 3, WARM_UP_ROUNDS)
    assert report["size_px"] == [160, 128]
    assert (report["pictures"], report["picture_count"]) == ("scikit-image's astronaut", 1)
    ncnn, torch = report["bundles"]
    assert (ncnn["given"], ncnn["engine"], ncnn["precision"]) == (str(tiny_bundle), "ncnn", "fp32")
    assert ncnn["size_bytes"] == sum(file.size_bytes for file in read_bundle(tiny_bundle).files)
    assert (torch["given"], torch["engine"], torch["precision"]) == (str(tiny_checkpoint), "torch", "fp32")
    assert torch["size_bytes"] == tiny_checkpoint.stat().st_size
    assert ncnn["faces"] == torch["faces"]
    for entry in (ncnn, torch):
        assert entry["samples"] == 3
        for part in ("preprocess_ms", "network_ms", "decode_ms", "total_ms"):
            quantiles = entry[part]
            ordered = [quantiles[name] for name in ("min", "p50", "p90", "p95", "p99", "max")]
            assert ordered == sorted(ordered)
            assert quantiles["min"] <= quantiles["mean"] <= quantiles["max"]
    title, *_ = lines = result.stdout.splitlines()
    assert title.startswith(f"Time on this host: {report['cpu']}, 1 thread, ")
    assert "Input 160 x 128 px; scikit-image's astronaut" in lines
    assert f"3 rounds, interleaved, after {WARM_UP_ROUNDS} of warm-up; every run counted; ms" in lines
    assert [line.split()[:3] for line in lines[8:10]] == [
        [read_bundle(tiny_bundle).name, "ncnn", "fp32"], ["tiny", "torch", "fp32"]
    ]


def a_report(*bundles: Measured) -> Report:
    return Report("host", "CPU", 4, 0.5, 1, 320, "pictures", 2, 5, 50, 0, list(bundles), [])


def a_bundle(given: str, name: str = "net", engine: str = "ncnn", precision: str = "int8", faces: int = 3) -> Measured:
    network, preprocess, decode, total = (Quantiles(*(base + i for i in range(7))) for base in (10, 20, 30, 40))
    return Measured(given, name, "mos_s", engine, precision, 1_234_567, 50, faces, preprocess, network, decode, total)


def test_the_table_s_columns() -> None:
    lines = list(text_lines(a_report(a_bundle("net"), a_bundle("much-longer", "much-longer", "tflite", "fp32", 12))))
    assert lines[1] == "Input longest side 320 px; pictures"
    head, *rows = lines[5:]
    assert " ".join(head.split()) == "BUNDLE ENGINE PRECISION MB p50 p95 p99 p50 p50 p50 p95 p99 FACES"
    assert " ".join(rows[0].split()) == "net ncnn int8 1.23 11.00 13.00 14.00 21.00 31.00 41.00 43.00 44.00 3"
    assert len({len(line) for line in [head, *rows]}) == 1


@pytest.mark.parametrize(
    ("bundles", "labels"),
    [
        ((("a/net", "net"), ("b/net", "net")), ["a/net", "b/net"]),
        ((("a/net", "net"), ("a/net", "net")), ["net", "net"]),
        ((("a/x", "x"), ("b/y", "y")), ["x", "y"]),
    ],
)
def test_equal_names_are_told_apart(bundles: Sequence[tuple[str, str]], labels: Sequence[str]) -> None:
    lines = list(text_lines(a_report(*(a_bundle(given, name) for given, name in bundles))))
    assert [line.split()[0] for line in lines[6:]] == labels


def test_notes_say_what_the_figures_do_not() -> None:
    plain = list(text_lines(a_report(a_bundle("a"), a_bundle("b", engine="torch", precision="fp32"))))
    simulated = list(text_lines(a_report(a_bundle("a"), a_bundle("b", engine="torch"))))
    empty = list(text_lines(a_report(a_bundle("a", faces=0))))
    busy = list(text_lines(msgspec.structs.replace(a_report(a_bundle("a")), load_1min=3.5)))
    assert not [line for line in plain if line.endswith(".")]
    assert "torch computes int8 in float32" in simulated[-1]
    assert "No face was found" in empty[-1]
    assert "busy" in busy[-1]


def test_pictures_are_spread_over_a_folder(tmp_path: Path) -> None:
    for i in range(40):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((4, 4, 3), i, np.uint8))
    (tmp_path / "film.mp4").write_bytes(b"no picture")
    chosen = choose_pictures(str(tmp_path), 16)
    assert [int(image[0, 0, 0]) for image in chosen.images] == [i * 40 // 16 for i in range(16)]
    assert chosen.source.startswith("16 of 40 pictures, ")
    few = choose_pictures(str(tmp_path / "0[0-2].png"), 16)
    assert [int(image[0, 0, 0]) for image in few.images] == [0, 1, 2]


def test_a_folder_of_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="no pictures in it"):
        choose_pictures(str(tmp_path), 16)


def test_without_scikit_image_a_scene_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MissingExtraError("not installed")

    monkeypatch.setattr(bench_pictures, "photograph", absent)
    chosen = choose_pictures(None, 16)
    assert chosen.source == "a drawn scene without faces"
    assert chosen.images[0].shape == (480, 640, 3)


@pytest.mark.parametrize("size", ["", "x", "640x", "x480", "-640", "640x480x3", "1e3", "640 x 480"])
def test_a_size_that_is_none(size: str) -> None:
    result = command("mos_s", "--size", size)
    assert result.exit_code == 2
    assert "is not a size: write 640, or 640x480" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        ([], 2, "BUNDLE..."),
        (["no_such_net"], 2, "no model 'no_such_net'"),
        (["no/such/folder"], 2, "no such bundle or checkpoint"),
        (["{bundle}", "--rounds", "0"], 2, "--rounds"),
        (["{bundle}", "--threads", "0"], 2, "--threads"),
        (["{bundle}", "--size", "8"], 2, "size 8 cannot work"),
        (["{bundle}", "--pictures", "no/such/folder"], 3, "no such file or folder"),
        (["{bundle}", "--json", "no/such/folder/out.json"], 10, "no such folder"),
    ],
)
def test_bad_input(tiny_bundle: Path, arguments: Sequence[str], exit_code: int, text: str) -> None:
    result = command(*(argument.format(bundle=tiny_bundle) for argument in arguments))
    assert result.exit_code == exit_code, result.output
    assert text in result.stderr
    assert not result.stdout


def test_an_engine_s_failure_leaves_no_json(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Pictures("broken", [np.zeros((4, 4), np.uint8)])
    monkeypatch.setattr(bench, "choose_pictures", lambda _source, _limit, _frame_px: broken)
    result = command(tiny_bundle, "--json", tmp_path / "out.json")
    assert result.exit_code == InputError.exit_code
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_timed_without_torch(tiny_bundle: Path) -> None:
    code = (
        "import sys\n"
        "from edgeface.cli import main\n"
        f"main(['bench', {str(tiny_bundle)!r}, '--size', '160', '--rounds', '1'], standalone_mode=False)\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'matplotlib', 'edgeface.convert'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"
