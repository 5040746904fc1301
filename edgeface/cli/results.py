"""What ``edgeface detect`` says of a picture: one JSON line, or one line for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from edgeface.atomic import followed, is_special, open_special, refused, replacing
from edgeface.cli.writing import ResultsLostError, text_of, write_line
from edgeface.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeface.faces import Faces
    from edgeface.runtime.clock import Timing

STDOUT = "-"

# Of the JSON lines of detect; it changes when a reader of them has to.
SCHEMA = 1


def picture_record(path: Path, image: NDArray[np.uint8], faces: Faces, timing: Timing) -> dict[str, Any]:
    """The JSON line of one picture (H, W, 3): its pixels, degrees, milliseconds; null for what is not predicted."""
    from edgeface.faces import face_records

    return {
        "schema": SCHEMA,
        "image": text_of(str(path)),
        "width": image.shape[1],
        "height": image.shape[0],
        "faces": face_records(faces),
        "ms": {
            "preprocess": round(timing.preprocess_ms, 3),
            "network": round(timing.network_ms, 3),
            "decode": round(timing.decode_ms, 3),
            "total": round(timing.total_ms, 3),
        },
    }


def next_step(*arguments: str) -> str:
    """The line that a command ends with: the command of edgeface to go on with, as a shell takes it."""
    return f"next: {shlex.join(('edgeface', *arguments))}"


class JsonLines:
    """Takes records; made by json_lines(). Without a file they go to standard output."""

    def __init__(self, path: Path | None = None, stream: BinaryIO | None = None, *, at_once: bool = False) -> None:
        self._path = path
        self._stream = stream
        self._at_once = at_once

    def write(self, record: dict[str, Any]) -> None:
        """Append one line. Raises ResultsLostError; a closed pipe stays a BrokenPipeError."""
        line = msgspec.json.encode(record)
        if self._stream is None:
            write_line(line)
            return
        try:
            self._stream.write(line + b"\n")
            if self._at_once:
                self._stream.flush()
        except OSError as error:
            raise self._lost(error) from None

    def finish(self) -> None:
        """Bring every line to the disk. Raises ResultsLostError."""
        if self._stream is not None:
            try:
                self._stream.close()
            except OSError as error:
                raise self._lost(error) from None

    def abandon(self) -> None:
        """Let go of the file, whatever is in it."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()

    def _lost(self, error: OSError) -> ResultsLostError:
        return ResultsLostError(str(refused(self._path or STDOUT, error)))


@contextmanager
def json_lines(target: str | None) -> Iterator[JsonLines | None]:
    """JSON lines to standard output (``-``), to a file that appears when the block ends without an error, at once to
    what is there and is no file, such as a pipe, or nowhere.

    Raises OutputError when the file cannot be made, ResultsLostError when it cannot be finished.
    """
    if target is None or target == STDOUT:
        yield None if target is None else JsonLines()
        return
    path = Path(target)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: give a file's name to --json")
    place = followed(path)
    stream = nullcontext(place) if is_special(place) else replacing(place)
    with stream as writable:
        is_file = writable != place
        lines = JsonLines(path, writable.open("wb") if is_file else open_special(place), at_once=not is_file)
        try:
            yield lines
            lines.finish()
        finally:
            lines.abandon()
