"""The options of ``edgeface detect`` that say what else is written of the faces, and whether they can work together."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgeface.atomic import make_folder
from edgeface.cli.results import STDOUT
from edgeface.errors import OptionError, OutputError
from edgeface.regular_files import real_path


@dataclass(frozen=True)
class ResultTargets:
    """Where results go; None: nowhere. ``csv`` and ``coco`` are files, the others folders; ``crop_margin`` is added to
    every side of a crop, as a share of the box; ``embed`` is MODULE:FUNCTION."""

    csv: Path | None = None
    coco: Path | None = None
    yolo: Path | None = None
    voc: Path | None = None
    crops: Path | None = None
    crop_margin: float | None = None
    aligned: Path | None = None
    embed: str | None = None

    def files(self) -> dict[str, Path]:
        """The files that are asked for, by option."""
        given = {"--csv": self.csv, "--coco": self.coco}
        return {option: path for option, path in given.items() if path is not None}

    def folders(self) -> dict[str, Path]:
        """The folders that are asked for, by option."""
        given = {"--yolo": self.yolo, "--voc": self.voc, "--crops": self.crops, "--aligned": self.aligned}
        return {option: path for option, path in given.items() if path is not None}

    def check(self, json: str | None, out: Path | None, sources: frozenset[Path]) -> None:
        """Raises OptionError for what cannot work beside the other options and the sources (real paths)."""
        if self.embed is not None and json is None and self.csv is None:
            raise OptionError("--embed gives every face numbers: say where they go, with --json or --csv")
        if self.crop_margin is not None and self.crops is None:
            raise OptionError("--crop-margin is of --crops DIR: add it, or drop the margin")
        json_file = {} if json in (None, STDOUT) else {"--json": Path(str(json))}
        files = json_file | self.files()
        for option, path in files.items():
            if str(path) == STDOUT:
                raise OptionError(f"{option} {STDOUT}: only --json writes to standard output: give a file's name")
            if real_path(path) in sources:
                raise OptionError(f"{option} {path}: is one of the sources: choose another name")
        folders = ({} if out is None else {"--out": out}) | self.folders()
        for option, path in folders.items():
            if path.exists() and not path.is_dir():
                raise OptionError(f"{option} {path}: is a file: give a folder")
        _check_different(files | folders)


def _check_different(targets: Mapping[str, Path]) -> None:
    first: dict[Path, str] = {}
    for option, path in targets.items():
        other = first.setdefault(real_path(path), option)
        # What is there and is neither a file nor a folder, such as /dev/null, takes any number.
        if other != option and (path.is_dir() or path.is_file() or not path.exists()):
            raise OptionError(f"{other} and {option} are both {path}: give each a place of its own")


@contextmanager
def output_folder(folder: Path | None, option: str) -> Iterator[None]:
    """The output folder, made and known to be writable, so that one that is not is one error and not one a picture.

    If it was made here and nothing came to lie in it, it goes again. Raises OutputError.
    """
    if folder is None:
        yield
        return
    is_new = not folder.exists()
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written: no permission: choose another {option}")
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def _file(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.Path(path_type=Path), metavar="FILE", help=text)


def _folder(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.Path(path_type=Path), metavar="DIR", help=text)


_OPTIONS = (
    _file("--csv", "Write a table with a row a face."),
    _file("--coco", "Write COCO's JSON, with scores and keypoints."),
    _folder("--yolo", "Write YOLO's text files, one a picture."),
    _folder("--voc", "Write Pascal VOC's XML files, one a picture."),
    _folder("--crops", "Cut every face out."),
    click.option("--crop-margin", type=click.FloatRange(0, 10), metavar="SHARE",
                 help="Make crops larger on every side by this share of the box, such as 0.2.  [default: 0]"),
    _folder("--aligned", "Cut every face out upright, 112 x 112 pixels; on the law see docs/exports.md."),
    click.option("--embed", metavar="MODULE:FUNCTION",
                 help="Give every face numbers of your own: a Python function from upright faces to a row each; "
                 "see docs/exports.md, and what it says of the law."),
)


def result_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives a command ``results``, the ResultTargets of these options."""

    @functools.wraps(command)
    def packed(*arguments: Any, **given: Any) -> Any:
        names = ResultTargets.__dataclass_fields__
        results = ResultTargets(**{name: given.pop(name) for name in names})
        return command(*arguments, results=results, **given)

    for option in reversed(_OPTIONS):
        packed = option(packed)
    return packed
