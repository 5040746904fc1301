"""How warm a board is, how fast it may run, and whether it runs slower than it could: read from /sys.

What a board does not have is left out; nothing here raises. ``root`` is where /sys is looked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
SOURCES = ("cpufreq", "cooling", "raspberrypi")

# Of Raspberry Pi's get_throttled; the same 16 bits further up: it has happened since the start.
_PI_BITS = {
    0: "the voltage is too low",
    1: "the clock is capped",
    2: "the processor is throttled",
    3: "the soft temperature limit is reached",
}
_PI_SINCE_START = 16
# A fan is a cooling device as well, and one that runs makes nothing slower.
_SLOWING_COOLERS = ("cpufreq", "cpuidle", "devfreq", "processor", "powerclamp")


@dataclass(frozen=True)
class Zone:
    """One sensor: the kind that the kernel gives it ("cpu-thermal") and its temperature in degrees Celsius."""

    kind: str
    celsius: float


@dataclass(frozen=True)
class Clock:
    """Processors that share a clock: what it is now, what it may be at most now, and what the hardware could; MHz."""

    cpus: list[int]
    mhz: int
    allowed_mhz: int
    max_mhz: int


@dataclass(frozen=True)
class Throttle:
    """Something that makes the board slower than it could be, in words; not ``now``: at some time since its start."""

    source: str
    what: str
    now: bool = True


@dataclass(frozen=True)
class Health:
    """One look at a board."""

    zones: list[Zone]
    clocks: list[Clock]
    throttling: list[Throttle]

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature in degrees Celsius; None where no sensor is."""
        return max((zone.celsius for zone in self.zones), default=None)

    @property
    def is_throttled(self) -> bool:
        """Whether it runs slower now than it could."""
        return any(throttle.now for throttle in self.throttling)


def read_health(
    zones: Collection[str] = (), sources: Collection[str] = SOURCES, *, root: Path = ROOT
) -> Health:
    """Temperatures of ``zones`` by kind (all where it is empty, or where the board has none of them), clocks, and what
    the ``sources`` of throttling say."""
    found = list(thermal_zones(root))
    wanted = [zone for zone in found if zone.kind in zones]
    clocks = list(_clocks(root))
    throttling: list[Throttle] = []
    if "cpufreq" in sources:
        throttling += _capped(clocks)
    if "cooling" in sources:
        throttling += _cooling(root)
    if "raspberrypi" in sources:
        throttling += _raspberry_pi(root)
    return Health(wanted or found, clocks, throttling)


def thermal_zones(root: Path = ROOT) -> Iterator[Zone]:
    """Every sensor that gives a temperature."""
    for directory in _numbered(root / "sys/class/thermal", "thermal_zone"):
        kind, millidegrees = read_text(directory / "type"), read_number(directory / "temp")
        if kind and millidegrees is not None:
            yield Zone(kind.strip(), millidegrees / 1000)


def read_text(path: Path) -> str | None:
    """A small file's text, or None where it cannot be read: a sensor that is off answers with an error."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def read_number(path: Path, base: int = 10) -> int | None:
    """The whole number that is all of a file, or None."""
    try:
        return int(read_text(path) or "", base)
    except ValueError:
        return None


def _numbered(directory: Path, prefix: str) -> list[Path]:
    """``prefix0``, ``prefix1`` and so on, in the order of their numbers."""
    found = [path for path in directory.glob(f"{prefix}*") if path.name[len(prefix) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(prefix) :]))


def _clocks(root: Path) -> Iterator[Clock]:
    cpu = root / "sys/devices/system/cpu"
    policies = _numbered(cpu / "cpufreq", "policy") or [one / "cpufreq" for one in _numbered(cpu, "cpu")]
    for policy in policies:
        most = read_number(policy / "cpuinfo_max_freq")
        if most is None:
            continue
        related = (read_text(policy / "related_cpus") or "").split()
        cpus = [int(number) for number in related if number.isdigit()]
        alone = "".join(c for c in (policy if policy.name != "cpufreq" else policy.parent).name if c.isdigit())
        allowed = read_number(policy / "scaling_max_freq") or most
        now = read_number(policy / "scaling_cur_freq") or allowed
        yield Clock(cpus or [int(alone)], now // 1000, allowed // 1000, most // 1000)


def _capped(clocks: list[Clock]) -> Iterator[Throttle]:
    for clock in clocks:
        if clock.allowed_mhz < clock.max_mhz:
            cpus = ", ".join(map(str, clock.cpus))
            what = f"CPU {cpus} may run at {clock.allowed_mhz} MHz at most, of {clock.max_mhz}"
            yield Throttle("cpufreq", what)


def _cooling(root: Path) -> Iterator[Throttle]:
    for device in _numbered(root / "sys/class/thermal", "cooling_device"):
        kind, state = (read_text(device / "type") or "").strip(), read_number(device / "cur_state")
        if state and any(word in kind.lower() for word in _SLOWING_COOLERS):
            yield Throttle("cooling", f"{kind} is at step {state} of {read_number(device / 'max_state') or '?'}")


def _raspberry_pi(root: Path) -> Iterator[Throttle]:
    platform = root / "sys/devices/platform"
    # Where it is depends on the model and the kernel: soc/soc:firmware on a Pi 4.
    for path in (*platform.glob("soc*/soc*firmware/get_throttled"), *platform.glob("soc*firmware/get_throttled")):
        bits = read_number(path, 16)
        if bits is not None:
            for bit, what in _PI_BITS.items():
                if bits >> bit & 1:
                    yield Throttle("raspberrypi", what)
                elif bits >> (bit + _PI_SINCE_START) & 1:
                    yield Throttle("raspberrypi", what, now=False)
            return
    # Kernels without that file still tell of the voltage.
    for device in _numbered(root / "sys/class/hwmon", "hwmon"):
        is_pi = (read_text(device / "name") or "").strip() == "rpi_volt"
        if is_pi and read_number(device / "in0_lcrit_alarm"):
            yield Throttle("raspberrypi", _PI_BITS[0])
