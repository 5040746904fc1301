"""A calibration: what turns the cycles of a model of a core into milliseconds, and how far that is off.

Those that come with the package are ``calibration/BOARD.json``, written by ``edgeface bench --calibrate BOARD --json``.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeface.errors import DeviceError

_AGAIN = "make it anew with edgeface bench --calibrate"


class NetworkFit(msgspec.Struct, frozen=True):
    """A network on one core: ``cycles`` by the model of the core, and times of one thread in ms.

    ``left_out_ms`` is the estimate by a fit to all the other networks.
    """

    name: str
    macs: int
    cycles: float
    published_ms: float
    left_out_ms: float

    @property
    def error(self) -> float:
        """Of the estimate, without sign lost: 0.1 is 10 % more than what was published."""
        return self.left_out_ms / self.published_ms - 1

    @property
    def is_int8(self) -> bool:
        """Whether its weights and activations are integers; ncnn's names say so."""
        return self.name.endswith("_int8")


class KindError(msgspec.Struct, frozen=True):
    """How far estimates of so many ``networks`` are off on average, and ``bias``, with the sign: below 0 the estimates
    are too fast."""

    networks: int
    mean: float
    bias: float


class CoreFit(msgspec.Struct, frozen=True):
    """One kind of core: time is ``factor`` x cycles / clock, where the published clock is ``mhz``.

    ``accepted`` is the mean error up to which estimates are relied on. ``others``: the mean errors, in the same way, of
    models that were tried beside the one factor, by their names. ``board_mhz``: the clock that estimates are for, where
    the published times are those of another board, ``fitted_on``.
    """

    core: str
    mhz: float
    factor: float
    accepted: float
    networks: list[NetworkFit]
    others: dict[str, float]
    board_mhz: float | None = None
    fitted_on: str | None = None

    @property
    def clock_mhz(self) -> float:
        """The clock that estimates are for."""
        return self.board_mhz or self.mhz

    @property
    def mean_error(self) -> float:
        """The mean of the errors' amounts."""
        return sum(abs(network.error) for network in self.networks) / len(self.networks)

    @property
    def largest_error(self) -> float:
        """The largest of the errors' amounts."""
        return max(abs(network.error) for network in self.networks)

    def kind_error(self, *, is_int8: bool) -> KindError | None:
        """That of the networks in int8 alone, or of the others; None where there are none."""
        errors = [network.error for network in self.networks if network.is_int8 == is_int8]
        if not errors:
            return None
        return KindError(len(errors), sum(map(abs, errors)) / len(errors), sum(errors) / len(errors))


class ThreadsFit(msgspec.Struct, frozen=True):
    """How many times faster several threads are than one, by the published times of ``networks`` networks.

    ``mean_error`` is that of a time which is made of one thread's published time and of the others' ``speedup``.
    ``boards``: where those times were taken, several threads' first, where it was not on this board alone.
    ``interpolated_from``: so many threads' speedup is what is known, error and all, and this one follows from it by
    Amdahl's law; None where nothing had to be.
    """

    core: str
    threads: int
    speedup: float
    mean_error: float
    networks: int
    boards: list[str] = []
    interpolated_from: int | None = None


class OwnCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a board's description keeps of networks that were timed on it: the day, YYYY-MM-DD; of how many ``runs``
    each time is the median; and the rest as of ``Calibration``, where ``published_ms`` are those times."""

    measured: str
    runs: int
    versions: dict[str, str]
    cores: list[CoreFit]
    threads: list[ThreadsFit] = []

    def scalars(self) -> dict[str, object]:
        """What is no table."""
        return {"measured": self.measured, "runs": self.runs, "versions": self.versions}


class Calibration(msgspec.Struct, frozen=True, omit_defaults=True):
    """A board's. ``versions``: of what counted and costed, by name ("ncnn", "qemu", "llvm"). ``own``: where it rests on
    times that were measured on the board itself."""

    board: str
    machine: str
    source: str
    versions: dict[str, str]
    cores: list[CoreFit]
    threads: list[ThreadsFit]
    own: OwnCalibration | None = None

    def core(self, name: str) -> CoreFit:
        """The fit of that core; raises DeviceError with the choices."""
        for fit in self.cores:
            if fit.core == name:
                return fit
        known = ", ".join(fit.core for fit in self.cores)
        raise DeviceError(f"estimates for {self.board} are calibrated on {known}, not on {name}: choose one of them")

    def milliseconds(self, core: str, cycles: float, *, threads: int = 1, mhz: float | None = None) -> float:
        """The estimated time of so many cycles of the model, at the board's clock or at ``mhz``.

        Raises DeviceError for a core or a number of threads that nothing was published for.
        """
        fit = self.core(core)
        return fit.factor * cycles / (1000 * (mhz or fit.clock_mhz)) / self.speedup(core, threads)

    def speedup(self, core: str, threads: int) -> float:
        """How many times faster ``threads`` threads are than one; raises DeviceError where that is not known."""
        if threads == 1:
            return 1.0
        known = {fit.threads: fit.speedup for fit in self.threads if fit.core == core}
        if threads not in known:
            choices = ", ".join(str(number) for number in sorted({1, *known}))
            raise DeviceError(f"no estimate of {threads} threads on {core}, only of {choices}: choose one of them")
        return known[threads]

    def missed(self) -> list[str]:
        """What is wrong with it: a part of a sentence for each core whose mean error is more than is accepted."""
        return [
            f"{fit.core} is off by {100 * fit.mean_error:.1f} % on average, more than {100 * fit.accepted:.0f} %"
            for fit in self.cores
            if fit.mean_error > fit.accepted
        ]

    def to_json(self) -> bytes:
        """The content of its file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def directory() -> Path:
    """Where the calibrations that come with the package are."""
    return Path(__file__).with_suffix("")


def boards() -> list[str]:
    """The boards that a calibration comes with the package of."""
    return sorted(path.stem for path in directory().glob("*.json"))


def load_calibration(board: str) -> Calibration:
    """The calibration of that board that came with the package; raises DeviceError when there is none."""
    path = directory() / f"{board}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        known = ", ".join(boards())
        raise DeviceError(f"no calibration of {board}, so no estimate: there is one of {known or 'no board'}") from None
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}: install edgeface again") from None
    except msgspec.DecodeError as error:
        raise DeviceError(f"{path}: {error}: {_AGAIN}") from None


def of_own(board: str, machine: str, own: OwnCalibration) -> Calibration:
    """The calibration of a board that was timed itself."""
    source = f"{board} itself, {own.measured}, the median of {own.runs} runs"
    return Calibration(board, machine, source, own.versions, own.cores, own.threads, own)
