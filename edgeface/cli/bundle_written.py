"""What ``convert`` and ``import`` say of the bundle that they wrote, or did not write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeface.atomic import write_bytes
from edgeface.cli.results import next_step
from edgeface.cli.writing import note, say_lines
from edgeface.errors import OutputError

if TYPE_CHECKING:
    from edgeface.bundle import Bundle
    from edgeface.convert.parity import ParityReport


class Written(Protocol):
    """A bundle in ``directory``, how it compared with what it was made from, and what else there is to say of it."""

    @property
    def directory(self) -> Path: ...
    @property
    def bundle(self) -> Bundle: ...
    @property
    def report(self) -> ParityReport: ...
    @property
    def notes(self) -> list[str]: ...


def write_bundle(make: Callable[[], Written], json_path: Path | None, *, say_licence: bool) -> None:
    """``make`` a bundle, and say how it compared, also where it departed too far and was not written; ``json_path`` is
    given the report as JSON either way. Raises OutputError before anything is made where that cannot be written, and
    what ``make`` raises."""
    # Imported here, so that --help does not wait for them.
    from edgeface.convert import DepartedError

    if json_path is not None and not json_path.parent.is_dir():
        raise OutputError(f"{json_path.parent}: no such folder: make it, or choose another --json")
    try:
        done = make()
    except DepartedError as error:
        note(error.report.to_text())
        if json_path is not None:
            write_bytes(json_path, error.report.to_json())
        raise
    say_lines(done.report.to_text())
    for remark in done.notes:
        say_lines(remark)
    size_mb = sum(file.size_bytes for file in done.bundle.files) / 1e6
    say_lines(f"{done.directory}: {size_mb:.2f} MB{'' if done.bundle.verified else ', not verified'}")
    if say_licence:
        say_lines(f"licence: {done.bundle.licence}")
    say_lines(next_step("demo", "--refine" if done.bundle.is_refinement else "--model", str(done.directory)))
    if json_path is not None:
        write_bytes(json_path, done.report.to_json())
