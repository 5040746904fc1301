"""``edgeface bench``: bundles timed side by side on this machine, in one table."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeface.cli.results import say
from edgeface.errors import InputError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from edgeface.runtime.benchmark import Measured, Pictures, Report

# All are held in memory, so that no file is read between two runs that are compared.
MAX_PICTURES = 16
_FRAME = re.compile(r"(\d{1,5})(?:[xX](\d{1,5}))?")


def _size(_context: click.Context, _option: click.Parameter, value: str) -> int | tuple[int, int]:
    found = _FRAME.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size: write 640, or 640x480")
    width, height = found.groups()
    return int(width) if height is None else (int(width), int(height))


@click.command("bench", short_help="Time bundles side by side.")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--size", "size_px", callback=_size, default="640x480", show_default=True, metavar="N | WxH",
              help="Input size in pixels: the longest side, or a frame that every picture is fitted into.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1),
              help="Threads of each engine and of the resize.")
@click.option("--rounds", default=50, show_default=True, type=click.IntRange(min=1),
              help="Rounds to measure; each runs every BUNDLE once.")
@click.option("--pictures", "folder", metavar="DIR",
              help=f"Folder of pictures, or a pattern; one a round is used, at most {MAX_PICTURES}, spread evenly.  "
              "[default: scikit-image's astronaut, or a drawn scene where that is not installed]")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the report here as well, as JSON with more quantiles.")
def command(
    bundles: tuple[str, ...],
    size_px: int | tuple[int, int],
    threads: int,
    rounds: int,
    folder: str | None,
    json_path: Path | None,
) -> None:
    """Time each BUNDLE, a name, a bundle's directory or a checkpoint (.pt), from picture to faces on this machine.

    \b
    edgeface bench mos_s-fp16-ncnn my/mos_s-int8-ncnn edgeface/weights/mos_s.pt

    Several are interleaved: each round runs every one once on the same picture, in an order that is shuffled with a
    fixed seed. A few rounds of warm-up come first; after them no run is left out. The same bundle given twice shows how
    much the machine alone makes of a difference. With more than one thread an engine's idle threads may spin into the
    next one's time.
    """
    # Imported here, so that --help does not wait for them.
    from edgeface.atomic import write_bytes
    from edgeface.runtime.benchmark import WARM_UP_ROUNDS, benchmark, open_subject

    if json_path is not None and not json_path.parent.is_dir():
        raise OutputError(f"{json_path.parent}: no such folder: make it, or choose another --json")
    subjects = [open_subject(name, threads=threads, size_px=size_px) for name in bundles]
    pictures = choose_pictures(folder, min(rounds, MAX_PICTURES))
    if sys.stderr.isatty():
        # Not a bar: it would be redrawn during the runs, by a thread of its own.
        click.echo(f"{len(subjects)} bundles, {WARM_UP_ROUNDS} + {rounds} rounds ...", err=True)
    report = benchmark(subjects, pictures, threads=threads, size_px=size_px, rounds=rounds)
    for line in text_lines(report):
        say(line)
    if json_path is not None:
        write_bytes(json_path, report.to_json())


def choose_pictures(source: str | None, limit: int) -> Pictures:
    """At most ``limit`` pictures of a folder or pattern, spread evenly; without one, what is at hand.

    Raises InputError for a source without pictures, and for a picture that cannot be read.
    """
    from edgeface.cli.demo import photograph
    from edgeface.cli.sources import PICTURE_SUFFIXES, expand
    from edgeface.images import read_image
    from edgeface.runtime.benchmark import Pictures, synthetic_scene

    if source is None:
        try:
            return Pictures("scikit-image's astronaut", [photograph()])
        except MissingExtraError:
            return Pictures("a drawn scene without faces", [synthetic_scene()])
    found = [path for path in expand(source) if path.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        raise InputError(f"{source}: no pictures in it: give another folder")
    count = min(len(found), limit)
    chosen = [found[i * len(found) // count] for i in range(count)]
    return Pictures(f"{count} of {len(found)} pictures, {source}", [read_image(path) for path in chosen])


def text_lines(report: Report) -> Iterator[str]:
    """The report as lines of a table; every time is in ms."""
    size = report.size_px if isinstance(report.size_px, int) else "{} x {}".format(*report.size_px)
    side = "longest side " if isinstance(report.size_px, int) else ""
    yield (
        f"Time on this host: {report.cpu}, {_count(report.threads, 'thread')}, "
        f"{_count(report.processors, 'processor')} at hand, load {report.load_1min:.2f} before"
    )
    yield f"Input {side}{size} px; {report.pictures}"
    yield (
        f"{_count(report.rounds, 'round')}, interleaved, after {report.warm_up_rounds} of warm-up; "
        "every run counted; ms"
    )
    yield ""
    yield from _table([
        ["", "", "", "", "NETWORK", "", "", "PREP.", "DECODE", "TOTAL", "", "", ""],
        ["BUNDLE", "ENGINE", "PRECISION", "MB", "p50", "p95", "p99", "p50", "p50", "p50", "p95", "p99", "FACES"],
        *(_row(measured, _label(measured, report.bundles)) for measured in report.bundles),
    ])
    yield from _notes(report)


def _label(measured: Measured, among: Sequence[Measured]) -> str:
    """Its name, unless another has that name as well and was asked for in other words."""
    same = {other.given for other in among if other.name == measured.name}
    return measured.name if len(same) == 1 else measured.given


def _row(measured: Measured, label: str) -> list[str]:
    network, total = measured.network_ms, measured.total_ms
    times_ms = (
        network.p50, network.p95, network.p99, measured.preprocess_ms.p50, measured.decode_ms.p50,
        total.p50, total.p95, total.p99,
    )
    return [
        label, measured.engine, measured.precision, f"{measured.size_bytes / 1e6:.2f}",
        *(f"{time_ms:.2f}" for time_ms in times_ms), str(measured.faces),
    ]


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Words to the left, figures to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _notes(report: Report) -> Iterator[str]:
    """What a reader of the table must know to read it right."""
    if any(measured.engine == "torch" and measured.precision == "int8" for measured in report.bundles):
        yield "The engine torch computes int8 in float32 and rounds: its time says nothing about int8."
    if report.load_1min + report.threads > report.processors:
        yield "This machine was busy with other work: alone it may be faster, and the tails may be shorter."
    if not any(measured.faces for measured in report.bundles):
        yield "No face was found: nets that run on faces alone, such as head pose, have no part in these times."


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
