"""What turns cycles into time: the fit, the published figures it rests on, and the calibration that is shipped."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from edgeface.devices import boards
from edgeface.devices.estimate import calibrate as calibrating
from edgeface.devices.estimate import calibration as shipped
from edgeface.devices.estimate import kept
from edgeface.devices.estimate import published as tables
from edgeface.devices.estimate.calibrate import CountedNetworks, calibrate, fit_core, fit_threads
from edgeface.devices.estimate.calibration import Calibration, CoreFit, ThreadsFit
from edgeface.devices.estimate.costing import Counts
from edgeface.devices.estimate.count import Executed
from edgeface.devices.estimate.fit import left_out, mean_error, no_less_than_zero, one_factor
from edgeface.devices.estimate.jobs import Outcome, Place
from edgeface.devices.estimate.networks import network
from edgeface.devices.estimate.published import Column, Published, published

from edgeface.cli import main
from edgeface.errors import DeviceError, OptionError, UnknownNameError

BOARD = "rk3399"
CORES = ("cortex-a72", "cortex-a53")


def single_column(table: Published, core: str) -> Column:
    column = table.single(core)
    assert column is not None
    return column


def rounded(fits: list[ThreadsFit]) -> list[ThreadsFit]:
    """Without the last bits, which may be others on another processor."""
    return [
        msgspec.structs.replace(fit, speedup=round(fit.speedup, 9), mean_error=round(fit.mean_error, 9)) for fit in fits
    ]


def _terms(*columns: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array(columns, np.float64).T


def test_a_factor_is_found_and_too_high_counts_as_too_low() -> None:
    cycles_ms = _terms([1.0, 5.0, 20.0])
    assert one_factor(cycles_ms, 1.5 * cycles_ms[:, 0]) == pytest.approx([1.5])
    assert one_factor(_terms([1.0, 1.0]), np.array([2.0, 0.5])) == pytest.approx([1.0])


def test_a_network_has_no_part_in_its_own_estimate() -> None:
    cycles_ms = _terms([1.0, 2.0, 4.0, 8.0])
    times_ms = 2 * cycles_ms[:, 0]
    times_ms[2] = 80.0
    estimates = left_out(cycles_ms, times_ms, one_factor)
    assert estimates[2] == pytest.approx(8.0)
    assert (estimates[[0, 1, 3]] > 2 * cycles_ms[[0, 1, 3], 0]).all()
    assert mean_error(np.array([8.0, 3.0]), np.array([10.0, 2.0])) == pytest.approx(0.35)


def test_two_terms_are_told_apart_and_none_counts_negatively() -> None:
    random = np.random.default_rng(3)
    terms = random.uniform(1, 10, (12, 2))
    np.testing.assert_allclose(no_less_than_zero(terms, terms @ [1.5, 0.2]), [1.5, 0.2], rtol=1e-9)
    found = no_less_than_zero(terms, terms @ [1.5, -0.1])
    assert found[1] == 0
    assert 1.0 < found[0] < 1.5
    assert (no_less_than_zero(-terms, terms[:, 0]) == 0).all()


def test_every_network_that_is_built_has_published_times() -> None:
    table = published(BOARD)
    assert set(network.names()) <= set(table.networks)
    assert len(network.names()) >= 20
    single, double = single_column(table, "cortex-a72"), table.columns[0]
    assert (double.core, double.threads) == ("cortex-a72", 2)
    assert table.times_ms(single)["shufflenet_v2"] == 38.02
    assert table.times_ms(double)["shufflenet_v2"] == 25.55
    assert table.single("cortex-a76") is None


def test_a_board_without_published_times_is_refused_with_those_that_have_some() -> None:
    with pytest.raises(OptionError, match="no published times of 'host' to calibrate on: they are known for rk3399"):
        calibrate(boards.find("host"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "own.toml: "),
        ('source = "a"\nmachine = "b"\n[[columns]]\ncore = "c"\nmhz = 0\nthreads = 1\n[networks]', "mhz"),
        (
            'source = "a"\nmachine = "b"\n[[columns]]\ncore = "c"\nmhz = 9\nthreads = 1\n[networks]\nnet = [1.0, 2.0]',
            "net has not a time for each column",
        ),
    ],
)
def test_a_damaged_table_names_its_file(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text(text)
    monkeypatch.setattr(tables, "directory", lambda: tmp_path)
    with pytest.raises(DeviceError, match=r"own\.toml") as raised:
        published("own")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        (["mobilenet_v9", "resnet18"], UnknownNameError, "no network 'mobilenet_v9'. Did you mean 'mobilenet_v"),
        (["resnet18"], OptionError, "a fit needs 2 networks"),
        (["resnet18", "resnet18"], OptionError, "each once"),
    ],
)
def test_networks_that_cannot_be_fitted_are_refused_before_anything_runs(
    names: list[str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        calibrate(boards.find(BOARD), names=names)


def test_threads_are_fitted_to_what_is_published() -> None:
    fits = {(fit.core, fit.threads): fit for fit in fit_threads(boards.find(BOARD))}
    assert {key for key, fit in fits.items() if fit.interpolated_from is None} == {("cortex-a72", 2), ("cortex-a53", 4)}
    assert 1.4 < fits["cortex-a72", 2].speedup < 2
    assert fits["cortex-a72", 2].mean_error < 0.12
    assert fits["cortex-a72", 2].networks == len(published(BOARD).networks)


def test_fewer_threads_than_are_published_are_between_one_and_those() -> None:
    fits = {fit.threads: fit for fit in fit_threads(boards.find("rk3588"))}
    assert set(fits) == {2, 3, 4}
    assert 1 < fits[2].speedup < fits[3].speedup < fits[4].speedup
    # What one thread does alone is the same share of one thread's time for each.
    alone = [(n / fit.speedup - 1) / (n - 1) for n, fit in fits.items()]
    assert alone == pytest.approx([alone[0]] * 3)
    assert [fit.interpolated_from for _, fit in sorted(fits.items())] == [4, 4, None]


def test_what_is_shipped_follows_from_its_own_cycles_and_the_published_times() -> None:
    calibration = shipped.load_calibration(BOARD)
    table = published(BOARD)
    assert [fit.core for fit in calibration.cores] == list(CORES)
    for fit in calibration.cores:
        names = [each.name for each in fit.networks]
        assert sorted(names) == network.names()
        networks = [network.get(name)() for name in names]
        counted = CountedNetworks(names, networks, [Counts(cycles=each.cycles) for each in fit.networks])
        column = single_column(table, fit.core)
        again = fit_core(column, table.times_ms(column), counted)
        assert again.factor == pytest.approx(fit.factor)
        assert again.mean_error == pytest.approx(fit.mean_error)
        assert [each.macs for each in again.networks] == [each.macs for each in fit.networks]


@pytest.mark.parametrize(("board", "accepted"), [
    ("rk3399", {"cortex-a72": 0.12, "cortex-a53": 0.15}), ("rpi4", {"cortex-a72": 0.12}),
    ("rpi5", {"cortex-a76": 0.12}), ("rk3588", {"cortex-a76": 0.12}),
])
def test_what_is_shipped_can_be_relied_on(board: str, accepted: dict[str, float]) -> None:
    calibration = shipped.load_calibration(board)
    assert {fit.core: fit.accepted for fit in calibration.cores} == accepted
    assert calibration.missed() == []
    fastest = boards.find(board).fastest
    assert calibration.core(fastest.core).clock_mhz == fastest.mhz
    assert rounded(calibration.threads) == rounded(fit_threads(boards.find(board)))


@pytest.mark.parametrize("board", ["rpi4", "rk3588"])
def test_a_board_without_times_of_one_thread_has_the_fit_of_one_like_it(
    board: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "ensure_root", lambda *_: pytest.fail("nothing is counted for it"))
    again = calibrate(boards.find(board))
    kept_one = shipped.load_calibration(board)
    assert msgspec.structs.replace(again, threads=[]) == msgspec.structs.replace(kept_one, threads=[])
    assert rounded(again.threads) == rounded(kept_one.threads)
    fit = again.cores[0]
    assert fit.fitted_on in published(board).like
    base = shipped.load_calibration(fit.fitted_on or "")
    other = base.core(fit.core)
    assert (fit.factor, fit.networks) == (other.factor, other.networks)
    base_ms = base.milliseconds(fit.core, 1e6)
    assert again.milliseconds(fit.core, 1e6) == pytest.approx(base_ms * other.clock_mhz / fit.clock_mhz)


def test_threads_of_a_board_are_held_against_one_thread_of_one_like_it_at_its_clock() -> None:
    fits = {fit.threads: fit for fit in fit_threads(boards.find("rpi4"))}
    assert fits[2].boards == ["rk3399"]
    assert (fits[4].boards, fits[4].networks) == (["rpi4", "rk3399"], len(published("rpi4").networks))
    one, four = published("rk3399").networks, published("rpi4").networks
    by_hand = [one[name][1] * 1800 / 1500 / four[name][0] for name in four]
    assert fits[4].speedup == pytest.approx(float(np.exp(np.mean(np.log(by_hand)))))


def test_int8_and_float_have_errors_of_their_own() -> None:
    fit = shipped.load_calibration(BOARD).core("cortex-a72")
    int8, real = fit.kind_error(is_int8=True), fit.kind_error(is_int8=False)
    assert int8 is not None
    assert real is not None
    assert int8.networks + real.networks == len(fit.networks)
    whole = (int8.mean * int8.networks + real.mean * real.networks) / len(fit.networks)
    assert whole == pytest.approx(fit.mean_error)
    assert int8.bias < 0 < real.bias
    assert msgspec.structs.replace(fit, networks=fit.networks[:1]).kind_error(is_int8=True) is None


def test_cycles_become_milliseconds_by_factor_clock_and_threads() -> None:
    calibration = shipped.load_calibration(BOARD)
    fit = calibration.core("cortex-a72")
    one = calibration.milliseconds("cortex-a72", 1.8e6)
    assert one == pytest.approx(fit.factor)
    assert calibration.milliseconds("cortex-a72", 1.8e6, mhz=900) == pytest.approx(2 * one)
    two = calibration.milliseconds("cortex-a72", 1.8e6, threads=2)
    assert two == pytest.approx(one / calibration.speedup("cortex-a72", 2))
    with pytest.raises(DeviceError, match="no estimate of 3 threads on cortex-a72, only of 1, 2"):
        calibration.milliseconds("cortex-a72", 1.8e6, threads=3)
    with pytest.raises(DeviceError, match="calibrated on cortex-a72, cortex-a53, not on cortex-a76"):
        calibration.milliseconds("cortex-a76", 1.8e6)


def test_a_missing_and_a_damaged_calibration_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="no calibration of host, so no estimate: there is one of rk3399, rk3588"):
        shipped.load_calibration("host")
    (tmp_path / "own.json").write_text('{"board": 1}')
    monkeypatch.setattr(shipped, "directory", lambda: tmp_path)
    with pytest.raises(DeviceError, match=r"own\.json: .*edgeface bench --calibrate"):
        shipped.load_calibration("own")


def test_what_was_counted_is_read_as_it_was_kept_and_what_is_damaged_is_not(tmp_path: Path) -> None:
    executed = Executed(Outcome([Place(0, "network")], {0: 1}), [Counter({"d503201f": 3})])
    kept.keep(tmp_path / "estimate" / "a.msgpack", executed)
    assert kept.read_kept(tmp_path / "estimate" / "a.msgpack", Executed) == executed
    (tmp_path / "b.msgpack").write_bytes((tmp_path / "estimate" / "a.msgpack").read_bytes()[:-1])
    assert kept.read_kept(tmp_path / "b.msgpack", Executed) is None
    assert kept.read_kept(tmp_path / "c.msgpack", Executed) is None


def _off(calibration: Calibration, accepted: float) -> Calibration:
    cores = [msgspec.structs.replace(fit, accepted=accepted) for fit in calibration.cores]
    return msgspec.structs.replace(calibration, cores=cores)


def test_the_command_prints_every_network_and_writes_what_load_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = shipped.load_calibration(BOARD)
    monkeypatch.setattr(calibrating, "calibrate", lambda board, progress: calibration)
    out = tmp_path / "own.json"
    done = CliRunner().invoke(main, ["bench", "--calibrate", BOARD, "--json", str(out)])
    assert done.exit_code == 0, done.output
    for name in network.names():
        assert done.output.count(f"\n{name} ") == len(CORES)
    assert f"Mean error {100 * calibration.core('cortex-a72').mean_error:.1f} %" in done.output
    monkeypatch.setattr(shipped, "directory", lambda: tmp_path)
    assert shipped.load_calibration("own") == calibration


def test_the_command_fails_where_estimates_are_too_far_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = _off(shipped.load_calibration(BOARD), 0.01)
    monkeypatch.setattr(calibrating, "calibrate", lambda board, progress: calibration)
    done = CliRunner().invoke(main, ["bench", "--calibrate", BOARD])
    assert done.exit_code == DeviceError.exit_code
    assert "cortex-a72 is off by" in done.output
    assert "more than 1 %" in done.output


def test_a_fit_needs_two_networks() -> None:
    table = published(BOARD)
    column = single_column(table, "cortex-a72")
    counted = CountedNetworks(["blazeface"], [network.get("blazeface")()], [Counts(cycles=1e6)])
    with pytest.raises(OptionError, match="a fit needs 2 networks"):
        fit_core(column, table.times_ms(column), counted)


def test_other_models_are_judged_in_the_same_way() -> None:
    """Times made of cycles and of what is stored are met by the model that knows both, and not by one factor."""
    names = ["blazeface", "shufflenet", "mobilenet", "resnet18", "squeezenet_int8", "resnet18_int8"]
    networks = [network.get(name)() for name in names]
    counts = [Counts(cycles=1e6 * (i + 1), store_bytes=1e6 * (7 - i) ** 2) for i in range(len(names))]
    column = single_column(published(BOARD), "cortex-a72")
    times_ms = {
        name: 1.5 * each.cycles / (1000 * column.mhz) + 0.1 * each.store_bytes / 1e6
        for name, each in zip(names, counts, strict=True)
    }
    fit: CoreFit = fit_core(column, times_ms, CountedNetworks(names, networks, counts))
    assert fit.others["cycles and megabytes stored"] == pytest.approx(0, abs=1e-9)
    assert fit.mean_error > 0.2
    assert set(fit.others) >= {"cycles and megabytes of weights", "a factor a precision"}


@pytest.mark.timeout(1500)      # a first run makes the emulated root
def test_two_networks_from_weights_to_errors_and_again_from_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("qemu-aarch64", "llvm-mca-19", "apt-get"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: sudo apt-get install qemu-user llvm-19")
    monkeypatch.setattr(kept, "cache_directory", lambda: tmp_path)
    names, said = ["blazeface", "shufflenet_v2"], list[str]()
    first = calibrate(boards.find(BOARD), names=names, progress=said.append)
    # Once for both cores.
    assert [line.split(":")[0] for line in said if "counting" in line] == names
    assert [fit.core for fit in first.cores] == list(CORES)
    recorded = {each.name: each for each in shipped.load_calibration(BOARD).core("cortex-a72").networks}
    for each in first.core("cortex-a72").networks:
        assert each.cycles == pytest.approx(recorded[each.name].cycles, rel=0.03)
    (damaged, _) = sorted((tmp_path / "estimate").glob("network-*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    said.clear()
    again = calibrate(boards.find(BOARD), names=names, progress=said.append)
    assert [line.split(":")[0] for line in said if "counting" in line] == ["blazeface"]
    assert again.core("cortex-a53").factor == pytest.approx(first.core("cortex-a53").factor, rel=0.01)
