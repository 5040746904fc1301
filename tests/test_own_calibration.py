"""``edgeface bench --calibrate`` of a user's own board: what is timed there becomes factors in its description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from edgeface.devices import boards
from edgeface.devices.client import Client
from edgeface.devices.estimate import estimates
from edgeface.devices.estimate import own as own_calibration
from edgeface.devices.estimate.calibrate import CountedNetworks
from edgeface.devices.estimate.calibration import OwnCalibration, of_own
from edgeface.devices.estimate.costing import Counts
from edgeface.devices.estimate.count import Counted
from edgeface.devices.estimate.jobs import Place
from edgeface.devices.estimate.networks import network
from edgeface.devices.estimate.own import NETWORKS, calibrate_own, keep_own, with_calibration
from edgeface.devices.links import open_link
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.errors import DeviceError, DeviceLostError
from loopback_ssh import LoopbackSsh

# Of 1.5 GHz, which rpi4's cores have: 1.5e6 cycles are 1 ms by the model.
CYCLES = {name: 1.5e6 * (index + 2) for index, name in enumerate(NETWORKS)}
FACTOR = 1.4
DESCRIPTION = 'extends = "rpi4"\naddress = "pi@robot1"    # in the garage\n\n[best]\nmos_s = ["mos_s-int8-tflite"]\n'


class Timer:
    """A client of a board with rpi4's cores whose networks take what the cycles say, times ``FACTOR``."""

    where = "robot1 (board at pi@robot1)"
    off: float = 1.0        # what every second network takes more
    spread = 0.5            # n threads are n ** spread times as fast as one
    lost_at: str | None = None

    def __init__(self, _link: object) -> None:
        self.pinned: list[int] = []

    def __enter__(self) -> Timer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def machine(self) -> Any:
        return boards.find_shipped("rpi4")

    def request(self, operation: str, options: dict[str, Any]) -> None:
        assert operation == "pin"
        self.pinned = options["cpus"]

    def time_network(self, name: str, *, threads: int, runs: int) -> NDArray[np.float64]:
        if name == self.lost_at:
            raise DeviceLostError(f"{self.where}: the connection was lost: try again")
        assert self.pinned == [0, 1, 2, 3]
        ms = FACTOR * CYCLES[name] / 1.5e6 / threads**self.spread * (self.off if list(CYCLES).index(name) % 2 else 1)
        return np.array([ms, ms, 50 * ms][:runs])      # one run that something held up


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The description of a board "robot1" whose networks are not counted but known."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "edgeface" / "devices" / "robot1.toml"
    path.parent.mkdir(parents=True)
    path.write_text(DESCRIPTION)
    monkeypatch.setattr(own_calibration, "Client", Timer)
    _know_counts(monkeypatch)
    return path


