"""The files of a report: for programs, for people, and a picture."""

from __future__ import annotations

from pathlib import Path

from edgeface.atomic import refused, write_bytes

from .plots import plot_layers
from .report import Report

TABLE = "layers.md"
RECORD = "layers.json"


def write_report(report: Report, directory: Path) -> None:
    """Write layers.json, layers.md and layers.png into ``directory``; raises OutputError and MissingExtraError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(directory, error) from None
    write_bytes(directory / RECORD, report.to_json())
    write_bytes(directory / TABLE, report.to_text().encode())
    plot_layers(report, directory)
