"""What others have published about a board: times of ncnn's benchmark networks, one TOML a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edgeface.errors import DeviceError, OptionError

Positive = Annotated[float, Meta(gt=0)]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one figure of each network was taken: ``core`` as LLVM names it, its clock in MHz, and the threads.

    ``accepted``: the mean error up to which an estimate for it is relied on; None where none is calibrated.
    """

    core: str
    mhz: Positive
    threads: Annotated[int, Meta(ge=1)]
    accepted: Positive | None = None


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A board's table; ``networks`` has by ncnn's name a time in ms for each of ``columns``, in their order.

    ``like``: boards with cores of the same kind, whose figures stand in where this board has none.
    """

    source: str
    machine: str
    columns: list[Column]
    networks: dict[str, list[Positive]]
    like: list[str] = []

    def times_ms(self, column: Column) -> dict[str, float]:
        """The times of one of ``columns`` by network."""
        index = self.columns.index(column)
        return {name: row[index] for name, row in self.networks.items()}

    def single(self, core: str) -> Column | None:
        """The column of one thread on ``core``; None when there is none."""
        return next((column for column in self.columns if (column.core, column.threads) == (core, 1)), None)


def directory() -> Path:
    """Where the tables that come with the package are."""
    return Path(__file__).with_suffix("")


def boards() -> list[str]:
    """The boards that have a table."""
    return sorted(path.stem for path in directory().glob("*.toml"))


def published(board: str) -> Published:
    """The table of that board; raises OptionError with the choices, DeviceError for a table that is wrong."""
    if board not in boards():
        raise OptionError(
            f"no published times of {board!r} to calibrate on: they are known for {', '.join(boards()) or 'no board'}"
        )
    path = directory() / f"{board}.toml"
    try:
        table = msgspec.toml.decode(path.read_bytes(), type=Published)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}: install edgeface again") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path}: {error}: install edgeface again") from None
    ragged = next((name for name, row in table.networks.items() if len(row) != len(table.columns)), None)
    if ragged is not None:
        raise DeviceError(f"{path}: {ragged} has not a time for each column: install edgeface again")
    return table
