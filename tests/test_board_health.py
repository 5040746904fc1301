"""How warm and how throttled a board is, and what it is, from copies of /sys and /proc."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edgeface.devices.cores import Midr
from edgeface.devices.machine import machine

from edgeface.board_health import Clock, Throttle, Zone, read_health

Write = Callable[[dict[str, str]], Path]

_ZONE, _COOLER, _POLICY = "sys/class/thermal/thermal_zone", "sys/class/thermal/cooling_device", "cpufreq/policy"
_CPU = "sys/devices/system/cpu/"
_WARM_RK3399 = {
    f"{_ZONE}0/type": "cpu-thermal\n", f"{_ZONE}0/temp": "71250\n",
    f"{_ZONE}1/type": "gpu-thermal\n", f"{_ZONE}1/temp": "65000\n",
    f"{_ZONE}10/type": "battery\n", f"{_ZONE}10/temp": "30000\n",
    f"{_CPU}{_POLICY}0/cpuinfo_max_freq": "1416000\n", f"{_CPU}{_POLICY}0/scaling_max_freq": "1416000\n",
    f"{_CPU}{_POLICY}0/scaling_cur_freq": "408000\n", f"{_CPU}{_POLICY}0/related_cpus": "0 1 2 3\n",
    f"{_CPU}{_POLICY}4/cpuinfo_max_freq": "1800000\n", f"{_CPU}{_POLICY}4/scaling_max_freq": "1608000\n",
    f"{_CPU}{_POLICY}4/scaling_cur_freq": "1608000\n", f"{_CPU}{_POLICY}4/related_cpus": "4 5\n",
    f"{_COOLER}0/type": "thermal-cpufreq-0\n", f"{_COOLER}0/cur_state": "0\n", f"{_COOLER}0/max_state": "5\n",
    f"{_COOLER}1/type": "thermal-cpufreq-1\n", f"{_COOLER}1/cur_state": "2\n", f"{_COOLER}1/max_state": "7\n",
    f"{_COOLER}2/type": "pwm-fan\n", f"{_COOLER}2/cur_state": "3\n", f"{_COOLER}2/max_state": "4\n",
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes files under a root, which it gives."""

    def make(files: dict[str, str]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return make


def test_a_warm_board(write: Write) -> None:
    health = read_health(["cpu-thermal", "gpu-thermal"], root=write(_WARM_RK3399))
    assert health.zones == [Zone("cpu-thermal", 71.25), Zone("gpu-thermal", 65.0)]
    assert health.hottest_c == 71.25
    assert health.clocks == [Clock([0, 1, 2, 3], 408, 1416, 1416), Clock([4, 5], 1608, 1608, 1800)]
    assert health.throttling == [
        Throttle("cpufreq", "CPU 4, 5 may run at 1608 MHz at most, of 1800"),
        Throttle("cooling", "thermal-cpufreq-1 is at step 2 of 7"),
    ]
    assert health.is_throttled


def test_zones_that_the_board_does_not_have_are_no_reason_to_show_none(write: Write) -> None:
    health = read_health(["soc-thermal"], root=write(_WARM_RK3399))
    assert [zone.kind for zone in health.zones] == ["cpu-thermal", "gpu-thermal", "battery"]


def test_only_what_the_board_s_description_names_is_asked(write: Write) -> None:
    assert [t.source for t in read_health(sources=["cooling"], root=write(_WARM_RK3399)).throttling] == ["cooling"]
    assert not read_health(sources=[], root=write(_WARM_RK3399)).is_throttled


@pytest.mark.parametrize("place", ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware", "soc:firmware"])
def test_a_raspberry_pi_tells_now_from_before(write: Write, place: str) -> None:
    root = write({f"sys/devices/platform/{place}/get_throttled": "80005\n"})
    health = read_health(root=root)
    assert health.throttling == [
        Throttle("raspberrypi", "the voltage is too low"),
        Throttle("raspberrypi", "the processor is throttled"),
        Throttle("raspberrypi", "the soft temperature limit is reached", now=False),
    ]
    assert health.is_throttled
    write({f"sys/devices/platform/{place}/get_throttled": "80000\n"})
    assert not read_health(root=root).is_throttled


@pytest.mark.parametrize(("alarm", "throttled"), [("1\n", True), ("0\n", False)])
def test_a_raspberry_pi_whose_kernel_tells_of_the_voltage_alone(write: Write, alarm: str, throttled: bool) -> None:
    hwmon = "sys/class/hwmon/hwmon1"
    root = write({f"{hwmon}/name": "rpi_volt\n", f"{hwmon}/in0_lcrit_alarm": alarm})
    assert read_health(root=root).is_throttled is throttled


def test_what_is_not_there_or_makes_no_sense_is_left_out(write: Write) -> None:
    root = write({
        f"{_ZONE}0/type": "cpu-thermal\n",
        f"{_ZONE}1/type": "gpu-thermal\n", f"{_ZONE}1/temp": "warm\n",
        f"{_CPU}{_POLICY}0/scaling_cur_freq": "408000\n",
        f"{_COOLER}0/type": "thermal-cpufreq-0\n", f"{_COOLER}0/cur_state": "\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "?\n",
    })
    health = read_health(root=root)
    assert (health.zones, health.clocks, health.throttling, health.hottest_c) == ([], [], [], None)


def test_a_machine_without_sys(tmp_path: Path) -> None:
    health = read_health(root=tmp_path)
    assert (health.zones, health.clocks, health.throttling) == ([], [], [])


def _cpuinfo(number: int, part: str, features: str = "fp asimd evtstrm crc32 cpuid") -> str:
    return (
        f"processor\t: {number}\nBogoMIPS\t: 48.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 4\n\n"
    )


def test_an_arm_machine(write: Write) -> None:
    root = write({
        "proc/cpuinfo": "".join(_cpuinfo(i, "0xd08" if i > 3 else "0xd03") for i in range(6)),
        "proc/meminfo": "MemTotal:        3905084 kB\nMemFree: 1 kB\n",
        "proc/device-tree/model": "FriendlyElec NanoPC-T4\0",
        f"{_CPU}cpu4/cpufreq/cpuinfo_max_freq": "1800000\n", f"{_CPU}cpu5/cpufreq/cpuinfo_max_freq": "1800000\n",
        **{f"{_CPU}cpu{i}/cpu_capacity": "381\n" for i in range(4)},
        **{name: text for name, text in _WARM_RK3399.items() if name.startswith(_ZONE)},
    })
    found = machine(root)
    assert found.model == "FriendlyElec NanoPC-T4"
    assert found.memory_mb == 3813
    assert [(c.core, c.cpus, c.mhz, c.capacity, c.isa) for c in found.clusters] == [
        ("cortex-a53", [0, 1, 2, 3], 0, 381, "armv8.0-a"), ("cortex-a72", [4, 5], 1800, 1024, "armv8.0-a"),
    ]
    assert found.clusters[0].midr == Midr(part=0xD03, variant=0, revision=4)
    assert found.thermal_zones == ["battery", "cpu-thermal", "gpu-thermal"]


@pytest.mark.parametrize(
    ("features", "isa"),
    [
        ("fp asimd", "armv8.0-a"),
        ("fp asimd atomics", "armv8.1-a"),
        ("fp asimd atomics fphp asimdhp lrcpc dcpop asimddp", "armv8.2-a"),
        ("fp asimd atomics dcpop fcma", "armv8.3-a"),
        ("fp asimd atomics dcpop fcma flagm", "armv8.4-a"),
    ],
)
def test_the_architecture_from_the_features(write: Write, features: str, isa: str) -> None:
    (cluster,) = machine(write({"proc/cpuinfo": _cpuinfo(0, "0xd0b", features)})).clusters
    assert cluster.isa == isa


def test_a_core_that_nobody_knows_and_a_kernel_that_says_nothing(write: Write, tmp_path: Path) -> None:
    (silent,) = machine(tmp_path).clusters
    assert (silent.core, silent.cpus, silent.midr) == ("unknown", [0], None)
    (strange,) = machine(write({"proc/cpuinfo": _cpuinfo(0, "0xfff")})).clusters
    assert strange.core == "implementer 0x41 part 0xfff"