def _know_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(_root: object, _core: str, names: Sequence[str], *_: object) -> CountedNetworks:
        return CountedNetworks(names, [network.get(n)() for n in names], [Counts(cycles=CYCLES[n]) for n in names])

    stand_ins: dict[str, Callable[..., Any]] = {
        "ensure_root": lambda *_, **__: None, "wheel_versions": lambda *_: {"ncnn": "1"},
        "qemu_version": lambda _: "7.2", "count_networks": counted,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(own_calibration, name, stand_in)
    monkeypatch.setattr(own_calibration, "find_tools", lambda: type("Tools", (), {"version": "19"}))


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_a_board_is_timed_and_its_description_has_the_factors(robot: Path, tmp_path: Path) -> None:
    result = command("--calibrate", "robot1", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "Timed on robot1 itself, " in result.stdout
    assert f"time = {FACTOR:.3f} x cycles" in result.stdout
    assert "resnet18_int8: " in result.stderr
    board = boards.find("robot1")
    assert robot.read_text().startswith(DESCRIPTION.rstrip())
    assert board.best["mos_s"] == ["mos_s-int8-tflite"]
    assert board.calibration is not None
    calibration = of_own(board.name, board.title, board.calibration)
    assert calibration.milliseconds("cortex-a72", 1.5e6) == pytest.approx(FACTOR)
    assert {fit.threads: fit.speedup for fit in calibration.threads} == pytest.approx({2: 2**0.5, 4: 2.0, 3: 1.8})
    assert calibration.cores[0].mean_error == pytest.approx(0, abs=1e-9)
    # Once more: it takes the place of the first.
    assert command("--calibrate", "robot1").exit_code == 0
    assert robot.read_text().count("[calibration]") == 1
    assert boards.find("robot1").calibration == board.calibration


@pytest.mark.parametrize(("changes", "error", "said"), [
    ({"off": 3.0}, DeviceError, "nothing was written: see that nothing else runs there"),
    ({"spread": -1.0}, DeviceError, "2 threads on cortex-a72 are slower than one; "),
    ({"lost_at": "mnasnet"}, DeviceLostError, "the connection was lost"),
    ({"machine": lambda _: boards.find_shipped("rpi5")}, DeviceError, "has cortex-a76, its description says"),
])
def test_what_goes_wrong_leaves_the_description_as_it_was(
    robot: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], error: type[DeviceError], said: str
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(Timer, name, value)
    result = command("--calibrate", "robot1")
    assert result.exit_code == error.exit_code, result.output
    assert said in result.stderr.splitlines()[-1]
    assert robot.read_text() == DESCRIPTION
    assert [path.name for path in robot.parent.iterdir()] == ["robot1.toml"]


def test_an_x86_board_is_refused_before_anything_is_timed(robot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_calibration, "Client", lambda _: pytest.fail("nothing can be counted for it"))
    cluster = msgspec.structs.replace(boards.find("robot1").clusters[0], core="x86_64")
    link = open_link(msgspec.structs.replace(boards.find("robot1"), clusters=[cluster]))
    with pytest.raises(DeviceError, match=r"robot1: its cores \(x86_64\) cannot be emulated"):
        calibrate_own(link)


def test_networks_are_timed_by_a_worker_over_ssh(
    ssh: LoopbackSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = ssh.describe(tmp_path / "edgeface" / "devices" / "robot1.toml")
    _know_counts(monkeypatch)
    # This machine for an rpi4's: what its networks take is real, and means nothing.
    monkeypatch.setattr(Client, "machine", lambda _: boards.find_shipped("rpi4"))
    monkeypatch.setattr(own_calibration, "ACCEPTED", 1e9)
    monkeypatch.setattr(own_calibration, "_threads", lambda _times: [])
    found = calibrate_own(open_link(boards.find("robot1")), names=["blazeface", "shufflenet_v2"], runs=2)
    (fit,) = found.cores
    assert [each.name for each in fit.networks] == ["blazeface", "shufflenet_v2"]
    assert all(each.published_ms > 0 for each in fit.networks)
    assert keep_own(boards.find("robot1"), found) == path
    assert boards.find("robot1").calibration == found.own


@pytest.mark.parametrize(("is_timed", "said"), [
    (True, "cortex-a72 at 1500 MHz, 1 thread: no time was measured"), (False, "x 1.466; off by 8.5%"),
])
def test_an_estimate_for_a_board_that_could_be_measured_rests_on_what_is_known_of_it(
    robot: Path, monkeypatch: pytest.MonkeyPatch, is_timed: bool, said: str
) -> None:
    if is_timed:
        assert command("--calibrate", "robot1").exit_code == 0
    asked = []

    def counted(root: object, *_: object) -> Any:
        asked.append(root)
        places = [Counted(Place(0, stage), Counts(cycles=1.5e6)) for stage in ("preprocessing", "network", "decoding")]
        return estimates._Found(places, {}, {}, 1)

    for name, stand_in in {
        "ensure_root": lambda board, **_: board, "find_tools": own_calibration.find_tools, "_counted": counted,
        "wheel_versions": lambda *_: {}, "qemu_version": lambda _: "7.2", "read_kept": lambda *_: None,
        "keep": lambda *_: None,
    }.items():
        monkeypatch.setattr(estimates, name, stand_in)
    result = command("mos_s-int8-ncnn", "--device", "robot1", "--estimate", "--layers", "0")
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    assert [board.address for board in asked] == [None]
    if is_timed:
        assert f"x {FACTOR:.3f}; off by 0.0% on average over 12 networks timed on it on 20" in result.stdout


def test_a_description_keeps_all_else_that_it_says() -> None:
    calibration = OwnCalibration("2026-11-30", 10, {"ncnn": "1", "a b": "2"}, [], [])
    text = with_calibration(DESCRIPTION, calibration)
    assert text.startswith(DESCRIPTION.rstrip())
    # What stands behind it, and behind its tables, stays too.
    before = text + '\n[[calibration.cores]]\ncore = "x"\nnetworks = [\n  {name = "a"},\n]\n\n[other]\nkey = 1\n'
    after = with_calibration(before, calibration)
    assert after.count("calibration") == text.count("calibration")
    assert msgspec.toml.decode(after)["other"] == {"key": 1}
    assert msgspec.toml.decode(after)["calibration"]["versions"] == {"ncnn": "1", "a b": "2"}
