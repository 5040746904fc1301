"""Boards: those that ship, a user's own, and what is wrong with a description."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeface.devices import boards
from edgeface.devices.machine import machine

from edgeface.errors import DeviceError, UnknownDeviceError

SHIPPED = ["host", "rk3399", "rk3588", "rpi4", "rpi5"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of boards, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "edgeface" / "devices"
    folder.mkdir(parents=True)
    return folder


def test_the_boards_that_ship(own: Path) -> None:
    assert boards.names() == SHIPPED
    assert {name: boards.find(name).link for name in SHIPPED} == {
        "host": "local", "rk3399": "emulated", "rk3588": "emulated", "rpi4": "emulated", "rpi5": "emulated",
    }


@pytest.mark.parametrize("name", ["rk3399", "rk3588", "rpi4", "rpi5"])
def test_a_shipped_board_keeps_to_its_fastest_cores(own: Path, name: str) -> None:
    board = boards.find(name)
    assert board.affinity == board.fastest.cpus
    assert board.threads == len(board.affinity)
    assert board.fastest.capacity == 1024
    assert [cpu for cpu, _ in board.by_cpu()] == list(range(len(board.by_cpu())))
    assert board.emulated_cpus[0] == board.fastest.core


def test_the_rk3399_is_two_big_and_four_little(own: Path) -> None:
    board = boards.find("rk3399")
    assert [(c.core, c.cores, c.isa) for c in board.clusters] == [
        ("cortex-a53", 4, "armv8.0-a"), ("cortex-a72", 2, "armv8.0-a"),
    ]
    assert board.clusters[1].midr is not None
    assert board.clusters[1].midr.value == 0x410FD082
    assert not {"asimddp", "asimdhp", "atomics"} & set(board.fastest.features)


def test_host_is_this_machine(own: Path) -> None:
    board, here = boards.find("host"), machine()
    assert board.clusters == here.clusters
    assert board.memory_mb == here.memory_mb > 0
    assert set(board.affinity) <= {cpu for cpu, _ in board.by_cpu()}
    assert 1 <= board.threads <= 4


def test_an_address_alone_makes_a_shipped_board_a_real_one(own: Path) -> None:
    (own / "rk3399.toml").write_text('address = "pi@robot1"\nport = 2222\n')
    board = boards.find("rk3399")
    assert (board.link, board.address, board.port) == ("ssh", "pi@robot1", 2222)
    assert board.fastest.core == "cortex-a72"
    assert boards.names() == SHIPPED


def test_a_board_of_ones_own_starts_from_a_shipped_one(own: Path) -> None:
    (own / "robot1.toml").write_text('extends = "rpi4"\naddress = "robot1"\nmemory_mb = 8192\n')
    board, base = boards.find("robot1"), boards.find("rpi4")
    assert (board.name, board.link, board.memory_mb) == ("robot1", "ssh", 8192)
    assert board.clusters == base.clusters
    assert "robot1" in boards.names()


def test_a_board_that_starts_from_this_machine(own: Path) -> None:
    (own / "mine.toml").write_text('extends = "host"\nthreads = 1\n')
    board = boards.find("mine")
    assert (board.link, board.threads) == ("local", 1)
    assert board.clusters == machine().clusters


def test_a_board_described_in_full(own: Path) -> None:
    (own / "odroid.toml").write_text(
        'title = "ODROID-C4"\nmemory_mb = 4096\nthreads = 4\naffinity = [0, 1, 2, 3]\nengine = "tflite"\n'
        'address = "odroid"\n[[clusters]]\ncore = "cortex-a55"\ncpus = [0, 1, 2, 3]\nmhz = 2016\n'
        'isa = "armv8.2-a"\nfeatures = ["fp", "asimd"]\n'
    )
    assert boards.find("odroid").engine == "tflite"


def test_an_unknown_board_has_a_nearest_one(own: Path) -> None:
    with pytest.raises(UnknownDeviceError, match=r"no device 'rk3398'\. Did you mean 'rk3399'\? Devices: host, rk3399"):
        boards.find("rk3398")


def test_a_wrong_file_is_no_trouble_for_other_boards(own: Path) -> None:
    (own / "broken.toml").write_text("= 1")
    (own / "no name.toml").write_text("= 1")
    assert boards.names() == sorted([*SHIPPED, "broken"])
    assert boards.find("rk3399").threads == 2


@pytest.mark.parametrize("name", ["../rk3399", "", ".", "rk3399/../host", "rk3399.toml"])
def test_a_name_is_no_path(own: Path, name: str) -> None:
    with pytest.raises(UnknownDeviceError):
        boards.find(name)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("threads = ", "not TOML"),
        ('adress = "robot1"', "unknown field `adress`"),
        ('extends = "rk3398"', "extends: no shipped device 'rk3398'. Did you mean 'rk3399'"),
        ('extends = "rk3399"\n[best]\nmtcnn = ["x"]\nmos_s = "x"', "best.mos_s: Expected `array`, got `str`"),
        ('extends = "rk3399"\nthreads = 0', "threads: Expected `int` >= 1"),
        ('extends = "rk3399"\nname = "other"', "name: the file's name"),
        ('extends = "rk3399"\naffinity = [7]', "affinity: there is no CPU 7, only 0, 1, 2, 3, 4, 5"),
        ('extends = "rk3399"\nengine = "nccn"', "engine: no engine 'nccn'. Did you mean 'ncnn'"),
        ('extends = "rk3399"\nthrottling = ["fan"]', "throttling"),
        ('extends = "rk3399"\nport = 70000', "port: Expected `int` <= 65535"),
        ('extends = "rk3399"\nemulated_cpus = []', "address: neither it nor emulated_cpus"),
        ('extends = "host"\naddress = "robot1"', "address: a board that is local has none"),
        ('address = "robot1"', "missing required field"),
        ('extends = "rk3399"\naddress = "-oProxyCommand=reboot"', "address: '-oProxyCommand=reboot' is none"),
        ('extends = "rk3399"\naddress = "robot1; reboot"', "address: 'robot1; reboot' is none"),
        ('extends = "rk3399"\npython = "-c"', "python: '-c' is no program's path"),
        ('extends = "rk3399"\npython = "python3 -u"', "python: 'python3 -u' is no program's path"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(own: Path, content: str, text: str) -> None:
    path = own / "mine.toml"
    path.write_text(content)
    with pytest.raises(DeviceError) as error:
        boards.find("mine")
    assert str(error.value).startswith(f"{path}: ")
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cpu_is_in_one_cluster(own: Path) -> None:
    cluster = '[[clusters]]\ncore = "cortex-a55"\ncpus = [0, 1]\nmhz = 2016\nisa = "armv8.2-a"\nfeatures = []\n'
    (own / "mine.toml").write_text(f'extends = "rk3399"\naffinity = []\n{cluster}{cluster}')
    with pytest.raises(DeviceError, match="clusters: CPU 0 is in it twice"):
        boards.find("mine")
