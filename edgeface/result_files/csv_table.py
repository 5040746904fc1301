"""A CSV table with a row a face, for pandas, spreadsheets and databases."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from edgeface.atomic import refused, replacing
from edgeface.result_files.picture import DetectedPicture
from edgeface.tables import columns


class CsvTable:
    """Made by ``csv_table``. Columns: image, width, height, frame and time_s (empty for pictures), face (from 0), those
    of ``edgeface.tables.columns``, and embedding_0 and so on; a picture without faces has no row."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self._path = path
        self._stream = stream
        self._rows: csv.DictWriter[str] | None = None
        self._names: list[str] = []

    def write(self, picture: DetectedPicture) -> None:
        """A row a face. Raises OutputError."""
        found: dict[str, list[Any]] = {
            "image": [picture.source_name] * len(picture.seen),
            "width": [picture.width] * len(picture.seen),
            "height": [picture.height] * len(picture.seen),
            "frame": [picture.frame] * len(picture.seen),
            "time_s": [None if picture.time_s is None else round(picture.time_s, 3)] * len(picture.seen),
            "face": list(range(len(picture.seen))),
            **columns(picture.seen),
        }
        if picture.embeddings is not None:
            found |= {f"embedding_{i}": column.tolist() for i, column in enumerate(picture.embeddings.T)}
        self._names = self._names or list(found)
        if not len(picture.seen):
            return
        try:
            if self._rows is None:
                # Only now: how long embeddings are is known from the first face.
                self._names = list(found)
                self._rows = self._headed()
            for values in zip(*found.values(), strict=True):
                self._rows.writerow({
                    name: round(value, 6) if isinstance(value, float) else value
                    for name, value in zip(found, values, strict=True)
                })
        except OSError as error:
            raise refused(self._path, error) from None

    def finish(self) -> None:
        """The header, where there was no face, and everything to the disk. Raises OutputError."""
        try:
            if self._rows is None:
                self._headed()
            self._stream.close()
        except OSError as error:
            raise refused(self._path, error) from None

    def _headed(self) -> csv.DictWriter[str]:
        rows = csv.DictWriter(self._stream, self._names, restval="", lineterminator="\n")
        rows.writeheader()
        return rows


@contextmanager
def csv_table(path: Path) -> Iterator[CsvTable]:
    """The table at ``path``, UTF-8, which appears when the block ends without an error. Raises OutputError."""
    with replacing(path) as temporary:
        stream = temporary.open("w", newline="", encoding="utf-8", errors="replace")
        try:
            table = CsvTable(path, stream)
            yield table
            table.finish()
        finally:
            # What a full disk did not take would fail here once more.
            with suppress(OSError):
                stream.close()
